"""What users see of an input and of the outputs of its conversions: loads, and the tokenizer."""

import json
import sys
import warnings

import torch
import transformers
from transformers import AutoModel, AutoTokenizer, BertModel

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
sentences = ["word1 word2 word77", "word5"]


def load(folder, inputs, cls=AutoModel, **kwargs):
    model, info = cls.from_pretrained(folder, output_loading_info=True, **kwargs)
    with torch.no_grad():
        return sorted(info["missing_keys"]), model.eval()(**inputs).pooler_output


found = {}
for folder in sys.argv[2:]:
    kind = folder.split("/")[-1]
    trust = {"trust_remote_code": True} if kind == "pooled" else {}
    inputs = AutoTokenizer.from_pretrained(folder, **trust)(sentences, padding=True, return_tensors="pt")
    (missing, one), (_, two) = (load(folder, inputs, **trust) for _ in range(2))
    (_, three), (_, four) = (load(sys.argv[1], inputs, BertModel) for _ in range(2))
    found[kind] = {
        "ids": inputs["input_ids"].tolist(),
        "missing": missing,
        "equal": torch.equal(one, two),
        "equal before": torch.equal(three, four),
    }
print(json.dumps(found))
