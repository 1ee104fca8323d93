#!/usr/bin/env bash
# The study in audits/store-moe: does the paper's finding hold on the store model? From the repository's root:
#
#     benchmarks/store_study/study.sh WORK
#
# WORK gets data, checkpoint and builds; the records go to audits/store-moe. Interrupted, the same command goes on.
set -euo pipefail
work=$1
out=audits/store-moe
run=${MLXQUANT:-.venv/bin/mlxquant}
py=${PYTHON:-.venv/bin/python}
mkdir -p "$work"
[ -e "$work/store-moe" ] || $py -c "from mlxquant.tiny import write_store_moe as w; import pathlib; w(pathlib.Path('$work/store-moe'))"
[ -e "$work/store.jsonl" ] || $py benchmarks/store_study/dialogues.py -o "$work/store.jsonl"

compared=()
for bits in 8 6 5 4 3 2; do compared+=(-r "gates-8bit:bits=$bits" -r "uniform-8bit:bits=$bits"); done
$run compare "$work/store-moe" "${compared[@]}" -r deepseek-8bit --group-size 64 --data "$work/store.jsonl" \
  --work "$work/compare" -o $out/compare.json > $out/compare.txt
# damage through weights apart from damage through routing: three runs a candidate, so fewer of each
head -n 30 "$work/store.jsonl" > "$work/fewer.jsonl"
forced=()
for bits in 4 3 2; do forced+=(-r "gates-8bit:bits=$bits" -r "uniform-8bit:bits=$bits"); done
$run compare "$work/store-moe" "${forced[@]}" --group-size 64 --data "$work/fewer.jsonl" --teacher-forced-routing \
  --work "$work/forced" -o $out/compare-forced.json > $out/compare-forced.txt

# full precision and builds, all in float32 beside their quantized arrays: the CPU gathers experts in no other dtype
built=(gates-8bit:8 gates-8bit:6 gates-8bit:5 gates-8bit:4 gates-8bit:3 gates-8bit:2 deepseek-8bit:8)
sides=()
[ -e "$work/full" ] || $run convert "$work/store-moe" -r none --dtype float32 -o "$work/full"
for each in "${built[@]}"; do
  build=$work/${each%%-*}-${each##*:}
  [ -e "$build" ] || $run convert "$work/store-moe" -r "${each%:*}" --bits "${each#*:}" --group-size 64 \
    --dtype float32 -o "$build"
  sides+=(--candidate "$build")
done
$run eval --baseline "$work/full" "${sides[@]}" --calls 5,10,20 --tasks 10 -o $out/eval.json > $out/eval.txt
$run eval --baseline "$work/full" --candidate "$work/gates-8" --candidate "$work/gates-3" --calls 60 --tasks 5 \
  --first-seed 1000500 -o $out/eval-deep.json > $out/eval-deep.txt

$run sweep --from $out/compare.json -t $out/tolerances.toml -o $out/sweep.json > $out/sweep.txt || [ $? = 1 ]
for bits in 8 6 5 4 3 2; do
  $run validate $out/compare.json -t $out/tolerances.toml --candidate "gates-8bit:bits=$bits" || [ $? = 1 ]
  $run validate $out/eval.json -t $out/tolerances.toml --candidate "gates-$bits" || [ $? = 1 ]
done > $out/verdicts.txt
