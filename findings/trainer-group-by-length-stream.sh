#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: `train_sampling_strategy="group_by_length"` does nothing where the dataset is a stream.
#
# Seen: of 64 rows with 1 to 20 tokens, batches of 8: a datasets.Dataset gives batches that are sorted by length; an IterableDataset
# gives the rows in their order, with and without the strategy. No error, no warning.
# Why it surprises: an unknown strategy is an error, and so is a stream without `max_steps`; this combination trains,
# padded as if nothing had been asked for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 huggingface_hub==2.4.0 tokenizers==0.23.3 numpy==2.4.6 datasets==5.2.0

venv/bin/python - <<'PY'
import datasets
import torch
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def rows():
    for number in range(64):
        yield {"input_ids": [5] * (1 + number * 7 % 20)}


def lengths(dataset, strategy):
    """The lengths of the rows in the first batch."""
    batches = []

    def collate(features):
        batches.append([len(row["input_ids"]) for row in features])
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in features], batch_first=True)
        return {"input_ids": ids, "labels": ids}

    args = TrainingArguments(
        "runs", max_steps=1, per_device_train_batch_size=8, train_sampling_strategy=strategy, save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True,
    )
    Trainer(BertForMaskedLM(config), args, train_dataset=dataset, data_collator=collate).train()
    print(f"{type(dataset).__name__}, {strategy}: {batches[0]}")
    return batches[0]


table, stream = datasets.Dataset.from_generator(rows), datasets.IterableDataset.from_generator(rows)
grouped = lengths(table, "group_by_length")
assert grouped == sorted(grouped, reverse=True), "premise: a table is grouped"
assert lengths(stream, "group_by_length") == lengths(stream, "random") == [len(row["input_ids"]) for row in rows()][:8]
PY
