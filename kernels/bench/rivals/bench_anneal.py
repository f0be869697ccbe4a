#!/usr/bin/env python3
"""anneal, in the same form as its rivals: seconds of a denoising step (CFG pair) and of a decode.
usage: bench_anneal.py BINARY FOLDER [--dtype f32|bf16] [--what step|decode] [--size 512]
                                     [--threads 2] [--gemm auto|own|onednn] [--isa auto|...]
Prints one JSON line, with the machine's peaks measured in the same run.
"""
import argparse
import json
import os
import subprocess
import tempfile

p = argparse.ArgumentParser()
p.add_argument("binary")
p.add_argument("folder")
p.add_argument("--dtype", default="f32")
p.add_argument("--what", default="step", choices=["step", "decode"])
p.add_argument("--size", type=int, default=512)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--gemm", default="auto")
p.add_argument("--isa", default="auto")
a = p.parse_args()
with tempfile.TemporaryDirectory() as models:
    os.symlink(os.path.abspath(a.folder), f"{models}/sd15")
    out = subprocess.run(
        [a.binary, "bench", "--json", "--no-ops", "--models", models, "--dtype", a.dtype,
         "--threads", str(a.threads), "--gemm", a.gemm, "--isa", a.isa, "--size",
         f"{a.size}x{a.size}", "--stage", "denoise" if a.what == "step" else "decode",
         "--rows", "2", "--seconds", "0"], check=True, stdout=subprocess.PIPE).stdout
report = json.loads(out)
tick = report["ticks"][0]
name = f"anneal {report['version']} {a.dtype}"
name += "" if a.isa == "auto" else f" {a.isa}"
name += "" if a.gemm == "auto" else f" {a.gemm}"
print(json.dumps({"name": name, "what": a.what, "seconds": [tick["seconds"]],
                  "flops": tick["flops"], "peak_flops": report["peak_flops"],
                  "peak_bytes": report["peak_bytes"], "device": report["device"]}))
