#!/usr/bin/env bash
# The include direction is a test: server -> engine -> models -> {kernels, weights, text} -> base.
# Public headers are include/anneal/*.h; a room may include those of the rooms to its right only,
# and private headers ("...") of its own folder only.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A may=(
    [base]="base tensor"
    [text]="base tensor text template grammar"
    [weights]="base tensor weights"
    [kernels]="base tensor step ops bench"
    [models]="base tensor step ops text weights model"
    [engine]="base tensor step ops text weights model solver engine template grammar"
    [server]="base tensor step ops text weights model solver engine bench template grammar"
)
bad=0
for room in "${!may[@]}"; do
    while IFS=: read -r file line text; do
        header=$(sed -E 's/.*"([^"]+)".*/\1/' <<<"$text")
        case "$header" in
        anneal/*)
            name=${header#anneal/}; name=${name%.h}
            grep -qw -- "$name" <<<"${may[$room]}" && continue
            echo "$file:$line: $room may not include $header" ;;
        *)
            dir=$(dirname "$file")
            found=""
            for d in "$dir" "$room" .; do
                [ -f "$d/$header" ] || continue
                found=$(realpath --relative-to=. "$d/$header"); break
            done
            [ -z "$found" ] && continue # a library's header
            [[ "$found" == "$room"/* ]] && continue
            echo "$file:$line: $room includes $header, private to another room" ;;
        esac
        bad=1
    done < <(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$room" --include='*.c' --include='*.h' --include='*.cu' || true)
done
[ "$bad" = 0 ] && echo "include direction holds"
exit "$bad"
