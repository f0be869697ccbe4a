#!/usr/bin/env python3
"""Single-file Stable Diffusion checkpoints from the golden folders, in the names of the original
training code (CompVis latent-diffusion, Stability generative-models).  No packages needed.

  single.py recipe NAME   tests/golden/single/NAME.recipe.json: how to assemble the file (the tests
                          do it, so that the weights are not committed twice)
  single.py file NAME [FOLDER]   the file itself, and its sidecar
NAME: sd1 sd2 sdxl lcm.  The direction is the opposite of weights/ldm.c on purpose: it is written
from the structure of LDM's modules, and the two must meet.

Each recipe also takes one variant seen on the hub: sd1 has position_ids, schedule buffers and an EMA
copy; lcm lacks the `text_model.` level and calls the VAE `vae.`; sdxl's text_projection is transposed.
"""
import json
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.dirname(HERE)
UNET = "model.diffusion_model."

# What shapes cannot tell and these tiny models have otherwise than the published ones.
TINY_TEXT = {"num_attention_heads": 4}
TINY_VAE = {"norm_num_groups": 8, "sample_size": 64}
SIDECAR = {
    "sd1": {"unet": {"attention_head_dim": 2, "norm_num_groups": 8, "sample_size": 8},
            "vae": TINY_VAE, "text_encoder": TINY_TEXT},
    "sd2": {"unet": {"attention_head_dim": [1, 2, 4], "norm_num_groups": 8, "sample_size": 8},
            "vae": TINY_VAE, "text_encoder": TINY_TEXT,
            "scheduler": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
            "tokenizer": {"pad_token": "<|endoftext|>"}},
    "sdxl": {"unet": {"attention_head_dim": [1, 2, 3], "norm_num_groups": 8, "sample_size": 8},
             "vae": TINY_VAE, "text_encoder": TINY_TEXT, "text_encoder_2": TINY_TEXT},
    "lcm": {"unet": {"attention_head_dim": 2, "norm_num_groups": 8, "sample_size": 8},
            "vae": TINY_VAE, "text_encoder": TINY_TEXT},
}


def read(path):
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        head = json.loads(f.read(n))
        data = f.read()
    head.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[slice(*v["data_offsets"])]) for k, v in head.items()}


def folder(name, part):
    d = os.path.join(GOLDEN, name, "model", part)
    for stem in ("model", "diffusion_pytorch_model"):
        p = os.path.join(d, stem + ".safetensors")
        if os.path.exists(p):
            return read(p)
    return {}


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
          "conv_shortcut": "skip_connection"}


