"""Tells which package an environment imports, and what it registers."""

import importlib.metadata
import json

import bert_pooled_mlm
import transformers

config = bert_pooled_mlm.BertPooledMLMConfig(
    vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
)
found = {
    "file": bert_pooled_mlm.__file__,
    "version": bert_pooled_mlm.__version__,
    "installed": importlib.metadata.version("bert-pooled-mlm"),
    "names": [
        name for name in bert_pooled_mlm.__all__ if getattr(bert_pooled_mlm, name).__name__.split(".")[-1] != name
    ],
    "model": type(transformers.AutoModel.from_config(config)).__module__,
}
print(json.dumps(found))
