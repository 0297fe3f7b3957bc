"""Loads a model by its name, as a user does; tells its class, what is missing, its pooler and where that came from."""

import json
import sys

import transformers

transformers.logging.set_verbosity_error()
repo, options = sys.argv[1], json.loads(sys.argv[2])
model, info = transformers.AutoModel.from_pretrained(repo, output_loading_info=True, **options)
pooler = [value.tolist() for value in getattr(model, "bert", model).pooler.dense.parameters()]
source = getattr(model.config, "pooler_source", None)
print(json.dumps([type(model).__name__, sorted(info["missing_keys"]), pooler, source]))
