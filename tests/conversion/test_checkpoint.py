"""What is a checkpoint of a BERT that lost its pooler: its config.json, its tensors."""

import re

import pytest
import torch
from checkpoints import bits, edit_json, renamed, save_weights, stored
from grafting import QUERY, config_of, graft, refused, rejected, without

CONFIGS = {
    "no JSON": ("{", "not valid JSON"),
    "empty": ("", "not valid JSON"),
    "a list": ("[1]", "found list"),
    "a key twice": ('{"a": 1, "a": 2}', "the key 'a'"),
    "nested": ('{"a": ' + "[" * 100_000, "not valid JSON .*recursion"),
    "RoBERTa": ({"model_type": "roberta"}, "'roberta': .*hfl/chinese-roberta-wwm-ext"),
    "ELECTRA": ({"model_type": "electra"}, "'electra', which has no trained pooler"),
    "another model": ({"model_type": "ernie"}, "model_type is 'ernie'; only BERT"),
    "a list for a model": ({"model_type": ["bert"]}, r"model_type is \['bert'\]"),
    "a decoder": ({"is_decoder": True}, "is_decoder is true"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    **{
        f"a size of {value!r}": ({"hidden_size": value}, f"hidden_size is {value!r}; expected a positive whole number")
        for value in (0, -32, 32.0, "32", True, None, 1 << 48)
    },
    "many layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, above 1024"),
    "tied by text": ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
    "heads that do not fit": ({"num_attention_heads": 5}, "32 is not a multiple of num_attention_heads 5"),
}


@pytest.mark.parametrize("damage", CONFIGS)
def test_a_config_that_is_not_a_berts_is_rejected(damage, place):
    change, match = CONFIGS[damage]
    file = place / "checkpoint" / "config.json"
    if isinstance(change, str):
        file.write_text(change, encoding="utf-8")
    else:
        edit_json(file, **change)
    assert refused(place, match).startswith(f"{file}: ")


@pytest.mark.parametrize("architectures", [5, None, "Bert", {"Bert": 1}, [], ["RobertaModel"], [None]])
def test_a_config_without_a_model_type_is_rejected_unless_its_architecture_is_a_berts(architectures, place):
    edit_json(place / "checkpoint" / "config.json", "model_type", architectures=architectures)
    refused(place, rf"model_type is None, architectures {re.escape(repr(architectures))}; only BERT")


@pytest.mark.parametrize("part", ["checkpoint", "donor"])
@pytest.mark.parametrize("name", ["config.json", "bert_config.json"])
def test_a_config_with_neither_field_is_a_berts_if_its_tensors_are(part, name, place):
    file = place / part / "config.json"
    edit_json(file, "model_type", "architectures", "tie_word_embeddings")
    file.rename(file.with_name(name))
    report = graft(place / "checkpoint", place / "donor", format="bert")
    assert config_of(place / "out")["model_type"] == "bert"
    assert report.left_behind == []


def test_the_tensors_of_another_model_under_such_a_config_are_rejected(place):
    edit_json(place / "checkpoint" / "config.json", "model_type", "architectures")
    save_weights(place / "checkpoint", renamed(stored(place / "checkpoint"), {"bert.": "roberta."}))
    refused(place, "missing tensors|unknown tensors")


def plus(**values):
    return lambda tensors: tensors | {name.replace("__", "."): value for name, value in values.items()}


