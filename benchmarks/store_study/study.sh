#!/usr/bin/env bash
# The study in audits/store-moe: does the paper's finding hold on the store model? From the repository's root:
#
#     benchmarks/store_study/study.sh WORK
#
# WORK gets data, checkpoint and builds, and in WORK/records what audits/store-moe publishes. Interrupted, the same
# command goes on: what is in WORK/records already is not measured again.
set -euo pipefail
work=$1
out=$work/records
tolerances=audits/store-moe/tolerances.toml
run=${MLXQUANT:-.venv/bin/mlxquant}
py=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

# step NAME WORDS…: run a command with -o NAME.json, its text in NAME.txt, unless that is there; exit 1 is a verdict
step() {
  local name=$1
  shift
  [ -e "$out/$name.txt" ] && return
  rm -f "$out/$name.json"
  $run "$@" -o "$out/$name.json" > "$out/$name.new" || [ $? = 1 ]
  mv "$out/$name.new" "$out/$name.txt"
}

[ -e "$work/store-moe" ] || $py -c "from mlxquant.evals.store.model import write_store_moe as w; import pathlib; w(pathlib.Path('$work/store-moe'))"
[ -e "$work/store.jsonl" ] || $py benchmarks/store_study/dialogues.py -o "$work/store.jsonl"

compared=()
for bits in 8 6 5 4 3 2; do compared+=(-r "gates-8bit:bits=$bits" -r "uniform-8bit:bits=$bits"); done
step compare compare "$work/store-moe" "${compared[@]}" -r deepseek-8bit --group-size 64 --data "$work/store.jsonl" \
  --work "$work/compare"
# damage through weights apart from damage through routing: three runs a candidate, so fewer of each
head -n 30 "$work/store.jsonl" > "$work/fewer.jsonl"
forced=()
for bits in 4 3 2; do forced+=(-r "gates-8bit:bits=$bits" -r "uniform-8bit:bits=$bits"); done
step compare-forced compare "$work/store-moe" "${forced[@]}" --group-size 64 --data "$work/fewer.jsonl" \
  --teacher-forced-routing --work "$work/forced"

# full precision and builds, all in float32 beside their quantized arrays: the CPU gathers experts in no other dtype
make() { [ -e "$work/$1" ] || $run convert "$work/store-moe" "${@:2}" --dtype float32 -o "$work/$1"; }
make full -r none
sides=()
for bits in 8 6 5 4 3 2; do
  make "gates-$bits" -r gates-8bit --bits "$bits" --group-size 64
  sides+=(--candidate "$work/gates-$bits")
done
make deepseek-8 -r deepseek-8bit --group-size 64
step eval eval --baseline "$work/full" "${sides[@]}" --candidate "$work/deepseek-8" --calls 5,10,20 --tasks 10
step eval-deep eval --baseline "$work/full" --candidate "$work/gates-8" --candidate "$work/gates-3" --calls 60 \
  --tasks 5 --first-seed 1000500

# what audits/ keeps of the records: verdicts name the hashes of these
for name in compare compare-forced eval eval-deep; do slim+=("$out/$name.json"); done
$py benchmarks/slim.py "${slim[@]}" -o "$out"

step sweep sweep --from "$out/compare.json" -t "$tolerances"
for bits in 8 6 5 4 3 2; do
  $run validate "$out/compare.json" -t "$tolerances" --candidate "gates-8bit:bits=$bits" || [ $? = 1 ]
  $run validate "$out/eval.json" -t "$tolerances" --candidate "gates-$bits" || [ $? = 1 ]
done > "$out/verdicts.txt"
