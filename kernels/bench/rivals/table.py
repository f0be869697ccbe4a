#!/usr/bin/env python3
"""Reads the JSON lines of the benches from standard input and prints Markdown tables: the median of
each, how many times slower than anneal's fastest it is, and the share of the machine's peak."""
import json
import statistics
import sys

times, peaks, copies, flops = {}, [], [], {}
for line in sys.stdin:
    if not line.startswith("{"):
        continue
    r = json.loads(line)
    times.setdefault(r["what"], {}).setdefault(r["name"], []).extend(r["seconds"])
    if "flops" in r:
        flops[r["what"]] = r["flops"]
        if r["name"].endswith("f32"):
            peaks.append(r["peak_flops"])
            copies.append(r["peak_bytes"])
peak = statistics.median(peaks) if peaks else 0
if peak:
    print(f"Peaks of the machine in this run: {peak / 1e9:.0f} GFLOP/s f32 multiply-adds from "
          f"registers (best {max(peaks) / 1e9:.0f}), {statistics.median(copies) / 1e9:.1f} GB/s "
          "copying memory.\n")
for what, rows in times.items():
    median = {n: statistics.median(s) for n, s in rows.items()}
    ours = min((m for n, m in median.items() if n.startswith("anneal")), default=None)
    title = {"step": "denoising step, CFG pair", "decode": "VAE decode"}[what]
    print(f"| {title} | median s | best s | runs | x anneal | share of f32 peak |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for n in sorted(median, key=median.get):
        ratio = f"{median[n] / ours:.2f}" if ours else ""
        share = f"{100 * flops[what] / median[n] / peak:.0f} %" if peak and what in flops else ""
        print(f"| {n} | {median[n]:.2f} | {min(rows[n]):.2f} | {len(rows[n])} | {ratio} | {share} |")
    print()
