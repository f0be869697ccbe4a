#!/usr/bin/env bash
# run.sh BUILD_DIR SECONDS [TARGET]: every libFuzzer target (or one) for a short while, from its seed
# corpus, as many at once as there are cores.
set -euo pipefail
build="$1" seconds="$2" here="$(cd "$(dirname "$0")" && pwd)"

if [ $# -lt 3 ]; then
    find "$build" -maxdepth 1 -name 'fuzz_*' -perm -u+x -type f -printf '%f\0' | sort -z |
        xargs -0 -r -n1 -P"$(nproc)" "$0" "$build" "$seconds"
    exit
fi

name="${3#fuzz_}" corpus="$(mktemp -d)"
[ -d "$here/corpus/$name" ] && cp "$here/corpus/$name"/* "$corpus/"
if ! "$build/$3" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 \
    -artifact_prefix="$corpus/" -print_final_stats=0 "$corpus" >"$corpus.log" 2>&1; then
    tail -n 40 "$corpus.log"
    echo "fuzz: $name FAILED"
    exit 255 # xargs stops
fi
echo "fuzz: $name: $(grep -E '^Done|DONE' "$corpus.log" | tail -n 1)"
rm -rf "$corpus" "$corpus.log"
