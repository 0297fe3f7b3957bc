"""Pushes a model, tokenizer and config; then the model twice from one folder, its pooler moved each time."""

import sys

from common import say
from transformers import AutoModelForMaskedLM, AutoTokenizer

source, folder = sys.argv[1:]
model = AutoModelForMaskedLM.from_pretrained(source, trust_remote_code=True)
model.push_to_hub("user/pooled")
AutoTokenizer.from_pretrained(source, trust_remote_code=True).push_to_hub("user/pooled")
model.config.push_to_hub("user/pooled")
for _ in range(2):
    model.bert.pooler.dense.weight.data.add_(1)
    model.save_pretrained(folder, push_to_hub=True, repo_id="user/moved")
say(True)
