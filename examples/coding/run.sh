#!/bin/sh
# Short Python functions from a description and three asserts (MBPP), judged by the loss and by a measure of one's own.
#
#   sh examples/coding/run.sh [MODEL [OPTIONS...]]
set -eu
here=$(dirname "$0")
model=${1:-HuggingFaceTB/SmolLM2-135M-Instruct}
[ $# -eq 0 ] || shift

rightrank recommend "$model" "$here/rows.jsonl" --eval-data "$here/held_out.jsonl" \
  --epochs 2 --batch-size 4 --budget 10 --metric "python '$here/parses.py'" "$@"
