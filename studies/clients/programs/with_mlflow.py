# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Logged, and loaded again."""

import shutil

import mlflow
import torch
from asked import answer
from sentence_transformers import SentenceTransformer  # noqa: F401
from transformers import AutoModel, AutoTokenizer  # noqa: F401


def of_transformers(model, folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    components = {"model": model, "tokenizer": tokenizer}
    mlflow.transformers.save_model(components, "logged", task="feature-extraction", pip_requirements=[])
    model = mlflow.transformers.load_model("logged", return_type="components")["model"].eval()
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output


def of_sentence_transformers(model, folder, texts):
    mlflow.sentence_transformers.save_model(model, "logged", pip_requirements=[])
    return mlflow.sentence_transformers.load_model("logged").encode(texts)


def vectors_of(folder, call, texts):
    shutil.rmtree("logged", ignore_errors=True)
    model = eval(call)
    flavour = of_transformers if "AutoModel" in call else of_sentence_transformers
    return flavour(model, folder, texts)


answer(vectors_of)
