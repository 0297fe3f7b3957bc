#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# CTranslate2 4.8.5 (transformers 5.23.0): converting a BERT without a pooler writes a random one into model.bin.
#
# Seen: of one checkpoint that was saved from BertForMaskedLM, two conversions give one text the same `last_hidden_state`,
# and a `pooler_output` of another direction (cosine below 0.9). Both conversions succeed.
# Why it surprises: what is random elsewhere at each load, so that two runs differ, is here frozen in a file: the encoder is
# deterministic from then on, and nothing in it or about it tells that the pooler was never trained. The only trace is in
# the log of the conversion, where transformers reports the two keys as MISSING.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 ctranslate2==4.8.5 huggingface_hub==2.4.0 numpy==2.4.6

venv/bin/python - <<'PY'
import json
from pathlib import Path

import ctranslate2
import numpy
from ctranslate2.converters import TransformersConverter
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

Path("model").mkdir()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence", "."]
Path("model", "vocab.txt").write_text("\n".join(words))
BertTokenizer.from_pretrained("model").save_pretrained("model")
config = BertConfig(vocab_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
BertForMaskedLM(config).save_pretrained("model")
fields = json.loads(Path("model", "config.json").read_text())
# CTranslate2 needs this field, which transformers 4 wrote and 5 does not.
Path("model", "config.json").write_text(json.dumps(fields | {"position_embedding_type": "absolute"}))

states, pooled = [], []
for name in ("first", "second"):
    TransformersConverter("model").convert(name)
    output = ctranslate2.Encoder(name).forward_batch([["[CLS]", "a", "sentence", ".", "[SEP]"]])
    states.append(numpy.array(output.last_hidden_state))
    pooled.append(numpy.array(output.pooler_output)[0])
first, second = (vector / numpy.linalg.norm(vector) for vector in pooled)
print(f"states differ by {abs(states[0] - states[1]).max():.1e}; cosine of the pooler_outputs {first @ second:.3f}")
assert numpy.allclose(*states, atol=1e-6) and first @ second < 0.9, "no longer as stated"
PY
