#!/usr/bin/env python3
"""anneal and llama.cpp's server on one GGUF file, through the same POST /completion, taking turns in
one run: tokens a second of a prompt, of one stream, and of 16 streams together.
usage: bench_llamacpp.py FILE.gguf path/to/anneal [--rounds 3] [--threads 2] [--url http://...]
needs: pip install xllamacpp (a prebuilt llama.cpp with its server); --url asks a llama-server that
already runs instead, one that has --parallel 16.
Prints a line a round and the medians' ratios at the end.
"""
import argparse
import concurrent.futures
import json
import os
import random
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request

STREAMS, STREAM_TOKENS = 16, 48

p = argparse.ArgumentParser()
p.add_argument("file")
p.add_argument("anneal")
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--prompt", type=int, default=512, help="tokens of the long prompt")
p.add_argument("--tokens", type=int, default=96, help="tokens of the single stream")
p.add_argument("--dtype", default="f32", choices=["f32", "bf16"], help="anneal's activations, keys and values")
p.add_argument("--url", help="a running llama-server, in place of xllamacpp")
a = p.parse_args()


def post(url, body):
    r = urllib.request.Request(url + "/completion", json.dumps(body).encode(),
                               {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(r, timeout=600))


def anneal_server():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder = tempfile.mkdtemp()
    os.symlink(os.path.abspath(a.file), os.path.join(folder, "model.gguf"))
    process = subprocess.Popen([a.anneal, "serve", "--port", str(port), "--dtype", a.dtype, "--threads",
                                str(a.threads), "--models", folder], stderr=subprocess.DEVNULL)
    url = "http://127.0.0.1:%d" % port
    for _ in range(600):
        try:
            urllib.request.urlopen(url + "/health", timeout=5)
            return url, process
        except OSError:
            time.sleep(0.1)
    raise SystemExit("anneal did not answer at " + url)


def llama_server():
    import xllamacpp as x
    c = x.CommonParams()
    c.model.path, c.n_parallel, c.n_ctx, c.verbosity = a.file, STREAMS, 1024 * STREAMS, -1
    c.cpuparams.n_threads = c.cpuparams_batch.n_threads = a.threads
    return x.Server(c)


def ask(url, ids, n):
    """Tokens a second of the prompt and of what follows, as each server says."""
    t = post(url, {"prompt": ids, "n_predict": n, "temperature": 0, "ignore_eos": True,
                   "cache_prompt": False})["timings"]
    return t["prompt_per_second"], t["predicted_per_second"]


def fresh(n):
    """Ids that no cache has seen."""
    return [random.randrange(1000, 40000) for _ in range(n)]


def measure(url):
    prompt = ask(url, fresh(a.prompt), 1)[0]
    stream = ask(url, fresh(17), a.tokens)[1]
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(lambda _: ask(url, fresh(16), STREAM_TOKENS), range(STREAMS)))
    return prompt, stream, STREAMS * STREAM_TOKENS / (time.perf_counter() - start)


ours, process = anneal_server()
theirs = None if a.url else llama_server()
rows = {"anneal": [], "llama.cpp": []}
try:
    for url in (ours, a.url or theirs.listening_address):
        ask(url, fresh(8), 4)  # warm
    for r in range(a.rounds):
        for name, url in (("anneal", ours), ("llama.cpp", a.url or theirs.listening_address)):
            rows[name].append(measure(url))
            print("round %d %-9s prompt of %d: %.0f tokens/s, one stream: %.1f, %d streams: %.0f" %
                  (r + 1, name, a.prompt, *rows[name][-1][:2], STREAMS, rows[name][-1][2]),
                  flush=True)
finally:
    process.terminate()
    process.wait()
for i, what in enumerate(("prompt", "one stream", "%d streams" % STREAMS)):
    ratios = [o[i] / t[i] for o, t in zip(rows["anneal"], rows["llama.cpp"])]
    print("%-10s anneal / llama.cpp: median %.2fx, from %.2fx to %.2fx" %
          (what, statistics.median(ratios), min(ratios), max(ratios)))