DECODER = {"weight": "bert.embeddings.word_embeddings.weight", "bias": "cls.predictions.bias"}
TENSORS = {
    "no MLM head": (without("cls."), r"no MLM head \(cls.predictions.\*\).*--format encoder"),
    "saved from BertModel": (
        lambda t: without("cls.")(t) | {"pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(1)},
        "no MLM head .*, but a pooler.*BertModel",
    ),
    "a missing layer": (without("layer.1."), "missing tensors.*layer.1.* and 11 more"),
    "nine unknown tensors": (plus(**{f"x__{n}": torch.ones(1) for n in range(9)}), "x.0, x.1, x.2, x.3, x.4 and 4 m"),
    "a loss beside Lightning's model": (
        lambda t: {f"model.{name}": tensor for name, tensor in t.items()} | {"loss.weight": torch.ones(1)},
        "unknown tensors.*: loss.weight;",
    ),
    "another layer": (plus(bert__encoder__layer__2__x=torch.ones(1)), "unknown tensors.*: bert.encoder.layer.2.x"),
    "a wrong shape": (
        plus(**{QUERY: torch.ones(32, 31)}),
        r"wrong tensors.*query.weight is float32 \[32, 31\], expected a floating \[32, 32\]",
    ),
    "whole numbers": (lambda t: t | {QUERY: t[QUERY].long()}, r"wrong tensors.*is int64 \[32, 32\], expected a float"),
    "a pooler of another shape": (
        plus(bert__pooler__dense__weight=torch.ones(31, 32), bert__pooler__dense__bias=torch.ones(32)),
        r"wrong tensors.*bert.pooler.dense.weight is float32 \[31, 32\]",
    ),
    "a trained pooler": (
        plus(bert__pooler__dense__weight=torch.ones(32, 32), bert__pooler__dense__bias=torch.ones(32)),
        "has a pooler already.*--replace-pooler",
    ),
    "stored twice": (
        lambda t: t | {f"module.{QUERY}": t[QUERY].clone()},
        rf"{QUERY} is stored twice, once as module.{QUERY}",
    ),
    "both spellings": (
        plus(bert__embeddings__LayerNorm__gamma=torch.ones(32), bert__embeddings__LayerNorm__weight=torch.ones(32)),
        "embeddings.LayerNorm.weight is stored twice",
    ),
    **{
        f"a decoder's {part} of its own": (
            lambda t, part=part, tied=tied: t | {f"cls.predictions.decoder.{part}": t[tied] + 1},
            rf"cls.predictions.decoder.{part} differs from {tied}, .*tie_word_embeddings",
        )
        for part, tied in DECODER.items()
    },
    "a decoder of another dtype": (
        lambda t: t | {"cls.predictions.decoder.bias": t["cls.predictions.bias"].half()},
        "cls.predictions.decoder.bias differs from cls.predictions.bias",
    ),
    "a name of several lines": (plus(**{"a\nb\x1b[31m": torch.ones(1)}), "unknown tensors"),
    "a name without end": (plus(**{"x" * 100_000: torch.ones(1)}), "unknown tensors"),
    "split by DeepSpeed ZeRO-3": (
        lambda t: {name: torch.empty(0) for name in t},
        "have no values: .*python zero_to_fp32.py",
    ),
}


@pytest.mark.parametrize("damage", TENSORS)
def test_tensors_that_are_not_a_berts_are_rejected(damage, place):
    change, match = TENSORS[damage]
    save_weights(place / "checkpoint", change(stored(place / "checkpoint")))
    assert refused(place, match).startswith(f"{place / 'checkpoint'}: ")


def test_an_untied_checkpoint_needs_its_decoder(place):
    edit_json(place / "checkpoint" / "config.json", tie_word_embeddings=False)
    refused(place, r"missing tensors.*cls.predictions.decoder.weight \(config.json says tie_word_embeddings: false\)")


@pytest.mark.parametrize("head", ["MLM", "classifier", "none"])
def test_the_encoder_format_needs_no_mlm_head_and_drops_any(head, place):
    checkpoint, out = place / "checkpoint", place / "out"
    encoder = {name: tensor for name, tensor in stored(checkpoint).items() if name.startswith("bert.")}
    if head == "classifier":
        save_weights(checkpoint, encoder | {"classifier.weight": torch.ones(5, 32), "classifier.bias": torch.ones(5)})
    elif head == "none":
        save_weights(checkpoint, {name.removeprefix("bert."): tensor for name, tensor in encoder.items()})
    if head != "MLM":
        assert "--format encoder" in rejected(place).remedy
    report = graft(checkpoint, place / "donor", format="encoder")
    expected = encoder | {name: stored(place / "donor")[name] for name in report.grafted}
    assert bits(stored(out)) == bits({name.removeprefix("bert."): tensor for name, tensor in expected.items()})
    assert bool(report.dropped) == (head != "none")
