"""A damaged folder gives a correct output, or an error of one line.

Hypothesis edits a file of the checkpoint or of the donor; `--fuzz-cases N` sets the number of edited folders in all.
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, ConversionError, convert
from checkpoints import LAYER_NORM, POOLER, bits, renamed, save_donor, save_lost, save_weights, snapshot, stored
from grafting import in_time, join, split
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from safetensors.torch import load

TINY = dict.fromkeys(("hidden_size", "intermediate_size", "max_position_embeddings"), 8)
TINY |= {"num_hidden_layers": 1, "num_attention_heads": 2}
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
DROPPED = {"bert.embeddings.position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias"}
CARD = b"---\nlicense: mit\ntags:\n- x\nbase_model: gone/away\n---\n\n# A model\n"
SECONDS = 20  # of one conversion of 10 kB, thousands of times what it takes
LINE = 4500  # characters of an error
# Fields of config.json that transformers follows to code, or that ours has.
FIELDS = (
    "custom_pipelines", "attn_implementation", "auto_map", "quantization_config", "task_specific_params", "id2label",
    "hidden_act", "pruned_heads", "pooler_source", "sparse_prediction", "pooler_loss_weight",
)  # fmt: skip
FOREIGN = FIELDS[:2]
SOURCES = (
    {"donor": "<b>x</b>", "revision": None, "sha256": dict.fromkeys(POOLER, "a" * 64), "lineage_cosine": 1.0},
    {"donor": "x" * 5000, "revision": "main", "sha256": {}, "lineage_cosine": 2, "forced": ["`"] * 50},
)
ODD = (
    None, True, False, -1, 0, 1, 2, 8, 64, 1 << 31, 1 << 48, 1 << 63, -(1 << 63), 0.5, float("nan"), float("inf"),
    "", ".", "..", "/", "a\nb", "\x1b[2J", "\0", "\ud800", "\ufeff", "x" * 5000, "~nobody-of-this-name/x", "gone/away",
    "bert-base-uncased", "bert_pooled_mlm", "BertForMaskedLM", "F32", "F16", "F64", "I64", "BOOL", "F8_E4M3",
    *SOURCES, "someone/kernel", {"x": {"impl": "evil.Pipeline"}}, [], {}, [[]], [0], [1, 2], {"": None},
)  # fmt: skip
VALUES = (
    st.sampled_from(ODD)
    | st.integers(-10, 300)
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.lists(st.integers(-1, 100), max_size=4)
    | st.dictionaries(st.text(max_size=4), st.sampled_from(ODD), max_size=3)
)
YAML = (
    "!!int ''", "!!timestamp x", "!!binary x", "!!python/object:os.system x", "!!set {a}", "!!omap [a]", "2020-01-01",
    "2020-99-99", "*gone", "&a x", "{<<: {a: 1}}", "{? [a] : b}", "0x", "1_", ".nan", "'", '"\\ud800"', "%", "\t",
    "|\n  text",
)  # fmt: skip
CARD_KEYS = (
    "license", "tags", "base_model", "model-index", "eval_results", "language", "datasets", "library_name",
    "pipeline_tag", "self", "to_dict", "__class__", "1", "true", "2020-01-01", "~", "<<", "? [a]\n", "'a\nb'",
)  # fmt: skip
BODIES = (b"", b"<!-- bert-pooled-mlm: begin -->" * 50, b"<!-- bert-pooled-mlm: end -->\n" * 50)


class Second(str):
    """A key that may be in a dict beside another of the same spelling."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@st.composite
def other_keys(draw, key: str, keys: list[str]) -> str:
    ways = (
        *keys, f"module.{key}", f"_orig_mod.module.{key}", key.removeprefix("bert."), f"{key}\n", "\ud800", "",
        "x" * 5000, *renamed({key: 0}, {new: old for old, new in LAYER_NORM.items()}), *TIED, *DROPPED,
        "__metadata__", *FIELDS,
    )  # fmt: skip
    return draw(st.sampled_from(ways) | st.text(max_size=8))


@st.composite
def edited_json(draw, value: object) -> object:
    """`value` with one thing changed, at any depth."""
    if isinstance(value, dict) and value:
        key, other = draw(st.sampled_from(list(value))), draw(st.sampled_from(list(value)))
        way = draw(st.sampled_from(("inside", "inside", "inside", "rename", "remove", "add", "repeat", "exchange")))
        note(f"{way} {key[:60]!r}")
        if way == "inside":
            return {**value, key: draw(edited_json(value[key]))}
        if way == "rename":
            name = draw(other_keys(key, list(value)))
            return {name if old == key else old: held for old, held in value.items()}
        if way == "remove":
            return {old: held for old, held in value.items() if old != key}
        if way == "repeat":
            return {**value, Second(key): value[key]}
        if way == "add":
            return {**value, draw(other_keys(key, list(value))): draw(st.just(value[key]) | VALUES)}
        return {**value, key: value[other], other: value[key]}
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        new = draw(st.sampled_from(([], [value[at]] * 2, None)))
        return [*value[:at], *([draw(edited_json(value[at]))] if new is None else new), *value[at + 1 :]]
    near = isinstance(value, int) and not isinstance(value, bool) and draw(st.booleans())
    new = value + draw(st.sampled_from((-8, -4, -1, 1, 4, 8, 32))) if near else draw(VALUES)
    note(f"{value!r:.60} -> {new!r:.60}")
    return new


