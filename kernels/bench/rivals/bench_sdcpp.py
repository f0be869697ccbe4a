#!/usr/bin/env python3
"""stable-diffusion.cpp through its Python binding: seconds of a denoising step (CFG pair) and of a
VAE decode, of one picture with --reps steps.
usage: bench_sdcpp.py FILE.safetensors [--dtype f16|f32] [--flash] [--size 512] [--threads 2]
                                       [--reps 2]
Prints one JSON line for the steps and one for the decode. The prompt's encoding is not counted.
"""
import argparse
import ctypes
import importlib.metadata
import json
import re
import time

import stable_diffusion_cpp as sd

p = argparse.ArgumentParser()
p.add_argument("file")
p.add_argument("--dtype", default="f16", choices=["f16", "f32"])
p.add_argument("--flash", action="store_true", help="its flash attention, off by default")
p.add_argument("--size", type=int, default=512)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--reps", type=int, default=2)
a = p.parse_args()

log = []


@sd.sd_log_callback
def on_log(_level, text, _data):
    log.append(text.decode("utf-8", "replace"))


at = {}


def on_progress(step, steps, _seconds):
    if steps == a.reps:
        at[step] = time.perf_counter()


model = sd.StableDiffusion(model_path=a.file, wtype=a.dtype, n_threads=a.threads, verbose=False,
                           diffusion_flash_attn=a.flash)
sd.sd_set_log_callback(on_log, ctypes.c_void_p(0))
pictures = model.generate_image(prompt="red apple on a blue background", width=a.size,
                                height=a.size, sample_steps=a.reps, cfg_scale=7.5, seed=1,
                                sample_method="euler", progress_callback=on_progress)
text = "".join(log)
steps = [round(at[i + 1] - at[i], 4) for i in range(a.reps) if i in at and i + 1 in at]
if not steps:
    steps = [round(float(re.search(r"sampling completed, taking ([\d.]+)s", text)[1]) / a.reps, 4)]
decode = float(re.search(r"latent 1 decoded, taking ([\d.]+)s", text)[1])
assert pictures
name = "stable-diffusion.cpp (python %s) %s%s" % (
    importlib.metadata.version("stable-diffusion-cpp-python"), a.dtype,
    " flash" if a.flash else "")
print(json.dumps({"name": name, "what": "step", "seconds": steps}))
print(json.dumps({"name": name, "what": "decode", "seconds": [decode]}))
