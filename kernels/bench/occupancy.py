"""How full a GPU is while our kernels run: what the emulated GPU launched, met with what ptxas said.

    ANNEAL_SIMT=dry=1,memory=1024G,launches=/tmp/l.tsv build/anneal bench --roofline \\
        --made-up-weights -m kernels/bench/shapes/sd15 --rows 2
    python3 kernels/bench/occupancy.py [--arch sm_90a] /tmp/l.tsv build/cuda/*.log

A line for every kernel: its launches, threads of a block, registers of a thread, shared memory of a
block, how many blocks fit on a multiprocessor and what stops more, warps of the 64 that can be there
(the occupancy), launches of fewer blocks than the GPU has multiprocessors, and how full the last
round of blocks is on the average, weighed by blocks. --json prints it for machines.

Exit 1: a kernel that was launched is in no log, does not fit, or met bank conflicts."""
import argparse, collections, json, math, re, sys

from ptxas_log import demangled, entries, without_namespace

# NVIDIA's tuning guides: registers are given to a warp in pieces of 256, shared memory to a block in
# pieces of 128 bytes and 1 KB besides.
Gpu = collections.namedtuple("Gpu", "name registers shared warps blocks multiprocessors")
GPUS = {"sm_80": Gpu("A100", 65536, 164 << 10, 64, 32, 108),
        "sm_90a": Gpu("H100 or H200", 65536, 228 << 10, 64, 32, 132)}


def up(n, to):
    return (n + to - 1) // to * to


def fit(gpu, threads, registers, shared):
    """(blocks on a multiprocessor, what stops more)."""
    warps = up(threads, 32) // 32
    limits = {"warps": gpu.warps // warps,
              "registers": gpu.registers // (warps * up(registers * 32, 256)),
              "shared memory": gpu.shared // (up(shared, 128) + 1024),
              "blocks": gpu.blocks}
    why = min(limits, key=limits.get)
    return limits[why], why


def key(name):
    """A kernel as both compilers spell it: the template's arguments without blanks."""
    name = without_namespace(name)
    depth = 0
    for i, c in enumerate(name):  # the function's own parameters go
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            name = name[:i]
            break
    # gcc leaves out a template's default argument: here that of tile_shape, its last is its first
    return re.sub(r"<(\w+)((?:,\d+)+),\1>", r"<\1\2>", name.replace(" ", ""))


def read_launches(path):
    with open(path, encoding="utf-8") as f:
        fields = next(f).rstrip("\n").split("\t")
        for line in f:
            row = dict(zip(fields, line.rstrip("\n").split("\t")))
            yield {k: v if k == "kernel" else int(v) for k, v in row.items()}


def table(launches, logs, arch):
    """(rows of the table, complaints)."""
    gpu, said, rows, complaints = GPUS[arch], {}, {}, []
    found = [e for log in logs for e in entries(log)]
    names = demangled(sorted({e.mangled for e in found}))
    for e in found:  # sm_80's code runs on a later GPU that has none of its own
        if e.arch == arch or (e.arch == "sm_80" and key(names[e.mangled]) not in said):
            said[key(names[e.mangled])] = e
    for l in launches:
        e = said.get(key(l["kernel"]))
        if not e:
            complaints.append(f"{l['kernel']}: launched, but in no log of ptxas")
            continue
        shared = l["shared"] + e.shared
        blocks, why = fit(gpu, l["threads"], e.registers, shared)
        if not blocks:
            complaints.append(f"{l['kernel']}: {l['threads']} threads of {e.registers} registers and {shared} bytes do not fit")
            continue
        if l["conflicts"]:
            complaints.append(f"{l['kernel']}: {l['conflicts']} bank conflicts")
        r = rows.setdefault((key(l["kernel"]), l["threads"], blocks, why), dict(
            kernel=key(l["kernel"]), launches=0, threads=l["threads"], registers=e.registers, shared=shared,
            blocks=blocks, stopped_by=why, occupancy=blocks * up(l["threads"], 32) / 32 / gpu.warps,
            small=0, all_blocks=0, rounds=0, conflicts=0))
        r["shared"] = max(r["shared"], shared)
        r["launches"] += l["launches"]
        r["small"] += l["launches"] * (l["blocks"] < gpu.multiprocessors)
        r["all_blocks"] += l["launches"] * l["blocks"]
        at_once = blocks * gpu.multiprocessors
        r["rounds"] += l["launches"] * math.ceil(l["blocks"] / at_once) * at_once
        r["conflicts"] += l["conflicts"]
    for r in rows.values():
        r["full"] = r.pop("all_blocks") / r.pop("rounds")
    return sorted(rows.values(), key=lambda r: -r["launches"]), complaints


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--arch", choices=sorted(GPUS), default="sm_90a")
    p.add_argument("--json", action="store_true")
    p.add_argument("launches")
    p.add_argument("logs", nargs="+")
    a = p.parse_args()
    rows, complaints = table(read_launches(a.launches), a.logs, a.arch)
    if a.json:
        print(json.dumps(dict(arch=a.arch, gpu=GPUS[a.arch]._asdict(), kernels=rows, complaints=complaints)))
    else:
        print(f"{GPUS[a.arch].name}: {GPUS[a.arch].multiprocessors} multiprocessors")
        print(f"{'launches':>8} {'threads':>7} {'regs':>4} {'shared':>7} {'fit':>3} {'occupancy':>9} {'small':>6} {'full':>6}  stopped by     kernel")
        for r in rows:
            print(f"{r['launches']:8} {r['threads']:7} {r['registers']:4} {r['shared']:7} {r['blocks']:3} {100 * r['occupancy']:8.0f}% "
                  f"{r['small']:6} {100 * r['full']:5.0f}%  {r['stopped_by']:13}  {r['kernel']}")
    for c in complaints:
        print(f"FAIL {c}", file=sys.stderr)
    return 1 if complaints or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
