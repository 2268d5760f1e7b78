#!/bin/sh
# A trainer's config: keep its rank, alpha and learning rate? In seconds, from records; then measured, with what training takes from an
# old skill (here: coding).
#
#   sh examples/medical/run.sh [MODEL [OPTIONS...]]      MODEL in place of the config's
set -eu
here=$(dirname "$0")
config=$here/axolotl.yml

if [ $# -eq 0 ]; then
  rightrank check "$config"
  rightrank recommend --config "$config" --keep "$here/../coding/rows.jsonl" --budget 10
else
  model=$1
  shift
  rightrank check "$config" --model "$model"
  rightrank recommend "$model" "$here/rows.jsonl" --config "$config" --keep "$here/../coding/rows.jsonl" --budget 10 "$@"
fi
