# More tiny random language models and what transformers computes with them, for what llm.py leaves
# out: Gemma 1, Qwen2-MoE with its shared expert and dense layers between, experts stacked in one
# tensor, rotary scaling by YaRN, linear and LongRoPE with a part of each head turning, sliding
# windows from some layer on, biases everywhere. usage: llm_more.py OUT SEED
import json, os, sys
import torch, transformers
from safetensors.torch import save_file
from transformers import (GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM, Phi3Config,
                          Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig,
                          Qwen2MoeForCausalLM)
torch.set_num_threads(1); torch.set_grad_enabled(False)
transformers.logging.set_verbosity_error()
OUT, SEED = sys.argv[1], int(sys.argv[2])

def spread(m):
    gen = torch.Generator().manual_seed(SEED * 7919 + sum(p.numel() for p in m.parameters()))
    done = set()
    for n, p in m.named_parameters():
        if p.data_ptr() in done: continue
        done.add(p.data_ptr())
        if p.ndim == 1:
            one = 'norm' in n.lower() and 'gemma' not in type(m).__name__.lower()
            p.copy_(float(one) + .1 * torch.randn(p.shape, generator=gen))
        elif 'embed' in n: p.copy_(.5 * torch.randn(p.shape, generator=gen))
        else: p.copy_((1.5 if 'lm_head' in n else 1.2) * torch.randn(p.shape, generator=gen) / p.shape[-1] ** .5)
    for p in m.parameters(): p.copy_(p.bfloat16().float())
    return m.eval()

C = dict(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
rope = lambda **k: {'rope_parameters': {'rope_theta': 10000.0, **k}}
factors = lambda n, a: [1 + a * i for i in range(n)]
moe = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40)
M = {
 'gemma': lambda: GemmaForCausalLM(GemmaConfig(**{**C, 'head_dim': 16, 'num_key_value_heads': 1})),
 'qwen2-moe': lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**{**C, **moe, 'norm_topk_prob': False, 'num_hidden_layers': 3,
                                                            'decoder_sparse_step': 1, 'mlp_only_layers': [1]})),
 'qwen2-moe-stacked': lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**{**C, **moe, 'norm_topk_prob': True})),
 'yarn': lambda: LlamaForCausalLM(LlamaConfig(**{**C, **rope(rope_type='yarn', factor=8.0, original_max_position_embeddings=64)})),
 'linear-bias': lambda: LlamaForCausalLM(LlamaConfig(**{**C, 'attention_bias': True, 'mlp_bias': True, **rope(rope_type='linear', factor=4.0)})),
 'longrope': lambda: Phi3ForCausalLM(Phi3Config(**{**C, 'original_max_position_embeddings': 16, 'hidden_size': 64,
     **rope(rope_type='longrope', partial_rotary_factor=.75, short_factor=factors(6, .1), long_factor=factors(6, .7))})),
 'qwen2-window': lambda: Qwen2ForCausalLM(Qwen2Config(**{**C, 'use_sliding_window': True, 'sliding_window': 9, 'max_window_layers': 1})),
}
for name, make in M.items():
    m = spread(make()); d = f'{OUT}/{name}'; os.makedirs(d, exist_ok=True)
    g = torch.Generator().manual_seed(SEED * 31 + 5)
    ids = torch.randint(3, 512, (1, 40), generator=g)
    logits = m(ids).logits
    gen = m.generate(ids[:, :20], max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
    top = m(gen).logits[:, 19:-1].topk(2, -1).values
    save_file(dict(input_ids=ids.int(), logits=logits.float().contiguous(), greedy_ids=gen.int().contiguous(),
                   greedy_margin=(top[..., 0] - top[..., 1]).contiguous()), f'{d}/expected.safetensors')
    m.to(torch.bfloat16).save_pretrained(f'{d}/model')
    cf = f'{d}/model/config.json'; c = json.load(open(cf))
    if name == 'qwen2-moe-stacked':  # as transformers holds them in memory
        save_file({k: v.clone() for k, v in m.state_dict().items()}, f'{d}/model/model.safetensors')
    if name in ('longrope', 'linear-bias'):  # older spelling, as most hub files have it
        rp = c.pop('rope_parameters'); c['rope_theta'] = rp.pop('rope_theta')
        if 'partial_rotary_factor' in rp: c['partial_rotary_factor'] = rp.pop('partial_rotary_factor')
        rp['type'] = rp.pop('rope_type'); c['rope_scaling'] = rp; json.dump(c, open(cf, 'w'), indent=2)
    print(name, sum(p.numel() for p in m.parameters()), 'std', round(logits.std().item(), 2), 'min margin',
          round((top[..., 0] - top[..., 1]).min().item(), 4))
