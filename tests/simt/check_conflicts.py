"""No ldmatrix of ours meets a bank conflict, in whatever shape the kernels' suites launched it.

check_conflicts.py FOLDER   with the *.tsv that ANNEAL_SIMT=launches=FILE left there"""
import glob, os, sys


def main():
    files = sorted(glob.glob(os.path.join(sys.argv[1], "kernels_*_simt*.tsv")))
    if not files:
        print("SKIP kernels_bank_conflicts: none of the kernels' suites has run on the emulated GPU")
        return 77
    shapes = bad = 0
    for path in files:
        with open(path, encoding="utf-8") as f:
            next(f)
            for line in f:
                launches, _, _, _, conflicts, kernel = line.rstrip("\n").split("\t")
                shapes += 1
                if conflicts != "0":
                    bad += 1
                    print(f"FAIL {os.path.basename(path)}: {kernel}: {conflicts} bank conflicts in {launches} launches")
    print(f"{len(files)} suites, {shapes} kernels and shapes, {bad} with bank conflicts")
    return 1 if bad or not shapes else 0


if __name__ == "__main__":
    sys.exit(main())
