"""The classes of the family beside their stock counterparts, and batches that each of them has a loss for."""

import bert_pooled_mlm
import numpy as np
import pytest
import torch
import transformers
from checkpoints import NO_DROPOUT, SHAPE, batch, mlm_batch, randomize

POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
# By the end of its name: the stock class with the same tensors, and whether our pooler is trained.
HEADS = {
    "ForMaskedLM": (transformers.BertForMaskedLM, False),
    "Model": (transformers.BertForMaskedLM, True),
    "ForSequenceClassification": (transformers.BertForSequenceClassification, True),
    "ForMultipleChoice": (transformers.BertForMultipleChoice, True),
    "ForNextSentencePrediction": (transformers.BertForNextSentencePrediction, True),
    "ForTokenClassification": (transformers.BertForTokenClassification, False),
    "ForQuestionAnswering": (transformers.BertForQuestionAnswering, False),
}
MLM = ("ForMaskedLM", "Model")
# Texts of anchors.
TEXTS = ["word1 word2 word3", ("word4 word5", "word6"), "word7", ("word8", "word9 word10 word11 word12"), "word13"]
VARIANCE = "pooler_target_variance"

each_head = pytest.mark.parametrize("head", HEADS)


def vectors(rows: list[dict]) -> torch.Tensor:
    """The targets of anchor rows."""
    return torch.from_numpy(np.stack([row["pooler_targets"] for row in rows]))


def class_of(head: str) -> type:
    return getattr(bert_pooled_mlm, f"BertPooledMLM{head}")


def auto_of(head: str) -> type:
    return getattr(transformers, f"Auto{head}" if head == "Model" else f"AutoModel{head}")


def make(head: str, **fields):
    """A model whose every parameter has moved from its initial value."""
    torch.manual_seed(0)
    fields = {**SHAPE, **NO_DROPOUT, "num_labels": 2, **fields}
    model = class_of(head)(bert_pooled_mlm.BertPooledMLMConfig(**fields)).eval()
    randomize(model, 0)
    return model


def stock_of(model):
    """The stock class with the same weights."""
    head = type(model).__name__.removeprefix("BertPooledMLM")
    fields = {name: getattr(model.config, name) for name in (*SHAPE, *NO_DROPOUT, "num_labels")}
    fields["attn_implementation"] = model.config._attn_implementation
    stock = HEADS[head][0](transformers.BertConfig(**fields)).eval()
    missing, unexpected = stock.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert {*unexpected} <= POOLER
    return stock


def inputs_of(head: str, labels: bool = True) -> dict[str, torch.Tensor]:
    """Three rows; of a multiple choice, three questions of two answers."""
    if head == "ForMultipleChoice":
        inputs = {name: tensor.view(3, 2, -1) for name, tensor in batch(6, 20).items()}
    else:
        inputs = batch()
    if not labels:
        return inputs
    if head in MLM:
        return mlm_batch()
    if head == "ForQuestionAnswering":
        return {**inputs, "start_positions": torch.tensor([1, 0, 2]), "end_positions": torch.tensor([3, 4, 2])}
    if head == "ForTokenClassification":
        return {**inputs, "labels": (inputs["input_ids"] % 2).masked_fill(inputs["attention_mask"] == 0, -100)}
    return {**inputs, "labels": torch.tensor([1, 0, 1])}
