#!/usr/bin/env python3
"""OpenVINO, static shapes: seconds of a denoising step (CFG pair) and of a VAE decode.
usage: bench_openvino.py FOLDER [--dtype f32|bf16] [--what step|decode] [--size 512] [--threads 2]
                                [--reps 2] [--cache DIR]
The converted network is kept in the cache folder (FOLDER/openvino). Prints one JSON line; the
first, untimed run warms up. Where the machine has no bf16 instructions OpenVINO runs a bf16 request
in f32; the line names the precision that it says it uses.
"""
import argparse
import json
import os
import time

import numpy as np
import openvino as ov

p = argparse.ArgumentParser()
p.add_argument("folder")
p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
p.add_argument("--what", default="step", choices=["step", "decode"])
p.add_argument("--size", type=int, default=512)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--reps", type=int, default=2)
p.add_argument("--cache")
a = p.parse_args()
edge = a.size // 8
cache = a.cache or os.path.join(a.folder, "openvino")
path = os.path.join(cache, f"{a.what}-{a.size}.xml")


def convert():
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = UNet2DConditionModel.from_pretrained(a.folder, subfolder="unet",
                                                            torch_dtype=torch.float32)

        def forward(self, x, t, context):
            return self.net(x, t, context, return_dict=False)[0]

    class Decode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = AutoencoderKL.from_pretrained(a.folder, subfolder="vae",
                                                     torch_dtype=torch.float32)

        def forward(self, x):
            return self.net.decode(x, return_dict=False)[0]

    torch.set_grad_enabled(False)
    if a.what == "step":
        net = Step().eval()
        example = (torch.randn(2, 4, edge, edge), torch.tensor([500, 500]), torch.randn(2, 77, 768))
        shapes = [[2, 4, edge, edge], [2], [2, 77, 768]]
    else:
        net = Decode().eval()
        example = (torch.randn(1, 4, edge, edge),)
        shapes = [[1, 4, edge, edge]]
    model = ov.convert_model(net, example_input=example)
    model.reshape({port: ov.PartialShape(s) for port, s in zip(model.inputs, shapes)})
    os.makedirs(cache, exist_ok=True)
    ov.save_model(model, path, compress_to_fp16=False)


if not os.path.exists(path):
    convert()
core = ov.Core()
net = core.compile_model(path, "CPU", {
    "INFERENCE_NUM_THREADS": a.threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": {"f32": "f32", "bf16": "bf16"}[a.dtype]})
rng = np.random.default_rng(1)
inputs = [rng.standard_normal([2 if a.what == "step" else 1, 4, edge, edge], np.float32)]
if a.what == "step":
    inputs += [np.array([500, 500], np.int64), rng.standard_normal([2, 77, 768], np.float32)]
request = net.create_infer_request()
y = request.infer(inputs)
assert np.isfinite(y[0]).all()
times = []
for _ in range(a.reps):
    start = time.perf_counter()
    request.infer(inputs, share_inputs=True, share_outputs=True)
    times.append(round(time.perf_counter() - start, 4))
used = net.get_property("INFERENCE_PRECISION_HINT").get_type_name()
version = ov.__version__.split("-")[0]
print(json.dumps({"name": f"OpenVINO {version} {used} static", "what": a.what, "seconds": times}))
