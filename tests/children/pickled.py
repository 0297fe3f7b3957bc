"""Pickles a model that was loaded once as remote code, and reads it back."""

import pickle
import sys

import torch
from common import say
from transformers import AutoModelForMaskedLM

model = AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True)
copy = pickle.loads(pickle.dumps(model))
inputs = {"input_ids": torch.arange(5, 17)[None]}
say([type(copy) is type(model), torch.equal(copy(**inputs).logits, model(**inputs).logits)])
