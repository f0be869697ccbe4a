"""What ptxas said of every kernel: no spills, and no more registers than its budget.

check_ptxas.py BUDGETS LOG...   BUDGETS: lines "kernel registers" (the largest of its variants)"""
import os, re, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "kernels", "bench"))
from ptxas_log import demangled, entries, without_namespace


def kernel_of(name):
    """'void conv<bf16, 64>(int)' is conv."""
    return re.split(r"[<(]", without_namespace(name))[0].strip()


def main():
    budgets = {}
    for line in open(sys.argv[1], encoding="utf-8"):
        words = line.split("#")[0].split()
        if words:
            budgets[words[0]] = int(words[1])
    found = [e for log in sys.argv[2:] for e in entries(log)]
    names = demangled(sorted({e.mangled for e in found}))
    bad = 0
    most = {}
    for mangled, arch, registers, _, spilled in found:
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
