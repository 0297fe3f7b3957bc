#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: whole-word masking fails in Trainer as soon as the rows are plain dicts, also when they hold the offsets.
#
# Seen: DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True) masks rows with an `offset_mapping`. Under Trainer
# the same rows end in IndexError: "too many indices for array: array is 0-dimensional, but 3 were indexed", unless
# `remove_unused_columns=False` is set.
# Why it surprises: the collator needs a column that Trainer removes by default before the collator sees it, since the
# model's `forward` does not name it; the error names neither the column nor the remedy.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 huggingface_hub==2.4.0 tokenizers==0.23.3 numpy==2.4.6

venv/bin/python - <<'PY'
import torch
from pathlib import Path
from transformers import BertConfig, BertForMaskedLM, BertTokenizer
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

Path("tokenizer").mkdir()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence", "##s", "."]
Path("tokenizer", "vocab.txt").write_text("\n".join(words))
tokenizer = BertTokenizer.from_pretrained("tokenizer")
rows = [dict(tokenizer("a sentences .", return_offsets_mapping=True)) for _ in range(4)]
assert rows[0]["input_ids"] == [2, 5, 6, 7, 8, 3], "premise: a word of two pieces"
collator = DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True)
print("the collator alone:", {name: tuple(value.shape) for name, value in collator(rows).items()})
config = BertConfig(vocab_size=9, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def trained(**arguments):
    args = TrainingArguments(
        "runs", max_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, **arguments
    )
    try:
        Trainer(BertForMaskedLM(config), args, train_dataset=rows, data_collator=collator).train()
    except IndexError as error:
        return f"IndexError: {error}"
    return "trains"


found = trained(), trained(remove_unused_columns=False)
print("Trainer:", found[0])
print("Trainer with remove_unused_columns=False:", found[1])
assert found[0].startswith("IndexError: too many indices for array") and found[1] == "trains", "no longer as stated"
PY
