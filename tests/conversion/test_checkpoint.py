"""What is a checkpoint of a BERT that lost its pooler, and what every other kind of folder is told."""

import re

import pytest
import torch
from bert_pooled_mlm import conversion
from checkpoints import SHAPE, bits, edit_json, save_weights, stored, todays
from grafting import QUERY, config_of, expected_of, graft, refused, without

CONFIGS = {
    "no JSON": ("{", r"config.json: not valid JSON \(Expecting property name.*\); the file is damaged"),
    "empty": ("", r"config.json: not valid JSON"),
    "a list": ("[1]", r"config.json: expected a JSON object, found list; the file is damaged"),
    "a key twice": ('{"a": 1, "a": 2}', r"the key 'a' stands there twice"),
    "too large": (" " * ((8 << 20) + 1), r"config.json: 8388609 bytes; expected at most 8388608 of such a file"),
    "nested": ('{"a": ' + "[" * 100_000, r"not valid JSON .*recursion"),
    "another model": ({"model_type": "roberta"}, r"model_type is 'roberta'; RoBERTa was trained without next-se"),
    "no model": ({"model_type": None}, r"model_type is None, architectures .*; only BERT"),
    "a list for a model": ({"model_type": ["bert"]}, r"model_type is \['bert'\]"),
    "no layers": ({"num_hidden_layers": 0}, r"num_hidden_layers is 0; expected a positive whole number"),
    "negative": ({"hidden_size": -32}, r"hidden_size is -32; expected a positive whole number"),
    "broken": ({"hidden_size": 32.0}, r"hidden_size is 32.0; expected"),
    "text": ({"vocab_size": "128"}, r"vocab_size is '128'; expected"),
    "truth": ({"type_vocab_size": True}, r"type_vocab_size is True; expected"),
    "null": ({"intermediate_size": None}, r"intermediate_size is None; expected"),
    "gigantic": ({"max_position_embeddings": 1 << 48}, r"max_position_embeddings is 281474976710656; expected"),
    "layers without end": ({"num_hidden_layers": 10**9}, r"num_hidden_layers is 1000000000, above 1024"),
    "tied by text": ({"tie_word_embeddings": "no"}, r"tie_word_embeddings is 'no'; expected true or false"),
    "heads that do not fit": (
        {"num_attention_heads": 5},
        r"hidden_size 32 is not a multiple of num_attention_heads 5",
    ),
}


@pytest.mark.parametrize("part", ["checkpoint", "donor"])
@pytest.mark.parametrize("damage", CONFIGS)
def test_a_damaged_config_is_refused(damage, part, place):
    change, match = CONFIGS[damage]
    file = place / part / "config.json"
    if isinstance(change, str):
        file.write_text(change, encoding="utf-8")
    else:
        edit_json(file, **change)
    assert refused(place, match).startswith(f"{file}: ")


@pytest.mark.parametrize("architectures", [5, None, "Bert", {"Bert": 1}, [], ["RobertaModel"], [None]])
def test_a_config_without_a_model_is_refused_whatever_its_architectures(architectures, place):
    edit_json(place / "checkpoint" / "config.json", "model_type", architectures=architectures)
    text = re.escape(repr(architectures))
    refused(place, rf"model_type is None, architectures {text}; only BERT \('bert'\) is converted")


ALONE = {
    "adapter_config.json": r"a PEFT adapter, not a model; merge it first: .*merge_and_unload\(\)",
    "modules.json": r"a sentence-transformers model.*; load it with SentenceTransformer\(FOLDER\)",
    "zero_to_fp32.py": r"a DeepSpeed checkpoint.*; merge them first: python zero_to_fp32.py",
    "pytorch_model_fsdp_0": r"an FSDP checkpoint.*; merge them first: accelerate merge-weights",
    "global_step7": r"a DeepSpeed checkpoint.*; merge them first: python -m deepspeed.utils.zero_to_fp32 FOLDER OUT",
    ".metadata": r"a distributed \(DCP\) checkpoint.*; merge them first: python -m torch.distributed.checkpoint",
    "tf_model.h5": r"a TensorFlow checkpoint; with transformers 4.x: .*from_tf=True",
    "model.ckpt.index": r"a TensorFlow 1 checkpoint; with transformers 4.x: transformers-cli convert",
    "flax_model.msgpack": r"a Flax checkpoint; with transformers 4.x: .*from_flax=True",
    "model_state.pdparams": r"a PaddlePaddle checkpoint; convert the PyTorch weights",
    "model.onnx": r"an export for inference, .*; convert the checkpoint that it was made from",
}


def test_every_other_kind_is_tested():
    patterns = [pattern for pattern, _, _ in conversion.other_kinds.FILES]
    assert [pattern for name in ALONE for pattern in patterns if re.fullmatch(pattern, name)] == patterns


@pytest.mark.parametrize("config", [True, False], ids=["with a config", "without"])
@pytest.mark.parametrize("marker", ALONE)
def test_a_folder_of_another_kind_is_told_what_to_run_first(marker, config, place):
    for name in ("model.safetensors", *([] if config else ["config.json"])):
        (place / "checkpoint" / name).unlink()
    (place / "checkpoint" / marker).write_text("{}")
    refused(place, ALONE[marker])


@pytest.mark.parametrize("marker", ["adapter_config.json", "modules.json"])
def test_weights_beside_such_a_file_do_not_hide_it(marker, place):
    (place / "checkpoint" / marker).write_text("[]")
    refused(place, ALONE[marker])


