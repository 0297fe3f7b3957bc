#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: Trainer of `torch.compile(model)` saves checkpoints that load as a random model.
#
# Seen: all 42 names of checkpoint-1 begin with `_orig_mod.`; `BertForMaskedLM.from_pretrained(checkpoint-1)` succeeds, with
# all its weights missing, and two loads differ.
# Why it surprises: `TrainingArguments(torch_compile=True)` saves plain names, and `Trainer(model=torch.compile(model))`
# trains without complaint (it needs
# `remove_unused_columns=False`). No error at the load either: only the load report, which lists 44 keys MISSING.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 huggingface_hub==2.4.0 safetensors==0.8.0 numpy==2.4.6

venv/bin/python - <<'PY'
import torch
from safetensors import safe_open
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
rows = [{"input_ids": torch.arange(5, 15), "labels": torch.arange(5, 15)}] * 4
args = TrainingArguments(
    "runs", max_steps=1, save_steps=1, remove_unused_columns=False, report_to=[], use_cpu=True, disable_tqdm=True
)
Trainer(torch.compile(BertForMaskedLM(config), backend="eager"), args, train_dataset=rows).train()

with safe_open("runs/checkpoint-1/model.safetensors", "pt") as weights:
    names = [*weights.keys()]
wrapped = sum(name.startswith("_orig_mod.") for name in names)
loads = [BertForMaskedLM.from_pretrained("runs/checkpoint-1", output_loading_info=True) for _ in range(2)]
missing = len(loads[0][1]["missing_keys"])
layers = [model.bert.encoder.layer[0].output.dense.weight for model, _ in loads]
print(f"{wrapped} of {len(names)} names begin with _orig_mod.; {missing} keys are missing when it is loaded")
print(f"two loads are equal: {torch.equal(*layers)}")
assert wrapped == len(names) and missing == 44 and not torch.equal(*layers), "no longer as stated"
PY
