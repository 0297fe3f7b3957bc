#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: under gradient accumulation, Trainer trains stock BertForMaskedLM on a loss that is multiplied by
# the number of accumulation steps.
#
# Seen: the same 8 rows with the same number of labels each, no dropout, one step: as 1 batch of 8 the loss is 4.08 and the
# gradient norm 1.37; as 4 batches of 2 (gradient_accumulation_steps=4) the loss is 16.34 and the gradient norm 5.47.
# Why it surprises: accumulation should change the memory that is needed, not the step. Trainer takes a `**kwargs` in
# `forward` for the promise that the model divides by `num_items_in_batch`, and stops dividing; BertForMaskedLM takes
# `**kwargs` and does not divide.
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

config = BertConfig(
    vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)
torch.manual_seed(0)
rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(5, 60, (8, 16))]


def first_step(batch_size, accumulated):
    torch.manual_seed(0)
    args = TrainingArguments(
        "runs", per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulated, max_steps=1,
        logging_steps=1, max_grad_norm=1e9, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )
    trainer = Trainer(BertForMaskedLM(config), args, train_dataset=rows)
    trainer.train()
    return [trainer.state.log_history[0][name] for name in ("loss", "grad_norm")]


whole, parts = first_step(8, 1), first_step(2, 4)
print("1 batch of 8:   loss %.2f, gradient norm %.2f" % tuple(whole))
print("4 batches of 2: loss %.2f, gradient norm %.2f" % tuple(parts))
assert all(3.99 < part / one < 4.01 for one, part in zip(whole, parts)), "the two steps are no longer 1 to 4"
PY
