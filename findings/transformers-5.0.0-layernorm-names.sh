#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.0.0 to 5.5.4: Trainer goes on from a checkpoint with LayerNorm as it was before the training, where the model was
# loaded from disk.
#
# Seen: a BERT that was loaded with `from_pretrained` is saved with `LayerNorm.gamma/beta` in place of
# `LayerNorm.weight/bias`, the names of 2018, although no file held them. `from_pretrained` reads both spellings;
# `Trainer.train(resume_from_checkpoint=...)` does not: the encoder's first dense layer is the checkpoint's, LayerNorm is
# that of the model that was given. 5.5.4, the second run here, does the same. On 5.23.0, the third one, the names are
# weight/bias, and both are restored.
# Why it surprises: the other weights, the optimizer and the step are resumed and no error is raised; LayerNorm near its
# starting value looks plausible.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

cat > resume.py <<'PY'
import shutil

import torch
import transformers
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
rows = [{"input_ids": torch.arange(5, 15), "labels": torch.arange(5, 15)}] * 4
BertForMaskedLM(config).save_pretrained("model")
shutil.rmtree("runs", ignore_errors=True)


def trained(steps, **resume):
    args = TrainingArguments(
        "runs", max_steps=steps, save_steps=5, learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    model = BertForMaskedLM.from_pretrained("model")
    Trainer(model, args, train_dataset=rows).train(**resume)
    return model.bert.encoder.layer[0].output


after = trained(5)
names = sorted(name.rsplit(".", 1)[1] for name in load_file("runs/checkpoint-5/model.safetensors") if "0.output.Lay" in name)
resumed = trained(5, resume_from_checkpoint="runs/checkpoint-5")  # all of its steps are done: it loads and stops
found = names, *(torch.equal(one, other) for one, other in (
    (after.dense.weight, resumed.dense.weight), (after.LayerNorm.weight, resumed.LayerNorm.weight)
))
print("%s: LayerNorm's names %s; dense is restored: %s, LayerNorm is restored: %s" % (transformers.__version__, *found))
right = transformers.__version__ == "5.23.0"
assert found == ((["bias", "weight"], True, True) if right else (["beta", "gamma"], True, False)), "no longer as stated"
PY
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.0.0 accelerate==1.15.0 safetensors==0.8.0 numpy==2.4.6
venv/bin/python resume.py
venv/bin/pip install --quiet --no-compile transformers==5.5.4
venv/bin/python resume.py
venv/bin/pip install --quiet --no-compile transformers==5.23.0 huggingface_hub==2.4.0
venv/bin/python resume.py
