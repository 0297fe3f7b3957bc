"""What a BERT is: its tensors' names and shapes, in every spelling that was ever saved."""

import pytest
import torch
from bert_pooled_mlm import conversion
from checkpoints import LAYER_NORM, SHAPE, bits, renamed, save_weights, stored, todays
from grafting import expected_of, graft, prefixed, tied_copies, unprefixed, without
from transformers import BertConfig, BertForPreTraining


@pytest.mark.versions
def test_the_table_of_tensors_is_that_of_bert():
    """The names and shapes that the converter expects, against what transformers builds."""
    config = BertConfig(**{**SHAPE, "num_hidden_layers": 3})
    built = {name: tuple(tensor.shape) for name, tensor in BertForPreTraining(config).state_dict().items()}
    for name in conversion.bert.DROPPED:
        built.pop(name, None)
    assert conversion.bert.expected_shapes(config.to_dict()) == built


def only_the_decoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As some versions save a tied pair: under the other of the two names."""
    tensors = dict(tensors)
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    return tensors


# How a checkpoint may be spelled: what makes it of today's tensors, and what the report says is dropped.
SPELLINGS = {
    "LayerNorm.gamma and beta": (lambda t: renamed(t, {new: old for old, new in LAYER_NORM.items()}), set()),
    "DistributedDataParallel": (prefixed("module."), set()),
    "torch.compile": (prefixed("_orig_mod."), set()),
    "torch.compile within DDP": (prefixed("module._orig_mod."), set()),
    "DDP within torch.compile": (prefixed("_orig_mod.module."), set()),
    "position_ids": (
        lambda t: t | {"bert.embeddings.position_ids": torch.arange(SHAPE["max_position_embeddings"])[None]},
        {"bert.embeddings.position_ids"},
    ),
    "the tied decoder too": (
        lambda t: t | tied_copies(t),
        {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"},
    ),
    "only the tied decoder": (only_the_decoder, set()),
    "the next-sentence head": (
        lambda t: t | {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)},
        {"cls.seq_relationship.weight", "cls.seq_relationship.bias"},
    ),
}


@pytest.mark.versions
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_checkpoint_gives_the_same_tensors(spelling, checkpoint, donor, lost, out):
    spell, dropped = SPELLINGS[spelling]
    save_weights(checkpoint, spell(todays(checkpoint)))
    assert todays(checkpoint).keys() != todays(lost).keys() or "gamma" in spelling, "premise: spelled otherwise"
    report = graft(checkpoint, donor)
    assert bits(stored(out)) == expected_of(lost, donor)
    assert report.dropped.keys() == dropped
    assert all(f"{name}: {reason}" in str(report) for name, reason in report.dropped.items())


DONOR_SPELLINGS = {
    "saved from BertModel": unprefixed,
    "old names": SPELLINGS["LayerNorm.gamma and beta"][0],
    "DistributedDataParallel": prefixed("module."),
    "with position_ids": SPELLINGS["position_ids"][0],
    "with a task's head": lambda t: t | {"classifier.weight": torch.ones(3, 32), "qa_outputs.bias": torch.ones(2)},
    "no MLM head": without("cls."),
}


@pytest.mark.parametrize("spelling", DONOR_SPELLINGS)
def test_every_spelling_of_a_donor_gives_the_same_pooler(spelling, lost, donor, giver, out):
    save_weights(giver, DONOR_SPELLINGS[spelling](todays(donor)))
    graft(lost, giver, out)
    assert bits(stored(out)) == expected_of(lost, donor)
