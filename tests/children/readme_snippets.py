"""Runs the README's snippets, each by its number, and tells how each of them ended."""

import json
import sys
import traceback

import transformers

transformers.logging.disable_progress_bar()
outcomes, spaces = {}, {}
for number, code in json.loads(sys.argv[1]).items():
    spaces[number] = {"__name__": "__main__"}
    try:
        exec(code, spaces[number])
        outcomes[number] = ""
    except Exception:
        outcomes[number] = traceback.format_exc()
installed = "bert_pooled_mlm" in sys.modules
vectors = [space["vectors"] for space in spaces.values() if "vectors" in space]
difference = float(abs(vectors[0].detach().numpy() - vectors[1]).max()) if len(vectors) == 2 else None
print()
print(json.dumps([outcomes, installed, difference]))