@st.composite
def edited_bytes(draw, blob: bytes, reach: int | None = None) -> bytes:
    """`blob` cut, extended, or with some bytes changed in its first `reach` ones."""
    at = draw(st.integers(0, min(reach or len(blob), max(len(blob) - 1, 0))))
    some = draw(st.binary(min_size=1, max_size=4) | st.sampled_from((b"\xff\xfe", b"\0" * 8, b"[" * 9, b"NaN", b"\n")))
    ways = {"flip": blob[at + len(some) :], "cut": b"", "insert": blob[at:]}
    way = draw(st.sampled_from(list(ways)))
    note(f"{way} at {at}: {some[:8]!r}")
    return blob[:at] + (b"" if way == "cut" else some) + ways[way]


@st.composite
def edited_safetensors(draw, blob: bytes) -> bytes:
    length = int.from_bytes(blob[:8], "little")
    text, data = blob[8 : 8 + length], blob[8 + length :]
    way = draw(st.sampled_from(("header", "header", "header", "header", "length", "text", "anywhere")))
    if way == "anywhere":
        return draw(edited_bytes(blob))
    if way == "length":
        length = draw(st.sampled_from((0, 1, length - 1, length + 1, len(blob), 1 << 31, (1 << 64) - 1)))
        note(f"header of {length} bytes")
        return length.to_bytes(8, "little") + text + data
    return join(draw(edited_bytes(text)) if way == "text" else draw(edited_json(json.loads(text))), data)


@st.composite
def edited_card(draw, blob: bytes) -> bytes:
    if draw(st.booleans()):
        return draw(edited_bytes(blob))
    values = st.sampled_from(YAML) | VALUES.map(json.dumps)
    lines = draw(st.lists(st.tuples(st.sampled_from(CARD_KEYS), values), max_size=3))
    head = "".join(f"{key}: {value}\n" for key, value in lines).encode()
    fence = draw(st.sampled_from((b"---\n", b"---", b"--- \n", b"", b"---\r\n")))
    return b"---\n" + head + fence + b"\n# A model\n" + draw(st.sampled_from(BODIES))


class Files(dict):
    """A folder's files; "directory" and "link" are what there is instead of a file."""

    def __repr__(self) -> str:
        return f"{len(self)} files"


@st.composite
def edited_files(draw, files: dict[str, bytes], names: list[str]) -> Files:
    """A folder in which up to two edits were made to files of these names."""
    edited = Files(files)
    for name in draw(st.lists(st.sampled_from(names), max_size=2)):
        blob = edited[name]
        note(name)
        if not isinstance(blob, bytes):
            continue
        with contextlib.suppress(ValueError):  # the first edit may have left nothing to parse
            if draw(st.integers(0, 30)) == 30:
                edited[name] = draw(st.sampled_from(("directory", "link")))
            elif name.endswith(".safetensors") and len(blob) > 8:
                edited[name] = draw(edited_safetensors(blob))
            elif name == "README.md":
                edited[name] = draw(edited_card(blob))
            elif name.endswith(".json") and draw(st.integers(0, 4)) < 4:
                edited[name] = json.dumps(draw(edited_json(json.loads(blob)))).encode()
            else:
                edited[name] = draw(edited_bytes(blob, 3000 if name.endswith(".bin") else None))
    return edited


# One conversion, and what has to be true of it.


def lay_out(folder: Path, files: dict[str, bytes | str]) -> None:
    folder.mkdir()
    for name, held in files.items():
        if held == "directory":
            (folder / name).mkdir()
        elif held == "link":
            (folder / name).symlink_to("/nowhere")
        else:
            (folder / name).write_bytes(held)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def tensors_of(files: dict[str, bytes]) -> dict[str, torch.Tensor]:
    """The weights of a folder as torch and safetensors read them, the latter without the metadata that it rejects."""
    found = {}
    for name, blob in files.items():
        if name.endswith(".bin"):
            found |= torch.load(io.BytesIO(blob), weights_only=True)
        elif name.endswith(".safetensors"):
            header, body = split(blob)
            found |= load(join({key: entry for key, entry in header.items() if key != "__metadata__"}, body))
    return found


