#!/usr/bin/env python3
"""A Stable Diffusion 1.5 of random weights, for timing: exactly the published shapes (UNet 860 M
parameters, VAE, CLIP ViT-L/14 text encoder), f16, as a diffusers folder and as one file in LDM's
names (what stable-diffusion.cpp reads).  Speed does not depend on the values as long as they stay
in range and are not denormal, so weights are scaled by their fan-in.

usage: make_sd15.py OUT     makes OUT/sd15/ and OUT/sd15.safetensors   (needs torch, diffusers)
"""
import json
import os
import sys

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../../..")
sys.path.insert(0, os.path.join(ROOT, "tests/golden/make"))
import single  # noqa: E402  (names of LDM)


def spread(model):
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.normal_(0, .1, generator=gen)
                if "norm" in name and name.endswith("weight"):
                    p.add_(1)
            elif "embed" in name:
                p.normal_(0, .3, generator=gen)
            else:
                p.normal_(0, p[0].numel() ** -.5, generator=gen)
    return model.half()


def tokenizer(folder):
    """CLIP's vocab.json follows from its merges"""
    os.makedirs(folder, exist_ok=True)
    lines = open(os.path.join(ROOT, "weights/clip/merges.txt"), encoding="utf-8").read().split("\n")
    merges = [l for l in lines[1:] if l.strip()][:49152 - 256 - 2]
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    chars = [chr(b) for b in bs]
    chars += [chr(256 + i) for i in range(256 - len(bs))]
    words = chars + [c + "</w>" for c in chars] + ["".join(m.split()) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == 49408, len(words)
    json.dump({w: i for i, w in enumerate(words)}, open(f"{folder}/vocab.json", "w"))
    open(f"{folder}/merges.txt", "w", encoding="utf-8").write("#version: 0.2\n" + "\n".join(merges) + "\n")
    json.dump({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
               "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
               "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "do_lower_case": True},
              open(f"{folder}/tokenizer_config.json", "w"))


def main():
    out = sys.argv[1]
    folder = os.path.join(out, "sd15")
    unet = spread(UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, cross_attention_dim=768,
        attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)))
    vae = spread(AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(128, 256, 512, 512),
        layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, sample_size=512, scaling_factor=.18215))
    text = spread(CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu",
        projection_dim=768, bos_token_id=49406, eos_token_id=49407, pad_token_id=1)))
    unet.save_pretrained(f"{folder}/unet")
    vae.save_pretrained(f"{folder}/vae")
    text.save_pretrained(f"{folder}/text_encoder")
    tokenizer(f"{folder}/tokenizer")
    PNDMScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear",
                  skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
                  ).save_pretrained(f"{folder}/scheduler")
    json.dump({"_class_name": "StableDiffusionPipeline", "feature_extractor": [None, None],
               "safety_checker": [None, None], "scheduler": ["diffusers", "PNDMScheduler"],
               "text_encoder": ["transformers", "CLIPTextModel"],
               "tokenizer": ["transformers", "CLIPTokenizer"],
               "unet": ["diffusers", "UNet2DConditionModel"],
               "vae": ["diffusers", "AutoencoderKL"]},
              open(f"{folder}/model_index.json", "w"), indent=1)

    one = {}
    names = single.unet_names(unet.config)
    for k, v in unet.state_dict().items():
        one[single.UNET + single.renamed(k, names)] = v
    names = single.vae_names(vae.config)
    for k, v in vae.state_dict().items():
        if "attentions" in k and v.ndim == 2:
            v = v[:, :, None, None]
        one["first_stage_model." + single.renamed(k, names)] = v
    for k, v in text.state_dict().items():
        bare = k.removeprefix("text_model.")
        if bare != "embeddings.position_ids":
            one["cond_stage_model.transformer.text_model." + bare] = v
    save_file({k: v.contiguous() for k, v in one.items()}, f"{out}/sd15.safetensors")
    count = sum(p.numel() for p in unet.parameters()) / 1e6
    print(f"{folder}: UNet {count:.1f} M parameters; {out}/sd15.safetensors: {len(one)} tensors")


main()
