"""Opens trained heads, each by its Auto class and by its own name, and asks the pipeline for text classification."""

import json
import sys

import torch
import transformers
from common import outcome, say
from transformers import AutoModelForTokenClassification, pipeline

folder, jobs, classifiers = sys.argv[1], *map(json.loads, sys.argv[2:])
found = {}
for name, (auto, by_name, trust) in jobs.items():
    found[name] = []
    for cls, kwargs in ((auto, {"trust_remote_code": True} if trust else {}), (by_name, {})):
        model, info = getattr(transformers, cls).from_pretrained(
            f"{folder}/{name}", output_loading_info=True, **kwargs
        )
        found[name].append([type(model).__name__, sorted(info["missing_keys"])])
texts, classified = ["word1 word2", "word9"], {}
for name in classifiers:
    trust = {"trust_remote_code": True} if name.startswith("pooled") else {}
    classify = pipeline("text-classification", model=f"{folder}/{name}", top_k=None, **trust)
    batch = classify.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = classify.model(**batch).logits.softmax(-1)
    by_label = [{guess["label"]: guess["score"] for guess in guesses} for guesses in classify(texts)]
    scores = torch.tensor([[guesses[f"LABEL_{n}"] for n in range(2)] for guesses in by_label])
    classified[name] = [type(classify.model).__name__, (scores - expected).abs().max().item(), scores.tolist()]
tokens = f"{folder}/pooled tokens"
say([found, classified, outcome(AutoModelForTokenClassification.from_pretrained, tokens, trust_remote_code=True)])
