"""Loads a repository by its id, both revisions pinned, trains it for a step and saves it; then opens a private one."""

import sys

import torch
from common import outcome, say
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

commit, token, out = sys.argv[1:]
options = {"trust_remote_code": True, "revision": commit, "code_revision": commit}
tokenizer = AutoTokenizer.from_pretrained("user/pooled", **options)
inputs = tokenizer("word1 word2", return_tensors="pt")
outputs = []
for _ in range(2):
    model = AutoModel.from_pretrained("user/pooled", **options).eval()
    outputs.append(model(**inputs).pooler_output)
masked = AutoModelForMaskedLM.from_pretrained("user/pooled", **options)
masked(**inputs, labels=torch.tensor([[-100, 7, 8, -100]])).loss.backward()
torch.optim.AdamW(masked.parameters(), lr=1e-3).step()
masked.save_pretrained(out)
tokenizer.save_pretrained(out)
say(
    {
        "same": torch.equal(*outputs),
        "pooler": model.bert.pooler.dense.weight.tolist(),
        "private, no token": outcome(AutoModel.from_pretrained, "user/private", trust_remote_code=True),
        "private": outcome(AutoModel.from_pretrained, "user/private", trust_remote_code=True, token=token),
    }
)
