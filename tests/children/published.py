"""Pushes a model, then loads it by its id, both revisions pinned, trains it for a step and saves it."""

import sys

import torch
from common import outcome, say
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

source, folder, out, token = sys.argv[1:]
model = AutoModelForMaskedLM.from_pretrained(source, trust_remote_code=True)
model.push_to_hub("user/pooled", token=token)
AutoTokenizer.from_pretrained(source, trust_remote_code=True).push_to_hub("user/pooled", token=token)
commit = model.config.push_to_hub("user/pooled", token=token).oid
for _ in range(2):  # from one folder, its pooler moved each time
    model.bert.pooler.dense.weight.data.add_(1)
    model.save_pretrained(folder, push_to_hub=True, repo_id="user/moved", token=token)

options = {"trust_remote_code": True, "revision": commit, "code_revision": commit}
tokenizer = AutoTokenizer.from_pretrained("user/pooled", **options)
inputs = tokenizer("word1 word2", return_tensors="pt")
loaded = [AutoModel.from_pretrained("user/pooled", **options).eval() for _ in range(2)]
masked = AutoModelForMaskedLM.from_pretrained("user/pooled", **options)
masked(**inputs, labels=torch.tensor([[-100, 7, 8, -100]])).loss.backward()
torch.optim.AdamW(masked.parameters(), lr=1e-3).step()
masked.save_pretrained(out)
tokenizer.save_pretrained(out)
say(
    {
        "same": torch.equal(*(model(**inputs).pooler_output for model in loaded)),
        "pooler": loaded[0].bert.pooler.dense.weight.tolist(),
        "private, no token": outcome(AutoModel.from_pretrained, "user/private", trust_remote_code=True),
        "private": outcome(AutoModel.from_pretrained, "user/private", trust_remote_code=True, token=token),
    }
)