def unet_names(config):
    """diffusers prefix -> LDM prefix, by walking the network as LDM builds it"""
    n = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "time_embedding.cond_proj": "time_embed.cond_proj",
         "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}

    def resnet(theirs, ldm):
        for a, b in RESNET.items():
            n[f"{theirs}.{a}"] = f"{ldm}.{b}"
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    block = 0
    for level in range(levels):
        for layer in range(layers):
            block += 1
            resnet(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{block}.0")
            n[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{block}.1"
        if level < levels - 1:
            block += 1
            n[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
    resnet("mid_block.resnets.0", "middle_block.0")
    n["mid_block.attentions.0"] = "middle_block.1"
    resnet("mid_block.resnets.1", "middle_block.2")
    block = -1
    for level in range(levels):
        attention = config["up_block_types"][level].startswith("CrossAttn")
        for layer in range(layers + 1):
            block += 1
            resnet(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{block}.0")
            n[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{block}.1"
        n[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{block}.{1 + attention}.conv"
    return n


def vae_names(config):
    n = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]

    def resnet(theirs, ldm):
        for a in ("norm1", "conv1", "norm2", "conv2"):
            n[f"{theirs}.{a}"] = f"{ldm}.{a}"
        n[f"{theirs}.conv_shortcut"] = f"{ldm}.nin_shortcut"
    for side, down, up in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        for a in ("conv_in", "conv_out"):
            n[f"{side}.{a}"] = f"{side}.{a}"
        n[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        for i in (0, 1):
            resnet(f"{side}.mid_block.resnets.{i}", f"{side}.mid.block_{i + 1}")
        for a, b in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                     ("to_out.0", "proj_out"), ("query", "q"), ("key", "k"), ("value", "v"),
                     ("proj_attn", "proj_out")):
            n[f"{side}.mid_block.attentions.0.{a}"] = f"{side}.mid.attn_1.{b}"
        for i in range(levels):
            at = i if side == "encoder" else levels - 1 - i
            for j in range(layers + (side == "decoder")):
                resnet(f"{side}.{down}_blocks.{i}.resnets.{j}", f"{side}.{down}.{at}.block.{j}")
            n[f"{side}.{down}_blocks.{i}.{up}rs.0.conv"] = f"{side}.{down}.{at}.{up}.conv"
    return n


def renamed(name, names):
    head = name
    while head:
        if head in names:
            return names[head] + name[len(head):]
        head = head.rpartition(".")[0]
    raise SystemExit(f"no LDM name for {name}")


class Recipe(list):
    """entries {name, dtype, shape, from: [[component, tensor]...], transpose} in file order"""

    def add(self, name, dtype, shape, source, **more):
        self.append(dict(name=name, dtype=dtype, shape=shape, **{"from": source}, **more))

    def unet(self, name):
        config = json.load(open(os.path.join(GOLDEN, name, "model/unet/config.json")))
        names = unet_names(config)
        for k, (dtype, shape, _) in folder(name, "unet").items():
            self.add(UNET + renamed(k, names), dtype, shape, [["unet", k]])

    def vae(self, name, prefix):
        config = json.load(open(os.path.join(GOLDEN, name, "model/vae/config.json")))
        names = vae_names(config)
        for k, (dtype, shape, _) in folder(name, "vae").items():
            if "attentions" in k and len(shape) == 2:
                shape = shape + [1, 1]  # LDM's attention is made of convolutions
            self.add(prefix + renamed(k, names), dtype, shape, [["vae", k]])

    def clip(self, name, prefix, strip):
        for k, (dtype, shape, _) in folder(name, "text_encoder").items():
            bare = k.removeprefix("text_model.")
            self.add(prefix + ("" if strip else "text_model.") + bare, dtype, shape,
                     [["text_encoder", k]])

    def openclip(self, name, part, prefix):
        flat = {k.removeprefix("text_model."): (k, v) for k, v in folder(name, part).items()}
        ends = {"embeddings.position_embedding.weight": "positional_embedding",
                "embeddings.token_embedding.weight": "token_embedding.weight",
                "final_layer_norm.weight": "ln_final.weight",
                "final_layer_norm.bias": "ln_final.bias"}
        inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
                 "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
        for k, (full, (dtype, shape, _)) in flat.items():
            if k in ends:
                self.add(prefix + ends[k], dtype, shape, [[part, full]])
            elif k == "text_projection.weight":
                self.add(prefix + "text_projection", dtype, shape[::-1], [[part, full]],
                         transpose=True)
            elif ".q_proj." in k:
                layer, end = k.split(".")[2], k.rpartition(".")[2]
                self.add(f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{end}", dtype,
                         [3 * shape[0]] + shape[1:],
                         [[part, full.replace("q_proj", f"{p}_proj")] for p in "qkv"])
            elif "k_proj" not in k and "v_proj" not in k:
                layer, rest = k.split(".", 3)[2:]
                self.add(f"{prefix}transformer.resblocks.{layer}." + renamed(rest, inner), dtype,
                         shape, [[part, full]])

    def junk(self, name, dtype, shape):
        """a tensor of zeros that readers must leave alone"""
        self.add(name, dtype, shape, [])


def recipe(name):
    r = Recipe()
    r.unet(name)
    r.vae(name, "vae." if name == "lcm" else "first_stage_model.")
    if name == "sd1":
        r.clip(name, "cond_stage_model.transformer.", False)
        r.junk("cond_stage_model.transformer.text_model.embeddings.position_ids", "I64", [1, 32])
        r.junk("betas", "F32", [1000])
        r.junk("model_ema.diffusion_modelinput_blocks00weight", "F32", [16, 4, 3, 3])
        r.junk("first_stage_model.loss.discriminator.main.0.bias", "F32", [3])
    if name == "sd2":
        r.openclip(name, "text_encoder", "cond_stage_model.model.")
        r.junk("cond_stage_model.model.logit_scale", "F32", [])
        r.junk("cond_stage_model.model.text_projection", "F32", [32, 32])
    if name == "sdxl":
        r.clip(name, "conditioner.embedders.0.transformer.", False)
        r.openclip(name, "text_encoder_2", "conditioner.embedders.1.model.")
    if name == "lcm":
        r.clip(name, "cond_stage_model.transformer.", True)
    return sorted(r, key=lambda e: e["name"])


def assemble(name, entries):
    parts = {}
    head, blobs, at = {}, [], 0
    size = {"F32": 4, "BF16": 2, "I64": 8}
    for e in entries:
        data = b""
        for part, k in e["from"]:
            parts.setdefault(part, folder(name, part))
            data += parts[part][k][2]
        count = 1
        for d in e["shape"]:
            count *= d
        unit = size[e["dtype"]]
        if not e["from"]:
            data = bytes(count * unit)
        if e.get("transpose"):
            rows, cols = e["shape"]
            data = b"".join(data[(c * rows + r) * unit:][:unit]
                            for r in range(rows) for c in range(cols))
        assert len(data) == count * unit, e
        head[e["name"]] = dict(dtype=e["dtype"], shape=e["shape"],
                               data_offsets=[at, at + len(data)])
        blobs.append(data)
        at += len(data)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


def main():
    what, name, *folder_out = sys.argv[1:]
    entries = recipe(name)
    out = folder_out[0] if folder_out else os.path.join(GOLDEN, "single")
    os.makedirs(out, exist_ok=True)
    if what == "recipe":
        with open(os.path.join(out, name + ".recipe.json"), "w") as f:
            f.write('{"sidecar": ' + json.dumps(SIDECAR[name]) + ',\n "tensors": [\n')
            f.write(",\n".join(json.dumps(e, separators=(",", ":")) for e in entries))
            f.write("\n]}\n")
    else:
        with open(os.path.join(out, name + ".safetensors"), "wb") as f:
            f.write(assemble(name, entries))
        with open(os.path.join(out, name + ".json"), "w") as f:
            json.dump(SIDECAR[name], f, indent=1)


if __name__ == "__main__":
    main()
