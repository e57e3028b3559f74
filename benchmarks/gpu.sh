#!/usr/bin/env bash
# On a machine with a GPU, torch, numpy, scipy, triton, pytest and hypothesis: the kernels' parity tests, then their speed.
# In under ten minutes: first everything at once, which fills the compilers' caches and whose times are not kept, then one
# benchmark after the other. Writes the tests' log and kernels_<device>.json into FOLDER (default: benchmarks/data).
#
#     benchmarks/gpu.sh [FOLDER] [ROUNDS]
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-benchmarks/data}
export PYTHONPATH=src:benchmarks${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
files=$(cd benchmarks && ls kernel_*.py | sed 's/^kernel_//; s/\.py$//')
warm=$(mktemp -d)
mkdir -p "$folder"
parity=(tests/test_{philox,keyed_projection,difference_matches,row_labels,trigger_hits,agreement,head_argmax,weight_moments}.py)
python3 -m pytest -q -n 8 --dist loadgroup "${parity[@]}" tests/test_text_{dedup,generation,prf,scores}.py \
  -o filterwarnings=default > "$folder/parity.log" 2>&1 &
for file in $files; do
  timeout 240 python3 benchmarks/kernels.py --rounds 1 --data "$warm" "$file" > "$warm/$file.log" 2>&1 || tail -n 15 "$warm/$file.log" &
done
wait
tail -n 1 "$folder/parity.log"
for file in $files; do
  python3 benchmarks/kernels.py --rounds "${2:-5}" --data "$folder" "$file" || echo "$file failed"
done
