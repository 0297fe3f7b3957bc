"""Tensors as byte ranges: every dtype and file layout, and every damage to a file that holds them."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bert_pooled_mlm import conversion
from bert_pooled_mlm.conversion.sources import Folder
from checkpoints import POOLER, bits, save_weights, stored, todays
from grafting import QUERY, expected_of, graft, join, refused, split

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("of_donor", DTYPES)
@pytest.mark.parametrize("of_checkpoint", DTYPES)
def test_the_pooler_is_cast_to_the_checkpoints_dtype_as_torch_casts(of_checkpoint, of_donor, checkpoint, giver, out):
    target, source = DTYPES[of_checkpoint], DTYPES[of_donor]
    for folder, dtype in ((checkpoint, target), (giver, source)):
        save_weights(folder, {name: tensor.to(dtype) for name, tensor in stored(folder).items()})
    report = graft(checkpoint, giver)
    pooler = {name: todays(giver)[name].to(target) for name in POOLER}
    assert bits(stored(out)) == bits(todays(checkpoint) | pooler)
    cast = f"the pooler from {source} to the checkpoint's {target}".replace("torch.", "")
    assert report.cast == (None if of_donor == of_checkpoint else cast)
    assert f"torch.{report.dtype}" == str(target)
    assert not re.search(r"\b(B?F16|F32|F64)\b", json.dumps(report.to_dict()) + str(report)), "torch's names"


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("of", DTYPES)
def test_casting_is_torchs_for_every_kind_of_value(of, to, tmp_path):
    """Random bit patterns: halfway cases, subnormals and signed zeros; what would overflow is an error."""
    raw = np.random.default_rng(0).bytes(40_000 * DTYPES[of].itemsize)
    halfway = (1 + torch.arange(4096, dtype=torch.float64) / 4096).to(DTYPES[of])
    values = torch.cat([torch.frombuffer(bytearray(raw), dtype=DTYPES[of]), halfway])
    values = values[values.to(DTYPES[to]).isfinite()]
    assert len(values) > 10_000, "premise"
    data = memoryview(values.view(torch.uint8).numpy())
    cast = conversion.tensors.Tensor(Folder(tmp_path), "", of, (len(values),), 0, data).cast(to)
    assert (cast.dtype, cast.shape) == (to, (len(values),))
    assert cast.read() == values.to(DTYPES[to]).view(torch.uint8).numpy().tobytes()


def test_a_checkpoint_of_mixed_dtypes_keeps_each(checkpoint, donor, out):
    mixed = {
        name: tensor.to(torch.bfloat16 if "dense" in name else torch.float16 if "embeddings" in name else tensor.dtype)
        for name, tensor in todays(checkpoint).items()
    }
    assert len({tensor.dtype for tensor in mixed.values()}) == 3, "premise"
    save_weights(checkpoint, mixed)
    report = graft(checkpoint, donor)
    pooler = {name: todays(donor)[name].to(torch.bfloat16) for name in POOLER}  # as the dense layers around it
    assert bits(stored(out)) == bits(mixed | pooler)
    assert "bfloat16" in report.cast


@pytest.mark.versions
@pytest.mark.parametrize("part", ["checkpoint", "donor"])
@pytest.mark.parametrize(("shards", "kind"), [(3, "safetensors"), (1, "bin"), (3, "bin"), (1, "bin before torch 1.6")])
def test_every_layout_gives_the_same_tensors(shards, kind, part, lost, donor, place):
    save_weights(place / part, todays(place / part), shards, kind.split()[0])
    if "before" in kind:
        file = place / part / "pytorch_model.bin"
        torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)
    graft(place / "checkpoint", place / "donor")
    output = place / "out"
    assert bits(stored(output)) == expected_of(lost, donor)
    count = shards if part == "checkpoint" else 1
    assert len(list(output.glob("model*.safetensors"))) == count
    assert (output / "model.safetensors.index.json").exists() == (count > 1)
    assert not list(output.glob("*.bin*"))


# --- Damaged safetensors files ---------------------------------------------------------------------------------------


def with_header(change):
    """A file with a header that `change` has altered."""

    def damage(data: bytes) -> bytes:
        header, body = split(data)
        change(header)
        return join(header, body)

    return damage


def with_entry(**fields):
    return with_header(lambda header: header[QUERY].update(fields))


def with_offsets_of(name: str, shift: int):
    """A file in which QUERY is where another tensor is, or begins later than it does."""
    return with_header(
        lambda header: header[QUERY].update(data_offsets=[it + shift for it in header[name]["data_offsets"]])
    )


HUGE = 1 << 47
KIND = "does not describe a tensor"
DAMAGED_FILES = {
    "empty": (lambda data: b"", "a header of 0 bytes in a file of 0"),
    "truncated header": (lambda data: data[:100], r"a header of \d+ bytes in a file of 100"),
    "truncated data": (lambda data: data[:-1], r"describes \d+ bytes, the file has \d+"),
    "longer": (lambda data: data + b"\0", r"describes \d+ bytes, the file has \d+"),
    "a header without end": (lambda data: b"\xff" * 8 + data[8:], "a header of 18446744073709551615 bytes"),
    "a gigantic header": (
        lambda data: (9 << 20).to_bytes(8, "little") + b" " * (9 << 20) + data,
        "a header of 9437184 bytes; expected at most 8388608",
    ),
    "no JSON": (lambda data: join(b"{" * 8, split(data)[1]), "not valid JSON"),
    "no object": (lambda data: join(b"[]      ", split(data)[1]), "found list"),
    "nested too deeply": (lambda data: join(b"[" * 200_000, b""), "not valid JSON .*recursion"),
    "a key twice": (
        lambda data: join(data[8:].split(b"}}")[0] + b'},"__metadata__":{}}', split(data)[1]),
        "not valid JSON .*'__metadata__'",
    ),
    "an entry of another kind": (with_header(lambda header: header.update(x=5)), f"entry of 'x' {KIND}"),
    "an entry without shape": (with_header(lambda header: header[QUERY].pop("shape")), KIND),
    **{
        f"a size of {size!r:.10}": (with_entry(shape=[size, 32]), "expected a few whole numbers")
        for size in (-32, 32.0, True, "32", None, 10**400)
    },
    "many dimensions": (with_entry(shape=[1] * 10_000), "expected a few whole numbers"),
    "offsets of text": (with_entry(data_offsets=["0", "4096"]), "expected a few whole numbers"),
    "an unknown dtype": (with_entry(dtype="F4"), "the unknown dtype 'F4'"),
    "another dtype": (with_entry(dtype="F16"), r"\(float16 \[32, 32\]\) has 2048 bytes; the header says 4096"),
    "another shape": (with_entry(shape=[32, 31]), "has 3968 bytes; the header says 4096"),
    "sizes that overflow": (with_entry(shape=[HUGE, HUGE]), "the header says 4096"),
    "offsets backwards": (with_entry(data_offsets=[4096, 0]), "has 4096 bytes; the header says -4096"),
    "a gap": (with_offsets_of(QUERY, 4), r"starts at byte \d+, expected \d+"),
    "an overlap": (with_offsets_of(QUERY.replace("query", "key"), 0), r"starts at byte \d+, expected \d+"),
}


@pytest.mark.parametrize("damage", DAMAGED_FILES)
def test_a_damaged_safetensors_file_is_rejected(damage, place):
    change, match = DAMAGED_FILES[damage]
    file = place / "checkpoint" / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    assert refused(place, match).startswith(f"{file}: ")


# --- Indexes ---------------------------------------------------------------------------------------------------------


NO_MAP = "no weight_map of tensors to files"


def moved_to(shard):
    """An index with a tensor placed in another file."""
    return lambda index: index["weight_map"].update({QUERY: shard})


INDEXES = {
    "no weight_map": (lambda index: index.pop("weight_map"), NO_MAP),
    "an empty weight_map": (lambda index: index.update(weight_map={}), NO_MAP),
    "a list": (lambda index: index.update(weight_map=[1]), NO_MAP),
    "a shard that is a number": (moved_to(5), NO_MAP),
    **{
        f"a shard: {name}": (moved_to(name), f"the shard {re.escape(repr(name))}; expected a file in the same folder")
        for name in ("../x.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "config.json", "")
    },
    "a missing shard": (moved_to("model-0.safetensors"), "the shard model-0.safetensors, which is missing"),
    "a tensor in another shard": (
        lambda index: index["weight_map"].update(
            {QUERY: min(set(index["weight_map"].values()) - {index["weight_map"][QUERY]})}
        ),
        "not those that model.safetensors.index.json lists: .*query.weight",
    ),
    "a tensor that is nowhere": (
        lambda index: index["weight_map"].update(extra=index["weight_map"][QUERY]),
        "not those that .* lists: extra",
    ),
    "a tensor that is not listed": (lambda index: index["weight_map"].pop(QUERY), "lists: .*query.weight"),
}


@pytest.mark.parametrize("damage", INDEXES)
def test_an_index_that_does_not_match_its_shards_is_rejected(damage, place):
    change, match = INDEXES[damage]
    save_weights(place / "checkpoint", stored(place / "checkpoint"), 3)
    file = place / "checkpoint" / "model.safetensors.index.json"
    index = json.loads(file.read_text("utf-8"))
    change(index)
    file.write_text(json.dumps(index), encoding="utf-8")
    assert refused(place, match).startswith(str(file.parent))


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
    as_bin(place / part, {"x": Payload(mark)})
    if written_by == "pickle":
        bin.write_bytes(pickle.dumps({"x": Payload(mark)}))
    assert "weights_only" not in refused(place, f"{bin}: .*not unpickled"), "no advice of torch to load it unsafely"
    assert not mark.exists()
    if written_by == "torch":
        torch.load(bin, weights_only=False)["x"].close()
        assert mark.exists(), "premise: the payload works"


DICT = "expected a dict of tensors"
BINS = {
    "no pickle": (b"hello", "damaged"),
    "empty": (b"", "damaged"),
    "a training checkpoint": ({"model": {"a": torch.ones(1)}, "step": 1}, DICT),
    "a list": ([torch.ones(1)], DICT),
    "a tensor": (torch.ones(1), DICT),
    "flags": ({"x": torch.ones(3, dtype=torch.bool)}, "x is bool, strided, on cpu; expected values of float64"),
    "complex": ({"x": torch.ones(3, dtype=torch.complex64)}, "x is complex64"),
    "sparse": ({"x": torch.eye(3).to_sparse()}, "x is "),
    "on no device": ({"x": torch.ones(3, device="meta")}, "x is "),
    "expanded": ({"x": torch.ones(1).expand(2)}, "x is an expanded view"),
}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")  # torch warns about checks of sparse tensors that are off
@pytest.mark.parametrize("kind", BINS)
def test_a_bin_of_something_else_is_rejected(kind, place):
    value, match = BINS[kind]
    as_bin(place / "checkpoint", value)
    if isinstance(value, bytes):
        (place / "checkpoint" / "pytorch_model.bin").write_bytes(value)
    refused(place, f"checkpoint/pytorch_model.bin: .*{match}")
