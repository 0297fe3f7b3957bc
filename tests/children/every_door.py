"""Opens a checkpoint through every Auto class that its type has."""

import sys

import transformers
from common import say

found = {}
for name in ("AutoModel", "AutoModelForMaskedLM", "AutoModelForPreTraining", "AutoModelForSequenceClassification"):
    model, info = getattr(transformers, name).from_pretrained(
        sys.argv[1], trust_remote_code=True, output_loading_info=True
    )
    problems = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    pooler = {key: tensor.tolist() for key, tensor in model.bert.pooler.state_dict().items()}
    found[name] = [type(model).__name__, problems, pooler]
say([found, "bert_pooled_mlm" in sys.modules])
