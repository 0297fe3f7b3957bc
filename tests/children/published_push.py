"""Pushes a folder's model, tokenizer and config, as who has trained it does."""

import sys

from common import say
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True)
model.push_to_hub("user/pooled")
AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True).push_to_hub("user/pooled")
model.config.push_to_hub("user/pooled")
say(True)
