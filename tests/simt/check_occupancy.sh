#!/usr/bin/env bash
# What real ticks launch fits on GPUs as ptxas compiled it: check_occupancy.sh PYTHON ANNEAL FOLDER LOG...
set -euo pipefail
python="$1" anneal="$2" folder="$3"
shift 3
root="$(cd "$(dirname "$0")/../.." && pwd)"
for capability in 80:sm_80 90:sm_90a; do
    for model in sd15 llama-3.2-1b; do
        ANNEAL_SIMT="dry=1,memory=1024G,cc=${capability%:*},launches=$folder/launches.tsv" "$anneal" bench \
            --roofline --made-up-weights -m "$root/kernels/bench/shapes/$model" --rows 2 >/dev/null
        echo "==== $model on ${capability#*:}"
        "$python" "$root/kernels/bench/occupancy.py" --arch "${capability#*:}" "$folder/launches.tsv" "$@"
    done
done
