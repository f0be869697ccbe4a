#!/usr/bin/env bash
# run.sh BUILD_DIR SECONDS: every libFuzzer target for a short while, from its seed corpus.
set -euo pipefail
build="$1" seconds="$2" here="$(cd "$(dirname "$0")" && pwd)"
for bin in "$build"/fuzz_*; do
    [ -x "$bin" ] || continue
    name="${bin##*/fuzz_}"
    corpus="$(mktemp -d)"
    [ -d "$here/corpus/$name" ] && cp "$here/corpus/$name"/* "$corpus/"
    echo "fuzz: $name for $seconds s"
    if ! "$bin" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -artifact_prefix="$corpus/" -print_final_stats=0 "$corpus" >"$corpus.log" 2>&1; then
        tail -n 40 "$corpus.log"
        echo "fuzz: $name FAILED"
        exit 1
    fi
    grep -E '^Done|DONE' "$corpus.log" | tail -n 1
    rm -rf "$corpus" "$corpus.log"
done
