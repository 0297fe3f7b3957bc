"""Prints where an environment imports the package from, and what it registers."""

import importlib.metadata
import json

import bert_pooled_mlm
import transformers

config = bert_pooled_mlm.BertPooledMLMConfig(
    vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
)
found = {
    "file": bert_pooled_mlm.__file__,
    "versions": [bert_pooled_mlm.__version__, importlib.metadata.version("bert-pooled-mlm")],
    "model": type(transformers.AutoModel.from_config(config)).__module__,
}
print(json.dumps(found))
