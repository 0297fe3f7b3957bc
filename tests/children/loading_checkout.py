"""Imports the two files that travel from a checkout's root."""

import sys

from common import say

sys.path.insert(0, sys.argv[1])
from configuration_bert_pooled_mlm import BertPooledMLMConfig
from modeling_bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMModel

folder, out = sys.argv[2:]
model = BertPooledMLMModel.from_pretrained(folder)
BertPooledMLMForMaskedLM.from_pretrained(folder).save_pretrained(out)
say(
    {
        "pooler": model.bert.pooler.dense.bias.tolist(),
        "config": type(model.config) is BertPooledMLMConfig,
        "package": "bert_pooled_mlm" in sys.modules,
    }
)
