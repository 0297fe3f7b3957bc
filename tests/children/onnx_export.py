"""Exports a folder's model to an ONNX file."""

import sys

import torch
from bert_pooled_mlm import BertPooledMLMModel
from common import say


class Outputs(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask=attention_mask).to_tuple()


ids = torch.arange(14).reshape(2, 7) + 5
axes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=64)}
torch.onnx.export(
    Outputs(BertPooledMLMModel.from_pretrained(sys.argv[1]).eval()),
    (ids, torch.ones_like(ids)),
    dynamo=True,
    dynamic_shapes=(axes, axes),
    verbose=False,
    input_names=["input_ids", "attention_mask"],
    output_names=["last_hidden_state", "pooler_output", "logits"],
).save(sys.argv[2])
say(True)
