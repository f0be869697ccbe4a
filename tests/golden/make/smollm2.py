# What llama.cpp answers to tests/golden/smollm2/prompts.txt, token by token, greedily, how sure it is
# of each choice (the distance of its two best logits), and how much that distance moves when only its
# batch size, its batching of users or its KV type change. needs: pip install xllamacpp numpy
# safetensors. usage: smollm2.py MODEL.gguf PROMPTS OUT.safetensors
import concurrent.futures, itertools, json, sys, urllib.request
import numpy as np
import xllamacpp as x
from safetensors.numpy import save_file
MODEL, PROMPTS, OUT = sys.argv[1:4]
TOKENS, USERS, THREADS = 16, 16, 1
SYSTEM = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'

def serve(users=1, batch=512, kv='F16'):
    p = x.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.n_batch, p.n_ubatch = MODEL, 512 * users, users, batch, batch
    p.cache_type_k = p.cache_type_v = getattr(x.ggml_type, 'GGML_TYPE_' + kv)
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = THREADS
    p.verbosity = -1
    return x.Server(p)

def post(server, path, body):
    r = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), {'Content-Type': 'application/json'})
    return json.load(urllib.request.urlopen(r))

def ask(server, ids):
    r = post(server, '/completion', {'prompt': ids, 'n_predict': TOKENS, 'temperature': 0, 'n_probs': 8, 'cache_prompt': False,
                                     'ignore_eos': False, 'return_tokens': True})
    # One entry for all the tokens of a character that takes several (emoji): what follows is cut off.
    whole = itertools.takewhile(lambda e: e[0] == e[1]['id'], zip(r['tokens'], r['completion_probabilities']))
    return [[(t['id'], t['logprob']) for t in p['top_logprobs']] for _, p in whole]

def tokenize(server, text):
    return post(server, '/tokenize', {'content': text, 'add_special': False, 'parse_special': True})['tokens']

prompts = open(PROMPTS, encoding='utf-8').read().splitlines()
chat = lambda p: f'<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n'

def ask_all(server, users, prompts):
    with concurrent.futures.ThreadPoolExecutor(users) as pool: return list(pool.map(lambda i: ask(server, i), prompts))

def save():
    save_file(dict(prompt_ids=np.concatenate([np.array(i, np.int32) for i in ids]), prompt_len=np.array([len(i) for i in ids], np.int32),
                   answers=answers, margins=margins, **moved), OUT, {'llama.cpp': str(x.__version__)})

server = serve(USERS)
ids = [tokenize(server, chat(p)) for p in prompts]
base = ask_all(server, USERS, ids)
del server
pad = lambda rows, dtype: np.array([r + [-1] * (TOKENS - len(r)) for r in rows], dtype)  # a short answer ends itself
answers = pad([[t[0][0] for t in a] for a in base], np.int32)
margins = pad([[t[0][1] - t[1][1] for t in a] for a in base], np.float32)
moved = {}
save()
print('answered', answers.shape, 'median margin', np.median(margins), flush=True)

# The same distance elsewhere, as long as the text before is the same: one stream in one batch, prompts
# eight tokens at a time, other KV types (F32 is taken for F16 by this package). -1: not looked at.
for name, users, batch, kv, step in (('moved_alone', 1, 512, 'F16', 12), ('moved_kv_bf16', USERS, 512, 'BF16', 3),
                                     ('moved_kv_q8', USERS, 512, 'Q8_0', 3), ('moved_batch8', 1, 8, 'F16', 6)):
    server = serve(users, batch, kv)
    some = list(range(0, len(ids), step))
    other, parted = ask_all(server, users, [ids[i] for i in some]), 0
    m = moved[name] = np.full_like(margins, -1)
    for i, o in zip(some, other):
        for t in range(min(len(o), len(base[i]))):
            there = dict(o[t])
            first, second = base[i][t][0][0], base[i][t][1][0]
            if first in there and second in there: m[i, t] = abs(there[first] - there[second] - margins[i, t])
            if o[t][0][0] != answers[i, t]: parted += 1; break
    del server
    save()
    print(f'{name}: a margin moves by up to {m.max():.3f}, 99 % of them by {np.quantile(m[m >= 0], .99):.3f}, '
          f'{parted} of {len(some)} answers part', flush=True)