def todays(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for key, tensor in tensors.items():
        while key.startswith(("module.", "_orig_mod.")):
            key = key.split(".", 1)[1]
        found[key] = tensor
    return renamed(found, LAYER_NORM)


def check_output(output: Path, checkpoint: dict[str, bytes], donor: dict[str, bytes], base: set[str]) -> None:
    """Every tensor of the checkpoint bit for bit, the donor's pooler, and files that their readers accept."""
    expected = {key: it for key, it in todays(tensors_of(checkpoint)).items() if key not in DROPPED}
    if json.loads(checkpoint["config.json"]).get("tie_word_embeddings", True) is not False:
        for copy, original in TIED.items():
            if copy in expected:
                expected.setdefault(original, expected.pop(copy))
    if not expected.keys() >= {*POOLER}:
        given = todays(tensors_of(donor))
        expected |= {key: given[key if key in given else key.removeprefix("bert.")] for key in POOLER}
    written = files_of(output)
    tensors = tensors_of(written)
    assert bits(tensors) == bits(expected)
    assert base <= tensors.keys() <= base | TIED.keys()
    for name in written:
        if name.endswith(".json"):
            assert isinstance(json.loads(written[name].decode("utf-8")), list if name == "modules.json" else dict)
    assert not {*FOREIGN}.intersection(json.loads(written["config.json"]))
    assert b"evil" not in written["config.json"]
    assert b"<b>" not in written["README.md"].partition(b"begin -->")[2]
    if "model.safetensors.index.json" in written:
        index = json.loads(written["model.safetensors.index.json"])
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        assert index["weight_map"] == {key: name for name in written for key in tensors_of({name: written[name]})}
    assert isinstance(huggingface_hub.metadata_load(output / "README.md"), dict)


def attempt(place: Path, base: set[str], checkpoint: dict, donor: dict, named: bool, format: str) -> str:
    """Converts, checks the outcome, and returns which it was; `named`: the donor by config.json, not by the call."""
    with tempfile.TemporaryDirectory(dir=place) as work:
        work = Path(work)
        if named:
            config = json.loads(checkpoint["config.json"]) | {"_name_or_path": str(work / "donor")}
            checkpoint = checkpoint | {"config.json": json.dumps(config).encode()}
        lay_out(work / "checkpoint", checkpoint)
        lay_out(work / "donor", donor)
        before = snapshot(work)
        options = {} if named else {"pooler_from": work / "donor"}
        try:
            with in_time(SECONDS):
                report = convert(work / "checkpoint", work / "out", format=format, verify=False, **options)
        except ConversionError as error:
            line = str(error)
            assert line.isprintable(), "not one line"
            assert len(line) <= LINE
            assert snapshot(work) == before
            return "error"
        after = snapshot(work)
        assert {name: held for name, held in after.items() if name.split("/")[0] != "out"} == before
        if report.status == "already pooled":
            assert after == before
        else:
            check_output(work / "out", checkpoint, donor, base)
        return report.status


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """Folders to start from, as bytes."""
    place = tmp_path_factory.mktemp("fuzz")
    save_donor(place / "donor", **TINY)
    state = stored(save_lost(place / "single", place / "donor"))
    for kind, layout in (("sharded", (3, "safetensors")), ("bin", (1, "bin"))):
        save_weights(Path(shutil.copytree(place / "single", place / kind)), state, *layout)
    shutil.copytree(place / "donor", place / "pooled")
    BertPooledMLMForMaskedLM.from_pretrained(place / "donor").save_pretrained(place / "pooled")
    return {folder.name: files_of(folder) | {"README.md": CARD} for folder in place.iterdir()}


TARGETS = {
    "header": ("single", (".safetensors",)),
    "shards": ("sharded", (".safetensors", "index.json")),
    "config": ("single", ("/config.json",)),
    "pooled config": ("pooled", ("/config.json",)),
    "tokenizer and card": ("single", ("tokenizer_config.json", "README.md")),
    "pickle": ("bin", (".bin",)),
    "donor": ("donor", (".safetensors", "/config.json")),
}


@pytest.mark.parametrize("target", TARGETS)
def test_an_edited_folder_gives_a_correct_output_or_an_error(target, folders, tmp_path, request, monkeypatch):
    kind, endings = TARGETS[target]
    names = [name for name in sorted(folders[kind]) if f"/{name}".endswith(endings)]
    original = folders["single" if kind == "donor" else kind]
    cases = max(1, request.config.getoption("--fuzz-cases") // len(TARGETS))
    outcomes, base = Counter(), {*load(folders["single"]["model.safetensors"]), *POOLER}
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # flushing to disk is most of a tiny conversion's time

    @settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,  # `in_time` also ends an endless loop
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(edited_files(folders[kind], names), st.booleans(), st.sampled_from(("pooled", "bert")))
    def run(edited, named, format):
        checkpoint, donor = (original, edited) if kind == "donor" else (edited, folders["donor"])
        named &= checkpoint["config.json"] == original["config.json"]
        outcomes[attempt(tmp_path, base, checkpoint, donor, named, format)] += 1

    run()
    if cases >= 20:
        assert outcomes["converted"]
        assert outcomes["error"]
