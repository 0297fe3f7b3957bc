#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# accelerate 1.15.0: `accelerate launch --cpu --num_processes 2` runs one process.
#
# Seen: a script that prints its rank prints "rank 0 of 1", once; no warning, exit code 0.
# `torchrun --nproc_per_node 2` runs the same script twice, "rank 0 of 2" and "rank 1 of 2", through the same Accelerator.
# Why it surprises: a number of processes was asked for on the command line. What one believes to be tested for two
# processes (DDP, sharding of a dataset, gathered metrics) was tested for one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 accelerate==1.15.0 huggingface_hub==2.4.0 numpy==2.4.6

cat > rank.py <<'PY'
from accelerate import Accelerator

state = Accelerator(cpu=True).state
print(f"rank {state.process_index} of {state.num_processes}", flush=True)
PY
launched=$(venv/bin/accelerate launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no rank.py | sort)
torchrun=$(venv/bin/torchrun --nproc_per_node 2 rank.py 2>/dev/null | sort)
echo "accelerate launch --cpu --num_processes 2: $launched"
echo "torchrun --nproc_per_node 2:" $torchrun
[ "$launched" = "rank 0 of 1" ]
[ "$torchrun" = $'rank 0 of 2\nrank 1 of 2' ]
