#!/usr/bin/env bash
# Proves the GPU backend on this machine, in one command of at most ten minutes:
#
#   tests/gpu/check.sh OUTDIR [--device cuda|simt] [--quick] [--minutes N] [--build DIR] [--stages A,B]
#
# builds (with CUDA for the device cuda), then runs the wrappers of gpu.cuh against the emulator, the
# kernels' suites, the goldens of models, engine and HTTP, batch invariance, compute-sanitizer and the
# bench. A stage that fails or takes too long does not stop the next. OUTDIR gets summary.txt,
# summary.json, logs.txt (what every stage printed), bench.json and gpu_wrappers.txt (what the hardware
# answered: see tests/gpu/wrappers.c); the table is printed too. Exit 0: nothing failed.
#
# The machine needs a C and C++ compiler, CMake, Python 3, and CUDA's toolkit for the device cuda. If
# tests/gpu/carry.sh has filled build-carry, the libraries come from there and need no -dev packages.
# On --device simt, where there is no GPU, it rehearses the same.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
exec env PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 python3 "$here/check.py" "$@"
