#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: `label_smoothing_factor` replaces the loss that a model computes, whatever it consists of.
#
# Seen: a model whose loss is BertForMaskedLM's plus a term of 1000 evaluates to 1004.1, and with
# `label_smoothing_factor=0.1` to 4.1: the term is gone, and its gradient with it.
# Why it surprises: the name promises softer targets for the same objective. Trainer computes its own cross entropy from
# the logits instead and never reads `output.loss`: a distillation term, a penalty or a second head's loss is not trained,
# without a warning.
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


class TwoTerms(BertForMaskedLM):
    def forward(self, input_ids=None, labels=None):
        output = super().forward(input_ids=input_ids, labels=labels)
        if labels is not None:
            output.loss = output.loss + 1000
        return output


found = []
for smoothing in (0.0, 0.1):
    args = TrainingArguments(
        "runs", label_smoothing_factor=smoothing, report_to=[], use_cpu=True, disable_tqdm=True
    )
    found.append(Trainer(TwoTerms(config), args, eval_dataset=rows).evaluate()["eval_loss"])
    print(f"label_smoothing_factor={smoothing}: eval_loss {found[-1]:.1f}")
assert found[0] > 1000 and found[1] < 10, "the second term is no longer dropped"
PY
