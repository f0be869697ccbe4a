#!/usr/bin/env python3
"""PyTorch (diffusers): seconds of a denoising step (CFG pair) and of a VAE decode.
usage: bench_torch.py FOLDER [--dtype f32|bf16] [--layout nchw|nhwc] [--what step|decode]
                             [--size 512] [--threads 2] [--reps 2]
Prints one JSON line; the first, untimed run warms up.
"""
import argparse
import json
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

p = argparse.ArgumentParser()
p.add_argument("folder")
p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
p.add_argument("--layout", default="nchw", choices=["nchw", "nhwc"])
p.add_argument("--what", default="step", choices=["step", "decode"])
p.add_argument("--size", type=int, default=512)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--reps", type=int, default=2)
a = p.parse_args()
torch.set_num_threads(a.threads)
torch.set_grad_enabled(False)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[a.dtype]
edge = a.size // 8
cls, part = (UNet2DConditionModel, "unet") if a.what == "step" else (AutoencoderKL, "vae")
net = cls.from_pretrained(a.folder, subfolder=part, torch_dtype=dtype).eval()
x = torch.randn(2 if a.what == "step" else 1, 4, edge, edge, dtype=dtype)
if a.layout == "nhwc":
    net = net.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
context = torch.randn(2, 77, 768, dtype=dtype)
t = torch.tensor([500, 500])


def run():
    return net(x, t, context).sample if a.what == "step" else net.decode(x).sample


y = run()
assert torch.isfinite(y).all()
times = []
for _ in range(a.reps):
    start = time.perf_counter()
    run()
    times.append(round(time.perf_counter() - start, 4))
name = f"PyTorch {torch.__version__.split('+')[0]} {a.dtype}" + \
    (" channels_last" if a.layout == "nhwc" else " NCHW")
print(json.dumps({"name": name, "what": a.what, "seconds": times}))
