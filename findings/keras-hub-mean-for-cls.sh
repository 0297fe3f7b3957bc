#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# keras-hub 0.32.0: `BertTextEmbedder` takes the mean of the tokens where sentence-transformers 6.2.0 has saved a model
# that takes [CLS].
#
# Seen: BertTextEmbedder.from_preset(folder) of what SentenceTransformer.save wrote, with [CLS] pooling, gives the mean of
# the tokens, and says nothing. With "pooling_mode_cls_token": true in 1_Pooling/config.json, as older releases of
# sentence-transformers wrote it, the same folder gives [CLS]. 6.2.0 writes "pooling_mode": "cls", which keras-hub's
# source does not read: without one of the older names, it takes the mean.
# Why it surprises: the embedder reads the files of sentence-transformers so as to give the same vectors, and takes a
# spelling that it does not know for another pooling.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 KERAS_BACKEND=torch
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 keras-hub==0.32.0 keras==3.15.1 huggingface_hub==2.4.0 tokenizers==0.23.3 numpy==2.4.6

venv/bin/python - <<'PY'
import json
from pathlib import Path

import keras_hub
import numpy
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

Path("checkpoint").mkdir()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence", "."] + [f"w{n}" for n in range(52)]
Path("checkpoint", "vocab.txt").write_text("\n".join(words))
BertTokenizer.from_pretrained("checkpoint").save_pretrained("checkpoint")
sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
torch.manual_seed(0)
BertModel(BertConfig(**sizes, hidden_act="gelu_new", initializer_range=0.2)).save_pretrained("checkpoint")
SentenceTransformer(modules=[Transformer("checkpoint"), Pooling(32, "cls")]).save("saved")
Path("saved", "vocab.txt").write_text("\n".join(words))  # which keras-hub needs

tokenizer, model = BertTokenizer.from_pretrained("checkpoint"), BertModel.from_pretrained("checkpoint").eval()
with torch.no_grad():
    states = model(**tokenizer("a sentence .", return_tensors="pt")).last_hidden_state[0]
known = {"[CLS]": states[0].numpy(), "mean": states.mean(0).numpy()}
saved = SentenceTransformer("saved").encode("a sentence .")
assert numpy.abs(saved - known["[CLS]"]).max() < 1e-4, "premise: sentence-transformers gives [CLS]"


def given():
    vector = keras_hub.models.BertTextEmbedder.from_preset("saved").predict(["a sentence ."], verbose=0)[0]
    return [name for name, reference in known.items() if numpy.abs(vector - reference).max() < 1e-4]


path = Path("saved", "1_Pooling", "config.json")
config = json.loads(path.read_text())
found = {"as saved": given()}
path.write_text(json.dumps(config | {"pooling_mode_cls_token": True}))
found["with the older name"] = given()
print(config, found)
assert config["pooling_mode"] == "cls", "no longer as stated"
assert found == {"as saved": ["mean"], "with the older name": ["[CLS]"]}, "no longer as stated"
PY
