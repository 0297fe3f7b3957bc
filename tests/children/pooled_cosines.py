"""Of each folder: whether two loads give the same pooled vectors, and their mean cosine to the donor's."""

import json
import sys

import torch
from transformers import AutoModel, AutoTokenizer, BertModel

donor, *folders = sys.argv[1:]
texts = [f"word{n} word{n + 7} word{3 * n}" for n in range(40)]
found = []
for folder in folders:
    batch = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(texts, return_tensors="pt")
    loads = [AutoModel.from_pretrained(folder, trust_remote_code=True).eval() for _ in range(2)]
    with torch.no_grad():
        one, other, target = (
            model(**batch).pooler_output for model in (*loads, BertModel.from_pretrained(donor).eval())
        )
    found.append([torch.equal(one, other), float(torch.cosine_similarity(one, target).mean())])
print(json.dumps(found))
