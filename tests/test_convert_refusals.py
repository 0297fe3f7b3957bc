"""Every refusal of the converter: one clear line, nothing written, nothing touched, nothing executed."""

import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import types
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from bert_pooled_mlm.convert import ConversionError, convert, main
from checkpoints import SHAPE, contents, edit_json, save_donor, save_weights, state, stored

converter = importlib.import_module("bert_pooled_mlm.convert")  # the package's `convert` is the function

WEIGHT, BIAS = "bert.pooler.dense.weight", "bert.pooler.dense.bias"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(autouse=True)
def no_hub(tmp_path, monkeypatch):
    """An empty cache, no Hub behind it, and a table without entries."""

    def absent(repo_id, revision):
        raise converter.OfflineModeIsEnabled("off")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path.parent / "no-cache"))
    monkeypatch.setattr(converter, "HubRepo", type("NoHub", (), {"__init__": lambda self, *args: absent(*args)}))
    monkeypatch.setattr(converter, "KNOWN_DONORS", ())


@pytest.fixture
def place(lost, donor, tmp_path) -> Path:
    """A folder that holds a checkpoint and its donor, and nothing else."""
    shutil.copytree(lost, tmp_path / "place" / "checkpoint")
    shutil.copytree(donor, tmp_path / "place" / "donor")
    return tmp_path / "place"


