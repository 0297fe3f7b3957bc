#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# mergekit 0.1.5: a linear merge of two BERTs with an MLM head and a pooler leaves the head's transform out.
#
# Seen: of two checkpoints of one shape whose config.json says BertForMaskedLM, 40 of 46 tensors are in the result:
# `cls.predictions.transform.dense` and `.LayerNorm` (weight and bias of each) are missing, and `cls.seq_relationship`.
# Exit code 0, no warning. BertForMaskedLM then starts the transform anew at each load.
# Why it surprises: a merge of equal parts is asked for, and a part without which no MLM logit means anything is left out;
# where only the encoders were compared, nothing shows it. (mergekit's table of BertForMaskedLM names the pooler as
# required, and the transform not at all.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 mergekit==0.1.5 transformers==5.23.0 huggingface_hub==2.4.0 numpy==2.4.6

cat > make.py <<'PY'
from transformers import BertConfig, BertForPreTraining, BertTokenizer

config = BertConfig(vocab_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
for name in ("one", "other"):
    model = BertForPreTraining(config)
    model.save_pretrained(name)
    model.config.architectures = ["BertForMaskedLM"]
    model.config.save_pretrained(name)
    with open(f"{name}/vocab.txt", "w") as vocabulary:
        vocabulary.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence", "."]))
    BertTokenizer.from_pretrained(name).save_pretrained(name)
PY
cat > linear.yaml <<'YAML'
merge_method: linear
dtype: float32
models:
  - {model: ./one, parameters: {weight: 0.5}}
  - {model: ./other, parameters: {weight: 0.5}}
YAML
venv/bin/python make.py
venv/bin/mergekit-yaml linear.yaml merged 2>/dev/null
venv/bin/python - <<'PY'
from safetensors.torch import load_file
from transformers import BertForMaskedLM

before, after = load_file("one/model.safetensors"), load_file("merged/model.safetensors")
dropped = sorted(before.keys() - after.keys())
_, report = BertForMaskedLM.from_pretrained("merged", output_loading_info=True)
missing = sorted(report["missing_keys"])
print(f"{len(after)} of {len(before)} tensors; dropped:", *dropped)
print("missing for BertForMaskedLM:", *missing)
transform = [f"cls.predictions.transform.{name}" for name in
             ("LayerNorm.bias", "LayerNorm.weight", "dense.bias", "dense.weight")]
assert missing == transform, "no longer as stated"
assert dropped == [*transform, "cls.seq_relationship.bias", "cls.seq_relationship.weight"], "no longer as stated"
PY
