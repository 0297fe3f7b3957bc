#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: a resumed MLM training masks other tokens than the run that was not interrupted.
#
# Seen: Trainer and `DataCollatorForLanguageModeling(tokenizer)`, 6 steps, resumed from the checkpoint of step 3: the
# batches hold the same rows, but other tokens of them are masked, and the weights end elsewhere. With labels that are in
# the rows, so that nothing is drawn for a batch, they end bit for bit where the uninterrupted run does, dropout included.
# Why it surprises: `checkpoint-N` holds the random states of that step, so that a resumed run should draw what the other
# drew. accelerate's DataLoader reads one batch ahead (its source says so): its masks have been drawn already when the
# states are saved, and are drawn anew. `DataCollatorForLanguageModeling(tokenizer, seed=...)` is no help: its generator
# starts at the seed again. transformers 4.41.2 does the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 huggingface_hub==2.4.0 numpy==2.4.6

printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' word{0..49} > vocab.txt
venv/bin/python - <<'PY'
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, DataCollatorForLanguageModeling
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments, set_seed

tokenizer = BertTokenizer.from_pretrained(".")
rows = [dict(tokenizer(" ".join(f"word{(7 * row + token) % 50}" for token in range(20)))) for row in range(64)]
sizes = {"vocab_size": 55, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class StopAfterFour(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == 4


def train(folder, collator, rows, callbacks=(), resume=None):
    set_seed(0)
    args = TrainingArguments(
        folder, max_steps=6, save_steps=3, per_device_train_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True
    )
    model = BertForMaskedLM(BertConfig(**sizes))
    Trainer(model, args, train_dataset=rows, data_collator=collator(), callbacks=[*callbacks]).train(resume)
    return model.state_dict()


differs = {}
for name, collator, data in (
    ("labels in the rows", lambda: DataCollatorForSeq2Seq(tokenizer), [{**row, "labels": row["input_ids"]} for row in rows]),
    ("masks drawn for each batch", lambda: DataCollatorForLanguageModeling(tokenizer), rows),
    ("the same with a seed", lambda: DataCollatorForLanguageModeling(tokenizer, seed=1), rows),
):
    whole = train(f"{name}/whole", collator, data)
    train(f"{name}/resumed", collator, data, [StopAfterFour()])
    resumed = train(f"{name}/resumed", collator, data, resume=True)
    differs[name] = max((whole[key] - resumed[key]).abs().max().item() for key in whole)
    print(f"{name}: largest difference of a weight {differs[name]:.1e}")
fixed, *drawn = differs.values()
assert fixed == 0, "with labels in the rows a resumed run ends elsewhere, too"
assert min(drawn) > 1e-5, "a resumed run masks the same tokens"
PY
