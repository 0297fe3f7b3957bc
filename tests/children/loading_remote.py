"""Loads each folder, which remote code has saved, through every Auto class; then all else that one is loaded for."""

import os
import sys
from pathlib import Path

import torch
from common import outcome, say
from loading import describe, load
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, pipeline

CLASSIFIER = "BertPooledMLMForSequenceClassification/AutoModelForSequenceClassification"
saved, lost, *autos = sys.argv[1:]
seen = {
    f"{source.name}/{folder.name}": {
        auto: [describe(auto, folder, trust_remote_code=True) for _ in range(2)] for auto in autos
    }
    for source in Path(saved).iterdir()
    for folder in source.iterdir()
}
folder = f"{saved}/BertPooledMLMForMaskedLM/AutoModel"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
AutoConfig.from_pretrained(folder, trust_remote_code=True).save_pretrained("config-alone")
config = AutoConfig.from_pretrained("config-alone", trust_remote_code=True)
built = AutoModelForMaskedLM.from_config(config, trust_remote_code=True)
pipelines = {}
for how, options in (("folder alone", {}), ("with tokenizer", {"tokenizer": tokenizer})):
    fill, features = (
        pipeline(task, model=folder, trust_remote_code=True, **options) for task in ("fill-mask", "feature-extraction")
    )
    pipelines[f"fill-mask, {how}"] = len(fill("word3 [MASK] word5"))
    pipelines[f"feature-extraction, {how}"] = list(torch.tensor(features("word3 word5")).shape)
classify = pipeline("text-classification", model=f"{saved}/{CLASSIFIER}", trust_remote_code=True)
with torch.no_grad():
    logits = classify.model(**classify.tokenizer("word3 word5", return_tensors="pt")).logits
score = classify("word3 word5")[0]["score"]
pipelines["text-classification"] = abs(score - logits.softmax(-1).max().item())
every = [auto for auto in config.auto_map if auto != "AutoConfig"]
every = {auto: outcome(load, auto, folder, trust_remote_code=True) for auto in every}
say(
    {
        "loads": seen,
        "every Auto class": every,
        "pipelines": pipelines,
        "lost": outcome(load, "AutoModel", lost, trust_remote_code=True),
        "cached": sorted(path.name for path in Path(os.environ["HF_HOME"]).rglob("*_bert_pooled_mlm.py")),
        "tokens": tokenizer("word7 word0 nothing").input_ids,
        "from_config": type(built).__name__,
        "frozen": [name for name, p in built.named_parameters() if not p.requires_grad],
        "without trust": outcome(load, "AutoModel", folder, trust_remote_code=False),
        "package": "bert_pooled_mlm" in sys.modules,
    }
)
