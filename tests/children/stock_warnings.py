"""Loses the pooler as stock BERT does, and loads what is left."""

import sys

from transformers import BertForMaskedLM, BertModel

BertForMaskedLM.from_pretrained("google-bert/bert-base-uncased")
print("--then--", file=sys.stderr, flush=True)
BertModel.from_pretrained("old_ckpt")
