#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: an optional argument of `forward` with "label" in its name makes Trainer's evaluation lose its loss.
#
# Seen: `forward(input_ids, labels)` evaluates with `eval_loss`; `forward(input_ids, labels, soft_labels=None)`, the same
# rows, the same loss, without it. No warning. Training goes on as before; what reads `eval_loss`
# (`metric_for_best_model`, early stopping) is what fails.
# Why it surprises: an argument that nobody passes changes what is reported. Trainer takes every argument whose name
# contains "label" for a required label (`label_names`), and computes no loss unless a batch holds all of them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 huggingface_hub==2.4.0 numpy==2.4.6

venv/bin/python - <<'PY'
import torch
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
rows = [{"input_ids": torch.arange(5, 15), "labels": torch.arange(5, 15)}] * 4


class Plain(BertForMaskedLM):
    def forward(self, input_ids=None, labels=None):
        return super().forward(input_ids=input_ids, labels=labels)


class Optional(BertForMaskedLM):
    def forward(self, input_ids=None, labels=None, soft_labels=None):
        return super().forward(input_ids=input_ids, labels=labels)


found = {}
for model in (Plain, Optional):
    args = TrainingArguments("runs", report_to=[], use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model(config), args, eval_dataset=rows)
    found[model.__name__] = (trainer.label_names, "eval_loss" in trainer.evaluate())
    print(f"{model.__name__}: label_names {trainer.label_names}, eval_loss is reported: {found[model.__name__][1]}")
assert found == {"Plain": (["labels"], True), "Optional": (["labels", "soft_labels"], False)}, "no longer as stated"
PY
