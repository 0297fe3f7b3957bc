"""Loads a folder after `import bert_pooled_mlm`, without trust_remote_code, beside stock BERT."""

import os
import sys

import bert_pooled_mlm  # noqa: F401 (registers its classes)
import torch
from common import outcome, say
from loading import describe, load
from transformers import AutoTokenizer, BertForMaskedLM, BertModel, pipeline

folder, lost, *autos = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
load("AutoModelForMaskedLM", folder).save_pretrained("saved")
ours, stock = (
    [
        [guess["token_str"], guess["score"]]
        for guess in pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=4)("word3 [MASK] word5")
    ]
    for model in (folder, BertForMaskedLM.from_pretrained(folder))
)
with torch.no_grad():
    states = BertModel.from_pretrained(folder).eval()(**tokenizer("word3 word5", return_tensors="pt"))
say(
    {
        "loads": {auto: describe(auto, folder) for auto in autos},
        "tokens": tokenizer("word7 word0 nothing").input_ids,
        "files": sorted(os.listdir("saved")),
        "fill": ours,
        "stock fill": stock,
        "features": pipeline("feature-extraction", model=folder)("word3 word5"),
        "stock features": states.last_hidden_state.tolist(),
        "error": outcome(load, "AutoModelForMaskedLM", lost),
        "modules": [name for name in sys.modules if name.startswith("transformers_modules.")],
    }
)
