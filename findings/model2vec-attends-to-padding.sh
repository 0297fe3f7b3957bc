#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# model2vec 0.10.0: a word that is passed by `vocabulary=` is distilled together with the [PAD] tokens of the tokenizer.
#
# Seen: where tokenizer.json pads to a fixed length, as that of many sentence models does, `distill(model, vocabulary=["a
# sentence"])` gives the new word another vector than the model gives it (cosine of the mean of the tokens below 0.99).
# Without `padding` in tokenizer.json, everything else equal, the two are equal (above 0.9999). A word of the vocabulary is
# right in both.
# Why it surprises: padding is a matter of batches, and changes no vector elsewhere: it is masked. Here the length that the
# mask is made of counts the padding (the source: `attention_mask = token_positions < batch_lengths`), without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
# scikit-learn: without it, what model2vec[distill] installs cannot import model2vec.distill.
venv/bin/pip install --quiet --no-compile torch==2.13.0 "model2vec[distill]==0.10.0" transformers==5.3.0 scikit-learn==1.9.1 \
    numpy==2.4.6

venv/bin/python - 2>log <<'PY' || (tail -3 log; false)
import json
from pathlib import Path

import torch
from model2vec.distill import distill
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

torch.manual_seed(0)
Path("model").mkdir()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence", "."]
Path("model", "vocab.txt").write_text("\n".join(words))
BertTokenizer.from_pretrained("model").save_pretrained("model")
config = BertConfig(
    vocab_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.5
)
model = BertModel(config).eval()
model.save_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")
texts = ("a sentence", "sentence")  # one that is added, one of the vocabulary


def mean(text):
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)


def cosines():
    static = distill("model", vocabulary=texts[:1], pca_dims=None, sif_coefficient=None, quantize_to="float32")
    found = [torch.tensor(static.embedding[static.tokenizer.token_to_id(text)]) for text in texts]
    return [torch.cosine_similarity(vector, mean(text), 0).item() for vector, text in zip(found, texts, strict=True)]


path = Path("model", "tokenizer.json")
fields = json.loads(path.read_text())
assert fields["padding"] is None
without = cosines()
padding = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
path.write_text(json.dumps(fields | {"padding": padding | {"pad_token": "[PAD]"}}))
padded = cosines()
print("cosine of the added word, and of one of the vocabulary: %.4f, %.4f without padding" % tuple(without), end="; ")
print("%.4f, %.4f with padding" % tuple(padded))
assert min(without) > 0.9999 and padded[0] < 0.99 and padded[1] > 0.9999, "no longer as stated"
PY
