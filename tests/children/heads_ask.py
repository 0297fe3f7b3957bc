"""Loads a folder with code in each way of trusting it; who starts it answers transformers' question."""

import sys

import transformers
from common import outcome, say

found = []
for cls, kwargs in (
    ("AutoTokenizer", {"trust_remote_code": False}),
    ("AutoTokenizer", {}),
    ("AutoModel", {"trust_remote_code": False}),
    ("AutoModel", {}),
    ("AutoModel", {}),
):
    # Some versions ask twice, for the config and for the model, and get the same answer.
    found.append(outcome(getattr(transformers, cls).from_pretrained, sys.argv[1], **kwargs))
    print("--next--", flush=True)
say(found)