def changed(**values):
    return lambda tensors: tensors | {name.replace("__", "."): value for name, value in values.items()}


TENSORS = {
    "no MLM head": (without("cls."), r"no MLM head \(cls.predictions.\*\); it was not saved from BertForMaskedLM"),
    "saved from BertModel": (
        lambda t: without("cls.")(t) | {"pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(1)},
        r"no MLM head .*, but a pooler: nothing was lost; load it with BertModel",
    ),
    "nothing": (lambda t: {}, r"no MLM head"),
    "a missing layer": (
        without("layer.1."),
        r"missing tensors, for a BERT with this config.json: .*layer.1.* and 11 m",
    ),
    "a missing tensor": (without("layer.0.output.dense.bias"), r"missing tensors.*layer.0.output.dense.bias; is the"),
    "a missing embedding": (without("token_type"), r"missing tensors.*token_type_embeddings.weight"),
    "an unknown tensor": (changed(classifier__weight=torch.ones(2, 32)), r"unknown tensors.*: classifier.weight; is"),
    "another layer": (changed(bert__encoder__layer__2__x=torch.ones(1)), r"unknown tensors.*: bert.encoder.layer.2.x"),
    "a wrong shape": (
        changed(**{QUERY: torch.ones(32, 31)}),
        r"wrong tensors.*query.weight is float32 \[32, 31\], expected a floating \[32, 32\]",
    ),
    "whole numbers": (lambda t: t | {QUERY: t[QUERY].long()}, r"wrong tensors.*is int64 \[32, 32\], expected a float"),
    "a pooler of another shape": (
        changed(bert__pooler__dense__weight=torch.ones(31, 32), bert__pooler__dense__bias=torch.ones(32)),
        r"has a pooler already|wrong tensors.*bert.pooler.dense.weight is float32 \[31, 32\]",
    ),
    "stored twice": (
        lambda t: t | {f"module.{QUERY}": t[QUERY].clone()},
        rf"{QUERY} is stored twice, once as module.{QUERY}",
    ),
    "both spellings": (
        changed(bert__embeddings__LayerNorm__gamma=torch.ones(32), bert__embeddings__LayerNorm__weight=torch.ones(32)),
        r"embeddings.LayerNorm.weight is stored twice",
    ),
    "a decoder of its own": (
        lambda t: t | {"cls.predictions.decoder.weight": t["bert.embeddings.word_embeddings.weight"] + 1},
        r"cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight, which config.json ties",
    ),
    "a decoder's bias of its own": (
        lambda t: t | {"cls.predictions.decoder.bias": t["cls.predictions.bias"] + 1},
        r"cls.predictions.decoder.bias differs from cls.predictions.bias.*set tie_word_embeddings to false",
    ),
    "a decoder of another dtype": (
        lambda t: t | {"cls.predictions.decoder.bias": t["cls.predictions.bias"].half()},
        r"cls.predictions.decoder.bias differs from cls.predictions.bias",
    ),
    "a name of several lines": (changed(**{"a\nb\x1b[31m": torch.ones(1)}), r"unknown tensors"),
    "a name without end": (changed(**{"x" * 100_000: torch.ones(1)}), r"unknown tensors"),
}


@pytest.mark.parametrize("damage", TENSORS)
def test_tensors_that_are_not_a_berts_are_refused(damage, place):
    change, match = TENSORS[damage]
    save_weights(place / "checkpoint", change(stored(place / "checkpoint")))
    assert refused(place, match).startswith(str(place / "checkpoint"))


def test_all_offenders_are_listed_up_to_a_bound(place):
    tensors = stored(place / "checkpoint")
    save_weights(place / "checkpoint", tensors | {f"extra.{n}": torch.ones(1) for n in range(9)})
    text = refused(place, "unknown tensors")
    assert "extra.0, extra.1, extra.2, extra.3, extra.4 and 4 more" in text


def test_an_untied_checkpoint_needs_its_decoder(place):
    edit_json(place / "checkpoint" / "config.json", tie_word_embeddings=False)
    refused(place, r"missing tensors.*cls.predictions.decoder.weight \(config.json says tie_word_embeddings: false\)")


def test_every_shape_of_the_table_is_that_of_the_fixtures():
    """The premise of the messages above that hold numbers."""
    assert (SHAPE["hidden_size"], SHAPE["num_hidden_layers"], SHAPE["vocab_size"]) == (32, 2, 128)


def test_a_folder_without_weights_is_refused(place):
    (place / "checkpoint" / "model.safetensors").unlink()
    refused(place, r"checkpoint: no weights; expected one of model.safetensors, model.safetensors.index.json, pytorch")


def test_an_untied_decoder_is_kept(checkpoint, donor, out):
    # transformers 4.x ties this pair whatever the config says, so the folder is written by hand.
    edit_json(checkpoint / "config.json", tie_word_embeddings=False)
    own = {"cls.predictions.decoder.weight": torch.randn(128, 32, generator=torch.Generator().manual_seed(5))}
    save_weights(checkpoint, todays(checkpoint) | own)
    report = graft(checkpoint, donor)
    bias = bits(todays(checkpoint))["cls.predictions.bias"]  # transformers 5 would start the decoder's own anew
    assert bits(stored(out)) == expected_of(checkpoint, donor) | {"cls.predictions.decoder.bias": bias}
    assert report.dropped == {}
    assert config_of(out)["tie_word_embeddings"] is False
