#!/usr/bin/env bash
# The study in audits/store-deep, after its PLAN.md. From the repository's root:
#
#     benchmarks/store_deep/study.sh WORK
#
# WORK gets data, builds and records, and in WORK/records what audits/store-deep keeps of the large ones. Interrupted, the
# same command goes on: what is in WORK is not made again.
set -euo pipefail
work=$1
run=${MLXQUANT:-.venv/bin/mlxquant}
py=${PYTHON:-.venv/bin/python}
source=$work/store-deep
mkdir -p "$work"
[ -e "$source" ] || cp -r benchmarks/store_deep/checkpoint "$source"
[ -e "$work/judge.jsonl" ] || $py benchmarks/store_deep/dialogues.py "$work"
[ -e "$work/deep.cal" ] || $run calibrate "$source" --data "$work/calibrate.jsonl" -o "$work/deep.cal"

# step NAME COMMAND WORDS…: a command with -o NAME.json, its text in NAME.txt, unless that is there
step() {
  [ -e "$work/$1.txt" ] || { $run "${@:2}" -o "$work/$1.json" > "$work/$1.new" && mv "$work/$1.new" "$work/$1.txt"; }
}

# tokens: the grid by rounding and by gptq
cells() { # METHOD…: each family at each of its bits by each method
  for bits in 8 6 5 4 3 2; do for family in gates-8bit deepseek-8bit uniform-8bit; do for method in "$@"; do
    echo "-r $family:bits=$bits,group_size=64,method=$method"
  done; done; done
  for bits in 4 3 2; do for method in "$@"; do echo "-r roles-${bits}bit:method=$method"; done; done
}
data=(--data "$work/judge.jsonl" --no-own)
# shellcheck disable=SC2046
step compare compare "$source" $(cells rtn gptq) "${data[@]}" --calibration-data "$work/calibrate.jsonl" --work "$work/1"
# bits allocated for the bytes of gates
[ -e "$work/allocate.json" ] || $run allocate "$source" --bpw 6.553,5.559,4.564,3.57 --bits 2,3,4,5,6,8 --group-size 64 \
  --groups 20 --data "$work/allocate.jsonl" --judge "$work/check.jsonl" --work "$work/allocating" \
  -o "$work/allocated.toml" --record "$work/allocate.json" > "$work/allocate.txt"
# the share through routing
forced=()
for bits in 8 4 3 2; do for family in gates-8bit deepseek-8bit uniform-8bit; do
  forced+=(-r "$family:bits=$bits,group_size=64")
done; done
head -n 20 "$work/judge.jsonl" > "$work/fewer.jsonl"
step compare-forced compare "$source" "${forced[@]}" --data "$work/fewer.jsonl" --teacher-forced-routing --no-own
# imatrix, and what was allocated, by each method
more=()
for bits in 6.553 5.559 4.564 3.57; do for method in rtn imatrix gptq; do
  more+=(-r "$work/allocated-$bits.toml:method=$method")
done; done
# shellcheck disable=SC2046
step compare-more compare "$source" "${more[@]}" $(cells imatrix) -r roles-4bit -r roles-3bit -r roles-2bit \
  --calibration "$work/deep.cal" --calibration-data "$work/calibrate.jsonl" "${data[@]}" --work "$work/2"

# loops
make() { [ -e "$work/$1" ] || $run convert "$source" "${@:2}" --dtype float32 -o "$work/$1"; }
make full -r none
for bits in 8 4 3; do
  make "gates-$bits" -r gates-8bit --bits "$bits" --group-size 64
  make "agentic-$bits" -r deepseek-8bit --bits "$bits" --group-size 64
done
make uniform-3 -r uniform-8bit --bits 3 --group-size 64
make gates-3-gptq -r gates-8bit --bits 3 --group-size 64 --method gptq --data "$work/calibrate.jsonl"
loops() { # NAME FIRST TASKS BUILD…
  local sides=() build
  for build in "${@:4}"; do sides+=(--candidate "$work/$build"); done
  step "$1" eval --baseline "$work/full" "${sides[@]}" --suite tool-loop-deep --calls 150 --tasks "$3" \
    --first-seed "$2" --max-tokens 128 --draft
}
loops eval 1100000 40 gates-8 agentic-8 gates-4 agentic-4 gates-3 agentic-3 uniform-3 gates-3-gptq
# more builds, for question 6
make by-role-3 -r roles-3bit
make by-role-2 -r roles-2bit
make agentic-2 -r deepseek-8bit --bits 2 --group-size 64
make uniform-4 -r uniform-8bit --bits 4 --group-size 64
for family in gates uniform; do
  make "$family-3-imatrix" -r "$family-8bit" --bits 3 --group-size 64 --method imatrix --calibration "$work/deep.cal"
done
make uniform-3-gptq -r uniform-8bit --bits 3 --group-size 64 --method gptq --data "$work/calibrate.jsonl"
make gates-2-gptq -r gates-8bit --bits 2 --group-size 64 --method gptq --data "$work/calibrate.jsonl"
make by-role-2-gptq -r roles-2bit --method gptq --data "$work/calibrate.jsonl"
loops eval-more 1200000 8 by-role-3 gates-3-imatrix uniform-3-imatrix uniform-3-gptq uniform-4 agentic-2 by-role-2 \
  gates-2-gptq by-role-2-gptq
# what audits/ keeps of the records
for name in compare compare-forced compare-more eval eval-more; do slim+=("$work/$name.json"); done
mkdir -p "$work/records"
$py benchmarks/slim.py "${slim[@]}" -o "$work/records"
