#!/bin/sh
# What each method and the recipes by role give on the text model, on documents that neither trained nor calibrated:
#     sh benchmarks/text_moe/methods.sh runs/text WORK
# runs/text is what corpus.py made. WORK keeps data, calibration, gptq builds and compare.json; done work is not repeated.
set -e
HERE=$(cd "$(dirname "$0")" && pwd)
MODEL=$HERE/checkpoint
mkdir -p "$2"
[ -e "$2/judge.jsonl" ] || python3 "$HERE/documents.py" "$1" -o "$2" --count 32 --characters 2000
cd "$2"
[ -e text.cal ] || mlxquant calibrate "$MODEL" --data calibrate.jsonl -o text.cal
for bits in 4 3 2; do
  [ -e gptq-$bits ] || mlxquant convert "$MODEL" -r gates-8bit --bits $bits --group-size 64 --method gptq \
    --data calibrate.jsonl -o gptq-$bits
  for method in rtn mse imatrix; do set -- "$@" -r gates-8bit:bits=$bits,group_size=64,method=$method; done
  set -- "$@" -r roles-${bits}bit --build gptq-$bits
done
shift 2
mlxquant compare "$MODEL" "$@" --calibration text.cal --data judge.jsonl --no-own -o compare.json
