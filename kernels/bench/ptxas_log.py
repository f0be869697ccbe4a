"""What ptxas said of every kernel (nvcc -Xptxas=-v): read by occupancy.py and tests/simt/check_ptxas.py."""
import collections, re, subprocess

Entry = collections.namedtuple("Entry", "mangled arch registers shared spilled")


def demangled(names):
    """{mangled: as c++filt says it}; unchanged where there is no c++filt."""
    try:
        out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                             check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        out = names
    return dict(zip(names, out))


def entries(path):
    """Every kernel of a log; registers of a thread, bytes of shared memory that it always has."""
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
            shared = re.search(r"(\d+) bytes smem", line)
            yield Entry(name, arch, int(m[1]), int(shared[1]) if shared else 0, spilled)
            name = None


def without_namespace(name):
    return re.sub(r"\(anonymous namespace\)::|\{anonymous\}::|^void ", "", name)
