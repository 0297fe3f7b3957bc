#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: what a model freezes in its `__init__` is trainable again after `from_pretrained`.
#
# Seen: a subclass of BertForMaskedLM that calls `self.bert.requires_grad_(False)` in `__init__` has 0 trainable parameters
# in its encoder when it is made from a config, and 37 of 37 after `from_pretrained`.
# Why it surprises: nothing warns, the model trains as a whole, and the same class kept its parameters frozen on 4.57.6
# (the second run here).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
cat > frozen.py <<'PY'
import transformers
from transformers import BertConfig, BertForMaskedLM


class Frozen(BertForMaskedLM):
    def __init__(self, config):
        super().__init__(config)
        self.bert.requires_grad_(False)


def trainable(model):
    return sum(parameter.requires_grad for parameter in model.bert.parameters())


config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model = Frozen(config)
model.save_pretrained("model")
found = trainable(model), trainable(Frozen.from_pretrained("model")), len([*model.bert.parameters()])
print(transformers.__version__ + ": trainable when made %d, when loaded %d, of %d" % found)
expected = {"5.23.0": (0, 37, 37), "4.57.6": (0, 0, 37)}[transformers.__version__]
assert found == expected, f"no longer {expected}"
PY

python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 huggingface_hub==2.4.0 numpy==2.4.6
venv/bin/python frozen.py
venv/bin/pip install --quiet --no-compile transformers==4.57.6 huggingface_hub==0.36.2
venv/bin/python frozen.py
