# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import os

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported

import keras_hub
import numpy
from asked import answer, with_vocabulary
from keras_hub.models import BertBackbone, BertTextEmbedder, BertTokenizer  # noqa: F401
from sentence_transformers import SentenceTransformer


def saved(folder):
    """As sentence-transformers saves it."""
    SentenceTransformer(folder).save("saved")
    return "saved"


def vectors_of(folder, call, texts):
    model = eval(call)
    if "BertTextEmbedder" in call:
        return numpy.array(model.predict(texts, verbose=0))
    preprocess = BertTokenizer.from_preset(with_vocabulary(folder))
    packer = keras_hub.layers.MultiSegmentPacker(
        sequence_length=64, start_value=preprocess.cls_token_id, end_value=preprocess.sep_token_id
    )
    tokens, segments = packer(preprocess(texts))
    inputs = {"token_ids": tokens, "segment_ids": segments, "padding_mask": tokens != preprocess.pad_token_id}
    return model.predict(inputs, verbose=0)["pooled_output"]


answer(vectors_of)
