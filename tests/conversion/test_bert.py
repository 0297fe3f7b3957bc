"""What a BERT is: its tensors' names and shapes, in every spelling that was ever saved."""

import re

import pytest
import torch
from bert_pooled_mlm import conversion
from checkpoints import LAYER_NORM, SHAPE, bits, renamed, save_weights, stored, todays
from grafting import expected_of, graft, prefixed, tied_copies, unprefixed, without
from transformers import BertConfig, BertForPreTraining


@pytest.mark.versions
def test_the_table_of_tensors_is_what_transformers_builds():
    config = BertConfig(**{**SHAPE, "num_hidden_layers": 3})
    built = {name: tuple(tensor.shape) for name, tensor in BertForPreTraining(config).state_dict().items()}
    for name in conversion.bert.DROPPED:
        built.pop(name, None)
    assert conversion.bert.expected_shapes(config.to_dict()) == built


def in_each_layer(part: str):
    return lambda tensors: {re.sub(r"(layer\.\d+\.)", rf"\1{part}.", name): it for name, it in tensors.items()}


NEXT_SENTENCE = {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)}
POSITION_IDS = {"bert.embeddings.position_ids": torch.arange(SHAPE["max_position_embeddings"])[None]}
DECODER = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
# What makes a spelling of today's tensors, and what the report says is dropped.
SPELLINGS = {
    "LayerNorm.gamma and beta": (lambda t: renamed(t, {new: old for old, new in LAYER_NORM.items()}), set()),
    "Lightning": (prefixed("model."), set()),
    "a wrapper of one's own": (prefixed("net.student."), set()),
    "DistributedDataParallel": (prefixed("module."), set()),
    "torch.compile within DDP": (prefixed("module._orig_mod."), set()),
    "DDP within torch.compile": (prefixed("_orig_mod.module."), set()),
    "torch.compile, inside": (lambda t: renamed(t, {"bert.": "bert._orig_mod."}), set()),
    "activation checkpointing": (in_each_layer("_checkpoint_wrapped_module"), set()),
    "FSDP": (lambda t: prefixed("_fsdp_wrapped_module.")(in_each_layer("_fsdp_wrapped_module")(t)), set()),
    "AveragedModel": (lambda t: prefixed("module.")(t) | {"n_averaged": torch.tensor(4)}, {"n_averaged"}),
    "position_ids": (lambda t: t | POSITION_IDS, {*POSITION_IDS}),
    "the tied decoder too": (lambda t: t | tied_copies(t), DECODER),
    "only the tied decoder": (lambda t: renamed(t, {"cls.predictions.bias": "cls.predictions.decoder.bias"}), set()),
    "the next-sentence head": (lambda t: t | NEXT_SENTENCE, {*NEXT_SENTENCE}),
}


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_checkpoint_gives_the_same_tensors(spelling, kind, checkpoint, donor, lost, out):
    spell, dropped = SPELLINGS[spelling]
    save_weights(checkpoint, spell(todays(checkpoint)), kind=kind)
    report = graft(checkpoint, donor)
    assert bits(stored(out)) == expected_of(lost, donor)
    assert report.dropped.keys() == dropped
    assert all(f"{name}: {reason}" in str(report) for name, reason in report.dropped.items())


DONOR_SPELLINGS = {
    "saved from BertModel": unprefixed,
    "old names": SPELLINGS["LayerNorm.gamma and beta"][0],
    "DistributedDataParallel": prefixed("module."),
    "with position_ids": lambda t: t | POSITION_IDS,
    "with a task's head": lambda t: t | {"classifier.weight": torch.ones(3, 32), "qa_outputs.bias": torch.ones(2)},
    "no MLM head": without("cls."),
}


@pytest.mark.parametrize("spelling", DONOR_SPELLINGS)
def test_every_spelling_of_a_donor_gives_the_same_pooler(spelling, lost, donor, giver, out):
    save_weights(giver, DONOR_SPELLINGS[spelling](todays(donor)))
    graft(lost, giver, out)
    assert bits(stored(out)) == expected_of(lost, donor)