def refused(place: Path, match: str, checkpoint: str = "checkpoint", output: str = "out", **options) -> str:
    """Converts, and holds the refusal to all that is promised of one. Gives its text."""
    before = {name: found for name, found in state(place).items() if name != "."}
    options = {"pooler_from": place / "donor", "verify": False} | options
    with pytest.raises(ConversionError, match=match) as refusal:
        convert(place / checkpoint, place / output, **options)
    text = str(refusal.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 5000
    after = {name: found for name, found in state(place).items() if name != "."}
    assert after == before, "nothing is written, touched or left behind"
    return text


# --- Damage to the bytes of a safetensors file, in the checkpoint and in the donor -----------------------------------


def split(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def with_header(change):
    """The file with a header that `change` has altered in place, or returned anew."""

    def damage(data: bytes) -> bytes:
        header, body = split(data)
        return join(change(header) or header, body)

    return damage


def with_entry(**fields):
    return with_header(lambda header: header[QUERY].update(fields))


def shifted(header: dict) -> None:
    first = min((entry for key, entry in header.items() if key != "__metadata__"), key=lambda e: e["data_offsets"])
    first["data_offsets"] = [offset + 4 for offset in first["data_offsets"]]


def overlapping(header: dict) -> None:
    header[QUERY]["data_offsets"] = header[QUERY.replace("query", "key")]["data_offsets"]


HUGE = 1 << 47
DAMAGED_FILES = {
    "empty": (lambda data: b"", r"a header of 0 bytes in a file of 0: truncated, or not safetensors"),
    "7 bytes": (lambda data: data[:7], r"in a file of 7: truncated"),
    "truncated header": (lambda data: data[:100], r"a header of \d+ bytes in a file of 100: truncated"),
    "truncated data": (lambda data: data[:-1], r"describes \d+ bytes, the file has \d+: truncated or damaged"),
    "longer than described": (lambda data: data + b"\0", r"describes \d+ bytes, the file has \d+"),
    "a header without end": (lambda data: b"\xff" * 8 + data[8:], r"a header of 18446744073709551615 bytes"),
    "a gigantic header": (
        lambda data: (9 << 20).to_bytes(8, "little") + b" " * (9 << 20) + data,
        r"a header of 9437184 bytes; expected at most 8388608",
    ),
    "another format": (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"not safetensors"),
    "no JSON": (lambda data: join(b"{" * 8, split(data)[1]), r"not valid JSON .*; the file is damaged"),
    "no UTF-8": (lambda data: join(b'{"\xff": 1}', split(data)[1]), r"not valid JSON \('utf-8' codec"),
    "no object": (lambda data: join(b"[]      ", split(data)[1]), r"expected a JSON object, found list"),
    "nested too deeply": (lambda data: join(b"[" * 200_000, b""), r"not valid JSON .*recursion"),
    "a key twice": (
        lambda data: join(data[8:].split(b"}}")[0] + b'},"__metadata__":{}}', split(data)[1]),
        r"not valid JSON \(the key '__metadata__' stands there twice\)",
    ),
    "an entry of another kind": (with_header(lambda header: {**header, "x": 5}), r"entry of 'x' is not one of a ten"),
    "an entry without shape": (with_header(lambda header: header[QUERY].pop("shape") and None), r"is not one of a t"),
    "an entry with more": (with_entry(extra=1), r"the header's entry of '.*' is not one of a tensor; it is damaged"),
    "one offset": (with_entry(data_offsets=[0]), r"is not one of a tensor"),
    "an unknown dtype": (with_entry(dtype="F4"), r"has the unknown dtype 'F4'; expected F64, F32, F16, BF16"),
    "another dtype": (
        with_entry(dtype="F16"),
        r"query.weight \(F16 \[32, 32\]\) has 2048 bytes; the header says 4096",
    ),
    "another shape": (with_entry(shape=[32, 31]), r"has 3968 bytes; the header says 4096"),
    "a negative size": (with_entry(shape=[-32, -32]), r"has the shape \[-32, -32\] at .*; expected a few whole num"),
    "a broken size": (with_entry(shape=[32.0, 32]), r"has the shape \[32.0, 32\] at"),
    "a truth for a size": (with_entry(shape=[True, 1024]), r"has the shape \[True, 1024\] at"),
    "a size without bound": (with_entry(shape=[10**400, 0]), r"expected a few whole numbers"),
    "many dimensions": (with_entry(shape=[1] * 10_000), r"has the shape \[1, 1, 1.* at .*; expected a few whole nu"),
    "sizes that overflow": (with_entry(shape=[HUGE, HUGE]), r"the header says 4096"),
    "offsets backwards": (with_entry(data_offsets=[4096, 0]), r"has 4096 bytes; the header says -4096"),
    "offsets beyond the end": (with_entry(data_offsets=[HUGE, HUGE + 4096]), r"starts at byte \d+, expected \d+"),
    "offsets of text": (with_entry(data_offsets=["0", "4096"]), r"expected a few whole numbers"),
    "a gap": (with_header(shifted), r"starts at byte \d+, expected \d+: overlap or gap"),
    "an overlap": (with_header(overlapping), r"starts at byte \d+, expected \d+: overlap or gap"),
}


@pytest.mark.parametrize("part", ["checkpoint", "donor"])
@pytest.mark.parametrize("damage", DAMAGED_FILES)
def test_a_damaged_safetensors_file_is_refused(damage, part, place):
    change, match = DAMAGED_FILES[damage]
    file = place / part / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    text = refused(place, match)
    assert text.startswith(f"{file}: "), "the message names the file"


def test_a_file_that_shrinks_while_it_is_read_is_refused(place, monkeypatch):
    """Between plan and write, as when the training run is still going on."""
    write, file = converter.write_output, place / "checkpoint" / "model.safetensors"
    data = file.read_bytes()

    def shrink(*args):
        file.write_bytes(data[:-1000])
        write(*args)

    monkeypatch.setattr(converter, "write_output", shrink)
    with pytest.raises(ConversionError, match=r"model.safetensors: ended \d+ bytes early; was it changed\?"):
        convert(place / "checkpoint", place / "out", pooler_from=place / "donor", verify=False)
    assert {path.name for path in place.iterdir()} == {"checkpoint", "donor"}


# --- Damage to the config --------------------------------------------------------------------------------------------

CONFIGS = {
    "no JSON": ("{", r"config.json: not valid JSON \(Expecting property name.*\); the file is damaged"),
    "empty": ("", r"config.json: not valid JSON"),
    "a list": ("[1]", r"config.json: expected a JSON object, found list; the file is damaged"),
    "a key twice": ('{"a": 1, "a": 2}', r"the key 'a' stands there twice"),
    "too large": (" " * ((8 << 20) + 1), r"config.json: 8388609 bytes; expected at most 8388608 of such a file"),
    "nested": ('{"a": ' + "[" * 100_000, r"not valid JSON .*recursion"),
    "another model": ({"model_type": "roberta"}, r"model_type is 'roberta'; only BERT \('bert'\) has this pooler"),
    "no model": ({"model_type": None}, r"model_type is None; only BERT"),
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
    refused(place, r"model_type is None; only BERT")


# --- A checkpoint that is something else -----------------------------------------------------------------------------

ALONE = {
    "adapter_config.json": r"a PEFT adapter, not a model; merge it first: .*merge_and_unload\(\)",
    "modules.json": r"a sentence-transformers model.*; load it with SentenceTransformer\(FOLDER\)",
    "zero_to_fp32.py": r"a DeepSpeed checkpoint.*; merge them first: python zero_to_fp32.py",
    "pytorch_model_fsdp_0": r"an FSDP checkpoint.*; merge them first: accelerate merge-weights",
    ".metadata": r"a distributed \(DCP\) checkpoint.*; merge them first: python -m torch.distributed.checkpoint",
    "tf_model.h5": r"a TensorFlow checkpoint; with transformers 4.x: .*from_tf=True",
    "model.ckpt.index": r"a TensorFlow 1 checkpoint; with transformers 4.x: transformers-cli convert",
    "flax_model.msgpack": r"a Flax checkpoint; with transformers 4.x: .*from_flax=True",
}


def test_every_other_kind_is_tested():
    assert ALONE.keys() == {marker for marker, _, _ in converter.OTHER_KINDS}


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


def without(*parts: str):
    return lambda tensors: {name: t for name, t in tensors.items() if not any(part in name for part in parts)}


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
        r"missing tensors, for a BERT with this config.json: .*layer.1.* and 11 more",
    ),
    "a missing tensor": (
        without("layer.0.output.dense.bias"),
        r"missing tensors.*layer.0.output.dense.bias; is the co",
    ),
    "a missing embedding": (without("token_type"), r"missing tensors.*token_type_embeddings.weight"),
    "an unknown tensor": (
        changed(classifier__weight=torch.ones(2, 32)),
        r"unknown tensors.*: classifier.weight; is th",
    ),
    "another layer": (changed(bert__encoder__layer__2__x=torch.ones(1)), r"unknown tensors.*: bert.encoder.layer.2.x"),
    "a wrong shape": (
        lambda t: t | {QUERY: torch.ones(32, 31)},
        r"wrong tensors.*query.weight is F32 \[32, 31\], expected a floating \[32, 32\]",
    ),
    "whole numbers": (
        lambda t: t | {QUERY: t[QUERY].long()},
        r"wrong tensors.*is I64 \[32, 32\], expected a floating",
    ),
    "a pooler of another shape": (
        changed(bert__pooler__dense__weight=torch.ones(31, 32), bert__pooler__dense__bias=torch.ones(32)),
        r"has a pooler already|wrong tensors.*bert.pooler.dense.weight is F32 \[31, 32\]",
    ),
    "stored twice": (
        lambda t: t | {f"module.{QUERY}": t[QUERY].clone()},
        rf"{QUERY} is stored twice, once as module.{QUERY}",
    ),
    "both spellings": (
        lambda t: (
            t | {"bert.embeddings.LayerNorm.gamma": torch.ones(32), "bert.embeddings.LayerNorm.weight": torch.ones(32)}
        ),
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


def test_a_checkpoint_with_a_pooler_is_refused(place):
    tensors = stored(place / "donor")
    save_weights(place / "checkpoint", {name: t for name, t in tensors.items() if "seq_relationship" not in name})
    refused(place, r"has a pooler already \(bert.pooler.dense.\*\).*graft the original over it: --replace-pooler")


# --- Indexes ---------------------------------------------------------------------------------------------------------


def index_of(folder: Path) -> Path:
    return next(folder.glob("*.index.json"))


def moved_to(shard):
    """The index with its first tensor placed in another file."""

    def damage(index: dict) -> None:
        index["weight_map"][QUERY] = shard

    return damage


INDEXES = {
    "no weight_map": (lambda index: index.pop("weight_map") and None, r"no weight_map of tensors to files; it is dam"),
    "an empty weight_map": (lambda index: index.update(weight_map={}), r"no weight_map of tensors to files"),
    "a list": (lambda index: index.update(weight_map=[1]), r"no weight_map of tensors to files"),
    "a shard that is a number": (moved_to(5), r"no weight_map of tensors to files"),
    "a parent's shard": (
        moved_to("../x.safetensors"),
        r"names the shard '../x.safetensors'; expected a file in the s",
    ),
    "an absolute shard": (moved_to("/etc/x.safetensors"), r"names the shard '/etc/x.safetensors'; expected a file"),
    "a shard in a folder": (moved_to("in/x.safetensors"), r"names the shard 'in/x.safetensors'; expected a file"),
    "a shard of Windows": (moved_to("..\\x.safetensors"), r"names the shard .*; expected a file in the same folder"),
    "a shard of another kind": (moved_to("config.json"), r"names the shard 'config.json'; expected a file in the sam"),
    "an empty name": (moved_to(""), r"names the shard ''; expected a file"),
    "a missing shard": (
        moved_to("model-0.safetensors"),
        r"names the shard model-0.safetensors, which is missing; cop",
    ),
    "a tensor in another shard": (
        lambda index: index["weight_map"].update(
            {QUERY: min(set(index["weight_map"].values()) - {index["weight_map"][QUERY]})}
        ),
        r"its tensors are not those that model.safetensors.index.json lists: .*query.weight; the index belongs to",
    ),
    "a tensor that is nowhere": (
        lambda index: index["weight_map"].update(extra=index["weight_map"][QUERY]),
        r"its tensors are not those that .* lists: extra; the index belongs to other shards",
    ),
    "a tensor that is not listed": (
        lambda index: index["weight_map"].pop(QUERY) and None,
        r"lists: .*query.weight; the",
    ),
}


@pytest.mark.parametrize("part", ["checkpoint", "donor"])
@pytest.mark.parametrize("damage", INDEXES)
def test_an_index_that_does_not_fit_its_shards_is_refused(damage, part, place):
    change, match = INDEXES[damage]
    save_weights(place / part, stored(place / part), 3)
    file = index_of(place / part)
    index = json.loads(file.read_text("utf-8"))
    change(index)
    file.write_text(json.dumps(index), encoding="utf-8")
    assert refused(place, match).startswith(str(place / part))


def test_a_tensor_in_two_shards_is_refused(place):
    folder = place / "checkpoint"
    save_weights(folder, stored(folder), 3)
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    header, body = split(second.read_bytes())
    name = next(key for key in split(first.read_bytes())[0] if key != "__metadata__")
    header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    second.write_bytes(join(header, body + b"\0\0\0\0"))
    refused(place, rf"its tensors are not those that .* lists: {re.escape(name)}")


# --- Links out of the folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt", "README.md"])
def test_a_link_out_of_the_folder_is_not_followed(name, place):
    """Else a downloaded folder could copy any file of its reader into an output that is then pushed."""
    secret = place / "secret"
    secret.write_text("# Secret\n")
    file = place / "checkpoint" / name
    if file.exists():
        shutil.move(file, secret)
    file.symlink_to("../secret")
    refused(place, rf"{name}: a link that leads out of the folder, to {secret}; copy the file in")


@pytest.mark.parametrize("kind", ["dead link", "circle", "folder", "pipe"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_what_is_not_a_file_is_refused(name, kind, place):
    file = place / "checkpoint" / name
    file.unlink()
    make = {
        "dead link": lambda: file.symlink_to("absent"),
        "circle": lambda: file.symlink_to(name),
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
    }
    make[kind]()
    refused(place, rf"{name}: expected a file, found something else or a dead link; remove it")


def test_a_link_within_the_folder_is_fine(place):
    folder = place / "checkpoint"
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    report = convert(folder, place / "out", pooler_from=place / "donor", verify=False)
    assert report.status == "converted"
    assert not (place / "out" / "model.safetensors").is_symlink()


# --- Pickles ---------------------------------------------------------------------------------------------------------


class Payload:
    """Pickled code that creates a file when it is loaded the usual way."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def as_bin(folder: Path, value) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(value, folder / "pytorch_model.bin")


@pytest.mark.parametrize("part", ["checkpoint", "donor"])
@pytest.mark.parametrize("written_by", ["torch", "pickle"])
def test_code_in_a_pickle_is_not_executed(written_by, part, place, tmp_path):
    mark, bin = tmp_path / "executed", place / part / "pytorch_model.bin"
    if written_by == "torch":
        as_bin(place / part, {"x": Payload(mark)})
    else:
        (place / part / "model.safetensors").unlink()
        bin.write_bytes(pickle.dumps({"x": Payload(mark)}))
    refused(place, r"pytorch_model.bin: torch.load\(weights_only=True\) refused it .*could run code.*save_pretrained")
    assert not mark.exists()
    if written_by == "torch":
        torch.load(bin, weights_only=False)["x"].close()
        assert mark.exists(), "premise: the payload works"


BINS = {
    "no pickle": (b"hello", r"refused it .*It is damaged, or holds more than tensors"),
    "empty": (b"", r"refused it"),
    "a training checkpoint": (
        {"model": {"a": torch.ones(1)}, "step": 1},
        r"expected a dict of tensors; found somethi",
    ),
    "a list": ([torch.ones(1)], r"expected a dict of tensors; found something else \(a training checkpoint\?\); save"),
    "a tensor": (torch.ones(1), r"expected a dict of tensors"),
    "truths": ({"x": torch.ones(3, dtype=torch.bool)}, r"x is torch.bool.*; expected values of float64, float"),
    "complex": ({"x": torch.ones(3, dtype=torch.complex64)}, r"x is torch.complex64"),
    "sparse": ({"x": torch.eye(3).to_sparse()}, r"pytorch_model.bin: x "),
    "on no device": ({"x": torch.ones(3, device="meta")}, r"pytorch_model.bin: x "),
    "expanded": ({"x": torch.ones(1).expand(1 << 40)}, r"pytorch_model.bin: x "),
}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")  # torch warns about checks of sparse tensors that are off
@pytest.mark.parametrize("kind", BINS)
def test_a_bin_of_something_else_is_refused(kind, place):
    value, match = BINS[kind]
    as_bin(place / "checkpoint", value)
    if isinstance(value, bytes):
        (place / "checkpoint" / "pytorch_model.bin").write_bytes(value)
    refused(place, match)


def test_a_truncated_bin_is_refused(place):
    as_bin(place / "checkpoint", stored(place / "checkpoint"))
    file = place / "checkpoint" / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-500])
    refused(place, r"pytorch_model.bin: torch.load\(weights_only=True\) refused it")


# --- Donors ----------------------------------------------------------------------------------------------------------

DONORS = {
    "no pooler": (without("pooler"), r"donor: has no bert.pooler.dense.weight \(no pooler: it lost its own; name the"),
    "no bias": (without(BIAS), r"donor: has no bert.pooler.dense.bias \(no pooler"),
    "no layer": (without("layer.1."), r"donor: has no bert.encoder.layer.1.*output.dense.weight \(no such layer\)"),
    "another shape": (
        lambda t: t | {WEIGHT: torch.ones(32, 31)},
        r"weight is F32 \[32, 31\], expected a floating \[3",
    ),
    "whole numbers": (lambda t: t | {BIAS: torch.ones(32).long()}, r"bias is I64 \[32\], expected a floating \[32\]"),
    "stored twice": (lambda t: t | {f"module.{BIAS}": t[BIAS].clone()}, r"bert.pooler.dense.bias is stored twice"),
    "not a number": (lambda t: t | {BIAS: t[BIAS] * torch.nan}, r"not finite"),
    "infinite": (lambda t: t | {WEIGHT: t[WEIGHT] / 0}, r"not finite"),
    "unrelated": (
        lambda t: t | {name: t[name].flip(0) for name in t if "layer.1.attention.output.dense.weight" in name},
        r"encoder is not related to the checkpoint's \(cosine .*expected at least 0.5\).*it all the same: --force",
    ),
    "without direction": (
        lambda t: t | {name: t[name] * 0 for name in t if "layer.1.attention.output.dense.weight" in name},
        r"not related to the checkpoint's \(cosine 0.000",
    ),
    "a lineage of no number": (
        lambda t: t | {name: t[name] * torch.nan for name in t if "layer.1.attention.output.dense.weight" in name},
        r"not related to the checkpoint's \(cosine 0.000",
    ),
    "never trained": (
        lambda t: t | {BIAS: torch.zeros(32)},
        r"its pooler was never trained \(the bias is exactly zero",
    ),
}


@pytest.mark.filterwarnings("error")  # a lineage of no number must not warn either
@pytest.mark.parametrize("damage", DONORS)
def test_a_donor_whose_pooler_is_of_no_use_is_refused(damage, place):
    change, match = DONORS[damage]
    save_weights(place / "donor", change(stored(place / "donor")))
    refused(place, match)


def test_a_donor_of_another_width_is_refused(place, tmp_path):
    save_donor(tmp_path / "wide", hidden_size=64)
    refused(place, r"wide: hidden_size is 64, the checkpoint's is 32", pooler_from=tmp_path / "wide")


@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 65520.0), (torch.bfloat16, 3.4e38)])
def test_a_pooler_too_large_for_the_checkpoints_dtype_is_refused(dtype, value, place):
    save_weights(place / "checkpoint", {name: t.to(dtype) for name, t in stored(place / "checkpoint").items()})
    tensors = stored(place / "donor")
    tensors[WEIGHT][0, 0] = value
    assert tensors[WEIGHT].isfinite().all(), "premise"
    save_weights(place / "donor", tensors)
    name = str(dtype).removeprefix("torch.")
    refused(place, rf"not finite as {name}")


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_no_pattern_of_a_value_that_is_not_finite_passes(dtype, bits, place):
    save_weights(place / "checkpoint", {name: t.to(dtype) for name, t in stored(place / "checkpoint").items()})
    tensors = stored(place / "donor")
    tensors[BIAS].view(torch.int32)[3] = int(np.uint32(bits).view(np.int32))
    save_weights(place / "donor", tensors)
    refused(place, r"not finite")


NO_DONORS = {
    "checkpoint": r"checkpoint: has no bert.pooler.dense.weight \(no pooler",
    "donor/config.json": r"config.json: expected a checkpoint's folder, found a file; pass the folder that holds it",
    "~nosuchuser/x": r"~nosuchuser/x: no such folder",
    "a b": r"a b: no such folder",
    "absent": r"absent: no such folder, and not in the local cache, and the Hub is not asked",
    "user/absent": r"user/absent: no such folder, .*or run `hf download user/absent` elsewhere and pass the folder",
}


@pytest.mark.parametrize("name", NO_DONORS)
def test_a_donor_that_is_none_is_refused(name, place, monkeypatch):
    monkeypatch.chdir(place)
    refused(place, NO_DONORS[name], pooler_from=name)


def test_a_file_that_the_hub_lists_and_does_not_have_is_refused(place, monkeypatch):
    """As when the repository is changed while it is read. How the real client fails: tests/test_convert_hub.py."""

    def gone(self, *args):
        raise converter.EntryNotFoundError("404 for model.safetensors")

    monkeypatch.setattr(converter.HubRepo, "__init__", gone)
    match = r"user/repo: a file is missing on the Hub: 404 for model.safetensors"
    refused(place, match, pooler_from="user/repo")


def test_no_donor_at_all_is_refused(place):
    edit_json(place / "checkpoint" / "config.json", "_name_or_path")
    refused(place, r"no donor found for its pooler; name the model.*--pooler-from FOLDER_OR_HUB_ID", pooler_from=None)


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"pooler_revision": "v1"}, r"donor: a folder has no revision 'v1'; leave the revision out"),
        ({"revision": "v1"}, r"checkpoint: a folder has no revision 'v1'; leave the revision out"),
        ({"push_to_hub": "a/b/c"}, r"a/b/c: not a repository id of the Hub; expected user/name or name"),
    ],
)
def test_options_that_do_not_fit_the_input_are_refused(option, match, place):
    refused(place, match, **option)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"format": "onnx"}, r"format='onnx': expected 'pooled' or 'bert'"), ({"force_donor": True}, r"a guess is not")],
)
def test_wrong_usage_of_the_function_is_a_value_error(options, match, place):
    with pytest.raises(ValueError, match=match):
        convert(place / "checkpoint", place / "out", **options)


# --- The input's folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("absent", r"place/absent: no such folder$"),
        ("checkpoint/config.json", r"config.json: expected a checkpoint's folder, found a file; pass the folder that"),
        ("../place", r"place: no config.json; pass the folder that save_pretrained wrote"),
    ],
)
def test_an_input_that_is_no_checkpoint_is_refused(name, match, place):
    refused(place, match, checkpoint=name)


def test_a_root_is_refused():
    with pytest.raises(ConversionError, match=r"^/: "):
        convert("/", verify=False)


def test_a_folder_without_weights_is_refused(place):
    (place / "checkpoint" / "model.safetensors").unlink()
    refused(
        place, r"checkpoint: no weights; expected one of model.safetensors, model.safetensors.index.json, pytorch_m"
    )


READMES = {
    "YAML": (b"---\na: [\n---\n# T\n", r"README.md: its metadata is not valid YAML .*; mend or remove it"),
    "code": (b"---\na: !!python/object/apply:os.system [x]\n---\n", r"its metadata is not valid YAML \(could not det"),
    "a list": (b"---\n- a\n---\n", r"README.md: its metadata "),
    "Latin-1": ("---\na: \xe9\n---\n".encode("latin-1"), r"README.md: its metadata "),
    "what PyYAML chokes on": (b'---\na: !!int ""\n---\n', r"README.md: its metadata is not valid YAML"),
}


@pytest.mark.parametrize("kind", READMES)
def test_a_readme_with_damaged_metadata_is_refused(kind, place):
    data, match = READMES[kind]
    (place / "checkpoint" / "README.md").write_bytes(data)
    refused(place, match)


def test_a_readme_without_end_is_refused(place):
    with (place / "checkpoint" / "README.md").open("wb") as file:
        file.truncate((8 << 20) + 1)
    refused(place, r"README.md: more than 8388608 bytes")


def test_a_damaged_tokenizer_config_is_refused(place):
    (place / "checkpoint" / "tokenizer_config.json").write_text("{")
    refused(place, r"tokenizer_config.json: not valid JSON")


# --- The destination -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["checkpoint", "checkpoint/out", "checkpoint/a/b", ".", "..", "link/out"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_destination_in_or_around_the_input_is_refused(output, overwrite, place):
    (place / "link").symlink_to("checkpoint")
    refused(
        place, r"inside the checkpoint .*, or around it; choose a folder beside it", output=output, overwrite=overwrite
    )


@pytest.mark.parametrize("output", ["donor", "donor/out"])
def test_a_destination_in_the_donor_is_refused(output, place):
    refused(place, r"inside the donor .*, or around it; choose a folder beside it", output=output, overwrite=True)


@pytest.mark.parametrize("kind", ["folder", "file", "dead link", "circle"])
def test_a_destination_that_exists_is_refused(kind, place):
    out = place / "out"
    make = {
        "folder": out.mkdir,
        "file": lambda: out.write_text("x"),
        "dead link": lambda: out.symlink_to("absent"),
        "circle": lambda: out.symlink_to("out"),
    }
    make[kind]()
    refused(place, r"out: exists already; choose another with -o, or replace it with --overwrite")


@pytest.mark.parametrize("kind", ["a folder of yours", "a file", "a link to a checkpoint", "code beside a config"])
def test_overwrite_leaves_alone_what_is_no_checkpoint(kind, place, donor):
    out = place / "out"
    if kind == "a file":
        out.write_text("mine")
    elif kind == "a link to a checkpoint":
        shutil.copytree(donor, place / "other")
        out.symlink_to("other")
    else:
        out.mkdir()
        (out / ("config.json" if "config" in kind else "thesis.tex")).write_text("mine")
    refused(place, r"out: does not look like a checkpoint, so --overwrite leaves it alone", overwrite=True)


def test_a_destination_under_a_file_is_refused(place):
    (place / "file").write_text("x")
    refused(place, r"Not a directory; nothing was written", output="file/deep/out")


FAILING = {"mkdir": PermissionError(13, "Permission denied"), "fsync": OSError(28, "No space left on device"),
           "rename": OSError(30, "Read-only file system")}  # fmt: skip


@pytest.mark.parametrize("call", FAILING)
@pytest.mark.parametrize("deep", [True, False])
def test_a_destination_that_cannot_be_written_is_refused(call, deep, place, monkeypatch):
    """Tests may run as root, whom no mode stops: the system's refusals are simulated."""

    def fail(path, *args, **kwargs):
        error = FAILING[call]
        raise type(error)(error.errno, error.strerror, None if call == "fsync" else str(path))

    monkeypatch.setattr(os, call, fail)
    output = "a/b/out" if deep and call != "mkdir" else "out"
    text = refused(place, f"{FAILING[call].strerror}; nothing was written", output=output)
    assert "out" in text, "the message names the destination"


def test_too_little_room_is_told_beforehand(place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    refused(place, rf"{place}: \d+ bytes to write, 1000 free; make room or choose another -o")


# --- Verification ----------------------------------------------------------------------------------------------------


def test_a_disk_that_changes_bits_is_noticed(place, monkeypatch):
    write = converter.write_output

    def faulty(plan, folder, *rest):
        write(plan, folder, *rest)
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(data)

    monkeypatch.setattr(converter, "write_output", faulty)
    refused(place, r"what was written differs from what was read: .*; is the disk sound\?", verify=True)


@pytest.mark.parametrize(
    ("outcome", "match"),
    [
        ((1, "", "Traceback\nValueError: no"), r"out: could not be loaded as it was written: ValueError: no"),
        ((-9, "", ""), r"could not be loaded as it was written: no message"),
        (
            (0, '{"missing": ["x"], "mismatched": [], "pooler_equal": true, "loads_equal": false}', ""),
            r"two loads through AutoModel are not what they should be: .*'missing': \['x'\].*'loads_equal': False",
        ),
    ],
)
def test_loads_that_fail_leave_nothing(outcome, match, place, monkeypatch):
    code, out, err = outcome
    done = types.SimpleNamespace(returncode=code, stdout=out, stderr=err)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    refused(place, match, verify=True)


def test_what_transformers_cannot_load_is_not_given_its_name(place):
    """The real thing: a config that the converter accepts, and `BertModel` does not."""
    edit_json(place / "checkpoint" / "config.json", hidden_act="no such function")
    refused(place, r"out: could not be loaded as it was written: .*no such function", verify=True)


# --- The command line ------------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(place, capfd):
    (place / "checkpoint" / "config.json").unlink()
    assert main([str(place / "checkpoint"), "--pooler-from", str(place / "donor")]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"error: {place / 'checkpoint'}: no config.json; pass the folder that save_pretrained wrote\n"


def test_two_outputs_of_one_name_are_refused(place, capsys):
    shutil.copytree(place / "checkpoint", place / "other" / "checkpoint")
    inputs = [str(place / "checkpoint"), str(place / "other" / "checkpoint")]
    arguments = ["--pooler-from", str(place / "donor"), "--no-verify", "-o", str(place / "out")]
    assert main([*inputs, *arguments]) == 1
    text = "out/checkpoint: an earlier checkpoint of this call has the same name; convert it alone"
    assert text in capsys.readouterr().err
    assert contents(place / "out").keys() >= {"checkpoint/config.json"}, "the first is written"


def test_every_shape_of_the_table_is_that_of_the_fixtures():
    """The premise of the messages above that hold numbers."""
    assert (SHAPE["hidden_size"], SHAPE["num_hidden_layers"], SHAPE["vocab_size"]) == (32, 2, 128)


def test_without_what_the_verification_needs_nothing_is_begun(lost, donor, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
    )
    output = tmp_path / "out"
    with pytest.raises(ConversionError, match="can't be verified without torch; install them, or pass --no-verify"):
        convert(lost, output, pooler_from=donor)
    assert not output.exists()
    assert convert(lost, output, pooler_from=donor, verify=False).status == "converted"


def test_a_pooled_checkpoint_is_not_pushed_in_silence(lost, donor, tmp_path):
    convert(lost, tmp_path / "out", pooler_from=donor, verify=False)
    with pytest.raises(ConversionError, match=r"pooled already, nothing was pushed; .*hf upload user/repo "):
        convert(tmp_path / "out", push_to_hub="user/repo", verify=False)
