"""What ptxas said of every kernel: no spills, and no more registers than its budget.

check_ptxas.py BUDGETS LOG...   BUDGETS: lines "kernel registers" (the largest of its variants)"""
import re
import subprocess
import sys


def demangled(names):
    try:
        out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                             check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        out = names
    return dict(zip(names, out))


def kernel_of(name):
    """'void conv<bf16, 64>(int)' is conv."""
    name = re.sub(r"\(anonymous namespace\)::|^void ", "", name)
    return re.split(r"[<(]", name)[0].strip()


def entries(path):
    """(mangled name, architecture, registers, spilled bytes) of each kernel in a log."""
    name = arch = None
    spilled = 0
    for line in open(path, encoding="utf-8", errors="replace"):
        m = re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line)
        if m:
            name, arch = m.groups()
            spilled = 0
        m = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if m and name:
            spilled = int(m[1]) + int(m[2])
        m = re.search(r"Used (\d+) registers", line)
        if m and name:
            yield name, arch, int(m[1]), spilled
            name = None


def main():
    budgets = {}
    for line in open(sys.argv[1], encoding="utf-8"):
        words = line.split("#")[0].split()
        if words:
            budgets[words[0]] = int(words[1])
    found = [e for log in sys.argv[2:] for e in entries(log)]
    names = demangled(sorted({e[0] for e in found}))
    bad = 0
    most = {}
    for mangled, arch, registers, spilled in found:
        kernel = kernel_of(names[mangled])
        most[kernel] = max(most.get(kernel, 0), registers)
        if spilled:
            bad += 1
            print(f"FAIL {names[mangled]} on {arch}: {spilled} bytes spilled")
        if kernel not in budgets:
            continue
        if registers > budgets[kernel]:
            bad += 1
            print(f"FAIL {names[mangled]} on {arch}: {registers} registers, its budget is "
                  f"{budgets[kernel]}")
    for kernel in sorted(set(most) - set(budgets)):
        bad += 1
        print(f"FAIL {kernel} has no budget in {sys.argv[1]}; it takes {most[kernel]} registers")
    print(f"{len(found)} kernels and variants, {bad} complaints")
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main())
