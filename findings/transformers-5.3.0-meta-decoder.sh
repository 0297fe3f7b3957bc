#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.3.0: a subclass of BertForMaskedLM that is loaded as remote code keeps its tied decoder on the meta device.
#
# Seen: of a folder with code of its own (a config class and an empty subclass of BertForMaskedLM), `from_pretrained` with
# `trust_remote_code=True` returns a model in which `cls.predictions.decoder.weight` and `.bias` are on "meta"; nothing is
# reported. `model.tie_weights()` right after loading repairs it. On 5.4.0, the second run here, nothing is on "meta".
# Why it surprises: the load succeeds, and the model fails later, at `.to(...)` or in the forward pass, with an error about
# the meta device that does not lead back to the version.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

cat > own_code.py <<'PY'
from transformers import BertConfig, BertForMaskedLM


class OwnConfig(BertConfig):
    model_type = "own_bert"


class OwnForMaskedLM(BertForMaskedLM):
    config_class = OwnConfig
PY
cat > load.py <<'PY'
import sys

import transformers
from transformers import AutoModelForMaskedLM

if sys.argv[1] == "save":
    from own_code import OwnConfig, OwnForMaskedLM

    OwnConfig.register_for_auto_class()
    OwnForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
    config = OwnConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    OwnForMaskedLM(config).save_pretrained("model")
else:
    model = AutoModelForMaskedLM.from_pretrained("model", trust_remote_code=True)
    meta = [name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.is_meta]
    model.tie_weights()
    tied = [name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.is_meta]
    print(f"{transformers.__version__}: on meta {meta}, after tie_weights() {tied}")
    decoder = ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"]
    assert (meta, tied) == ({"5.3.0": decoder, "5.4.0": []}[transformers.__version__], []), "no longer as stated"
PY
python3 -m venv venv
for version in 5.3.0 5.4.0; do
    venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==$version huggingface_hub==1.9.2 numpy==2.4.6
    venv/bin/python load.py save
    venv/bin/python load.py load
done
