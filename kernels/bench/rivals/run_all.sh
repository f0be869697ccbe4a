#!/usr/bin/env bash
# anneal and its rivals on a Stable Diffusion 1.5 of random weights, interleaved: A B C A B C ...,
# each in a process of its own, so that the machine's moods meet everybody alike.
#
#   pip install torch diffusers transformers openvino stable-diffusion-cpp-python   (in a venv)
#   python make_sd15.py FOLDER
#   PYTHON=venv/bin/python ./run_all.sh FOLDER path/to/anneal [ROUNDS] [LOG]
#
# The JSON lines go to LOG (default: FOLDER/rivals.jsonl, started anew), tables to standard output.
# In the environment: THREADS, SIZE, ONLY (a regular expression of the lines below) and WRAP, a
# command before each ("chrt -f 10" on a machine that others use too).
set -euo pipefail
folder=$1 anneal=$2 rounds=${3:-3} log=${4:-$1/rivals.jsonl}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
common="--threads ${THREADS:-2} --size ${SIZE:-512}"
export OMP_NUM_THREADS=${THREADS:-2}
runs=(
    "bench_anneal.py $anneal $folder/sd15 --what step"
    "bench_torch.py $folder/sd15 --what step --reps 1"
    "bench_torch.py $folder/sd15 --what step --reps 1 --layout nhwc"
    "bench_openvino.py $folder/sd15 --what step --reps 1"
    "bench_anneal.py $anneal $folder/sd15 --what decode"
    "bench_torch.py $folder/sd15 --what decode --reps 1"
    "bench_torch.py $folder/sd15 --what decode --reps 1 --layout nhwc"
    "bench_openvino.py $folder/sd15 --what decode --reps 1"
    "bench_sdcpp.py $folder/sd15.safetensors --dtype f16 --reps 1"
    "bench_sdcpp.py $folder/sd15.safetensors --dtype f16 --reps 1 --flash"
    "bench_sdcpp.py $folder/sd15.safetensors --dtype f32 --reps 1"
    # bf16: only once a round, since it is slow where the machine cannot multiply it
    "bench_anneal.py $anneal $folder/sd15 --what step --dtype bf16"
    "bench_torch.py $folder/sd15 --what step --reps 1 --dtype bf16 --layout nhwc"
    "bench_openvino.py $folder/sd15 --what step --reps 1 --dtype bf16"
    "bench_anneal.py $anneal $folder/sd15 --what decode --dtype bf16"
    "bench_torch.py $folder/sd15 --what decode --reps 1 --dtype bf16 --layout nhwc"
)
: >"$log"
for ((round = 1; round <= rounds; round++)); do
    for run in "${runs[@]}"; do
        [[ $run =~ ${ONLY:-.} ]] || continue
        echo "round $round of $rounds, load $(cut -d' ' -f1 /proc/loadavg): ${run%% *} ${run#* }" >&2
        # shellcheck disable=SC2086
        ${WRAP:-} "$python" "$here"/$run $common 2>>"$log.err" | tee -a "$log" >&2 ||
            echo "failed: $run (see $log.err)" >&2
    done
done
"$python" "$here/table.py" <"$log"
