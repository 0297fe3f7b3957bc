"""Whatever a damaged or hostile folder holds: a correct output, or one line that refuses it.

Hypothesis edits a file of the checkpoint or of the donor; `--fuzz-cases N` sets the number of edited folders in all.
"""

import contextlib
import dataclasses
import io
import json
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, ConversionError, convert
from checkpoints import POOLER, save_donor, save_lost, save_weights, snapshot, stored
from grafting import graft, in_time, join
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 8,
}
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
DROPPED = {"bert.embeddings.position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias"}
CARD = b"---\nlicense: mit\ntags:\n- x\nbase_model: gone/away\n---\n\n# A model\n"
SECONDS = 20  # of one conversion of 10 kB, thousands of times what it takes
MEMORY = 512 << 20  # bytes of address space for one conversion: 8 MB of JSON as small objects take about 270 MB
LINE = 4500  # characters of an error's line
# Values that readers trip over. Those with an @ stand for text that json.dumps can't write.
TEXTS = {
    '"@deep"': "[" * 900 + "]" * 900,
    '"@deeper"': "[" * 100_000 + "]" * 100_000,
    '"@digits"': "9" * 5000,
}
# Of config.json: what transformers follows to code, and what it computes with for ever.
FIELDS = (
    "custom_pipelines", "attn_implementation", "auto_map", "quantization_config", "task_specific_params", "num_labels",
    "id2label", "hidden_act", "pruned_heads", "pooler_source", "sparse_prediction", "pooler_loss_weight",
)  # fmt: skip
FOREIGN = FIELDS[:2]
MERGES = "\n".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 12))
SOURCES = (
    {"donor": "<b>x</b>", "revision": None, "sha256": dict.fromkeys(POOLER, "a" * 64), "lineage_cosine": 1.0},
    {"donor": "x" * 5000, "revision": "main", "sha256": {}, "lineage_cosine": 2, "forced": ["`"] * 50},
)
BODIES = (
    b"",
    b"\n" * 200_000,
    b"<!-- bert-pooled-mlm: begin -->" * 50_000,
    b"<!-- bert-pooled-mlm: end -->\n" * 50_000,
)
ODD = (
    None, True, False, -1, 0, 1, 2, 8, 64, 1 << 31, 1 << 47, 1 << 48, 1 << 63, -(1 << 63), 10**400,
    0.5, float("nan"), float("inf"), "", ".", "..", "/", "a\nb", "\x1b[2J", "\0", "\ud800", "\ufeff", "x" * 5000,
    "~nobody-of-this-name/x", "gone/away", "bert-base-uncased", "bert_pooled_mlm", "BertForMaskedLM", "F32", "F16",
    "BF16", "F64", "I64", "BOOL", "F8_E4M3", "@deep", "@deeper", "@digits", *SOURCES, 10**12,
    "someone/kernel", {"x": {"impl": "evil.Pipeline"}}, [], {}, [[]], [0], [1, 2], {"": None},
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.integers(-10, 300),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-1, 100), max_size=4),
    st.dictionaries(st.text(max_size=4), st.sampled_from(ODD), max_size=3),
)
YAML = (
    "!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!binary x", "!!python/object:os.system x", "!!set {a}",
    "!!omap [a]", "2020-01-01", "2020-99-99", "*gone", "&a [*a]", "{<<: 1}", "{? [a] : b}", "0x", "1_", "0o9", ".nan",
    "'", '"\\ud800"', "%", "\t", "|\n  text", "[" * 1000, f"x\nm0: &m0 {{k: v}}\n{MERGES}",
)  # fmt: skip
CARD_KEYS = (
    "license", "tags", "base_model", "model-index", "eval_results", "model_name", "language", "datasets",
    "library_name",
    "pipeline_tag", "self", "ignore_metadata_errors", "to_dict", "to_yaml", "_to_dict", "pop", "get", "__class__", "1",
    "true", "2020-01-01", "~", "<<", "? [a]\n", "'a\nb'", '"\\n---\\n"',
)  # fmt: skip


class Second(str):
    """A key that may stand beside another of the same spelling."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@dataclasses.dataclass
class Edited:
    """A folder's files, and what was done to them."""

    edits: list[str]
    files: dict[str, bytes | str] = dataclasses.field(repr=False)  # "directory" or "link": what stands there instead


def dumps(value: object) -> bytes:
    text = json.dumps(value)
    for placeholder, raw in TEXTS.items():
        text = text.replace(placeholder, raw)
    return text.encode()


@st.composite
def other_keys(draw, key: str, keys: list[str]) -> str:
    ways = (
        *keys, f"module.{key}", f"_orig_mod.module.{key}", key.removeprefix("bert."), f"{key}\n", "\ud800", "",
        "x" * 5000,
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"), *TIED,
        *DROPPED, "__metadata__", *FIELDS,
    )  # fmt: skip
    return draw(st.sampled_from(ways) | st.text(max_size=8))


@st.composite
def edited_json(draw, value: object, note: list[str]) -> object:
    """`value` with one thing changed, at any depth."""
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(list(value)))
        way = draw(st.sampled_from(("inside", "inside", "inside", "rename", "remove", "add", "repeat", "exchange")))
        note.append(f"{way} {key[:60]!r}")
        if way == "inside":
            return {**value, key: draw(edited_json(value[key], note))}
        if way == "rename":
            name = draw(other_keys(key, list(value)))
            return {name if old == key else old: held for old, held in value.items()}
        if way == "remove":
            return {old: held for old, held in value.items() if old != key}
        if way == "repeat":
            return {**value, Second(key): value[key]}
        if way == "add":
            return {**value, draw(other_keys(key, list(value))): draw(st.just(value[key]) | VALUES)}
        other = draw(st.sampled_from(list(value)))
        return {**value, key: value[other], other: value[key]}
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        way = draw(st.sampled_from(("inside", "inside", "remove", "repeat")))
        note.append(f"{way} [{at}]")
        new = {
            "inside": lambda: [draw(edited_json(value[at], note))],
            "remove": list,
            "repeat": lambda: [value[at]] * 2,
        }
        return [*value[:at], *new[way](), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and draw(st.booleans()):
        new = value + draw(st.sampled_from((-8, -4, -1, 1, 4, 8, 32)))
    else:
        new = draw(VALUES)
    note.append(f"{value!r:.60} -> {new!r:.60}")
    return new


@st.composite
def edited_bytes(draw, blob: bytes, note: list[str], reach: int | None = None) -> bytes:
    """`blob` cut, extended, or with some bytes changed in its first `reach` ones."""
    way = draw(st.sampled_from(("flip", "cut", "extend", "insert", "empty")))
    at = draw(st.integers(0, min(reach or len(blob), max(len(blob) - 1, 0))))
    some = draw(
        st.binary(min_size=1, max_size=4) | st.sampled_from((b"\xff\xfe", b"\0" * 8, b"[" * 2000, b"NaN", b"\n"))
    )
    note.append(f"{way} at {at}: {some[:8]!r}")
    return {
        "flip": blob[:at] + some + blob[at + len(some) :],
        "cut": blob[:at],
        "extend": blob + some,
        "insert": blob[:at] + some + blob[at:],
        "empty": b"",
    }[way]


@st.composite
def edited_safetensors(draw, blob: bytes, note: list[str]) -> bytes:
    length = int.from_bytes(blob[:8], "little")
    text, data = blob[8 : 8 + length], blob[8 + length :]
    way = draw(st.sampled_from(("header", "header", "header", "header", "length", "text", "anywhere")))
    note.append(way)
    if way == "anywhere":
        return draw(edited_bytes(blob, note))
    if way == "length":
        length = draw(st.sampled_from((0, 1, length - 1, length + 1, len(blob), 1 << 31, (1 << 64) - 1)))
        note.append(str(length))
        return (length % (1 << 64)).to_bytes(8, "little") + text + data
    text = draw(edited_bytes(text, note)) if way == "text" else dumps(draw(edited_json(json.loads(text), note)))
    return join(text, data)


@st.composite
def edited_card(draw, blob: bytes, note: list[str]) -> bytes:
    if draw(st.booleans()):
        return draw(edited_bytes(blob, note))
    lines = draw(
        st.lists(st.tuples(st.sampled_from(CARD_KEYS), st.sampled_from(YAML) | VALUES.map(dumps)), max_size=3),
    )
    note.append(f"{lines!r:.200}")
    lines = [(key, value if isinstance(value, bytes) else value.encode()) for key, value in lines]
    head = b"".join(b"%s: %s\n" % (key.encode(), value) for key, value in lines)
    fence = draw(st.sampled_from((b"---\n", b"---", b"--- \n", b"", b"---\r\n")))
    return b"---\n" + head + fence + b"\n# A model\n" + draw(st.sampled_from(BODIES))


@st.composite
def edited_files(draw, files: dict[str, bytes], names: list[str]) -> Edited:
    """A folder in which up to two edits were made to files of these names."""
    edited = Edited([], dict(files))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(names))
        blob, note = edited.files[name], [name]
        if not isinstance(blob, bytes):
            continue
        if draw(st.integers(0, 30)) == 30:
            edited.files[name] = draw(st.sampled_from(("directory", "link")))
        elif name.endswith(".safetensors") and len(blob) > 8:
            with contextlib.suppress(ValueError, RecursionError):  # the first edit may have left nothing to parse
                edited.files[name] = draw(edited_safetensors(blob, note))
        elif name == "README.md":
            edited.files[name] = draw(edited_card(blob, note))
        elif name.endswith(".json") and draw(st.integers(0, 4)) < 4:
            with contextlib.suppress(ValueError, RecursionError):
                edited.files[name] = dumps(draw(edited_json(json.loads(blob), note)))
        else:
            edited.files[name] = draw(edited_bytes(blob, note, 3000 if name.endswith(".bin") else None))
        edited.edits.append(", ".join(note))
    return edited


# --- Running one -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bounded():
    """In bounded time, and on Linux with a limit for what the process may map on top of what it has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, limits[1]))
    try:
        with in_time(SECONDS):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def lay_out(folder: Path, files: dict[str, bytes | str]) -> None:
    folder.mkdir()
    for name, held in files.items():
        if held == "directory":
            (folder / name).mkdir()
        elif held == "link":
            (folder / name).symlink_to("/nowhere")
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(held)


def tensors_of(files: dict[str, bytes]) -> dict[str, tuple]:
    """Dtype, shape and bytes of all tensors in a folder's weights, read without the converter and without checks."""
    found = {}
    for name, blob in files.items():
        if "/" in name:  # of sentence-transformers' modules
            continue
        if name.endswith(".bin"):
            state = torch.load(io.BytesIO(blob), weights_only=True)
            assert set(map(str, {value.dtype for value in state.values()})) <= {"torch.float32", "torch.int64"}
            for key, value in state.items():
                dtype = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
                found[key] = (dtype, list(value.shape), value.contiguous().numpy().tobytes())
        elif name.endswith(".safetensors"):
            start = 8 + int.from_bytes(blob[:8], "little")
            for key, entry in json.loads(blob[8:start]).items():
                if key != "__metadata__":
                    begin, end = entry["data_offsets"]
                    found[key] = (entry["dtype"], entry["shape"], blob[start + begin : start + end])
    return found


def todays(tensors: dict[str, tuple]) -> dict[str, tuple]:
    renamed = {}
    for key, tensor in tensors.items():
        while key.startswith(("module.", "_orig_mod.")):
            key = key.split(".", 1)[1]
        for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
            key = key.removesuffix(old) + new if key.endswith(old) else key
        renamed[key] = tensor
    return renamed


def check_output(output: Path, checkpoint: dict[str, bytes], donor: dict[str, bytes], base: set[str]) -> None:
    """Every tensor of the checkpoint bit for bit, the donor's pooler, and files that their readers accept."""
    expected = {key: tensor for key, tensor in todays(tensors_of(checkpoint)).items() if key not in DROPPED}
    if json.loads(checkpoint["config.json"]).get("tie_word_embeddings", True) is not False:
        for copy, original in TIED.items():
            if copy in expected:
                expected.setdefault(original, expected.pop(copy))
    if not expected.keys() >= {*POOLER}:
        given = todays(tensors_of(donor))
        expected |= {key: given.get(key) or given[key.removeprefix("bert.")] for key in POOLER}
    written = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    tensors = tensors_of(written)
    assert tensors == expected
    assert base <= tensors.keys() <= base | TIED.keys()
    for name in written:
        if name.endswith(".safetensors"):
            with safe_open(output / name, "pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a dict
                    assert list(file.get_tensor(key).shape) == tensors[key][1]
        elif name.endswith(".json"):
            assert isinstance(json.loads(written[name].decode("utf-8")), list if name == "modules.json" else dict)
    assert not {*FOREIGN}.intersection(json.loads(written["config.json"]))
    assert b"evil" not in written["config.json"]
    assert b"<b>" not in written["README.md"].partition(b"begin -->")[2]
    if "model.safetensors.index.json" in written:
        index = json.loads(written["model.safetensors.index.json"])
        assert index["metadata"]["total_size"] == sum(len(data) for *_, data in tensors.values())
        assert index["weight_map"] == {key: name for name in written for key in tensors_of({name: written[name]})}
    assert isinstance(huggingface_hub.metadata_load(output / "README.md"), dict)


@dataclasses.dataclass
class Material:
    """Folders to start from, as bytes; `base` holds the names that an output must have."""

    folders: dict[str, dict[str, bytes]]
    base: set[str]
    place: Path

    def attempt(self, checkpoint: dict, donor: dict, edited_config: bool, **options) -> str:
        """Converts, holds the outcome against the promise, and tells which it was."""
        with tempfile.TemporaryDirectory(dir=self.place) as work:
            work = Path(work)
            lay_out(work / "checkpoint", checkpoint)
            lay_out(work / "donor", donor)
            before = snapshot(work)
            if not options.pop("found"):
                options["pooler_from"] = work / "donor"
            elif not edited_config:
                config = json.loads(checkpoint["config.json"]) | {"_name_or_path": str(work / "donor")}
                (work / "checkpoint" / "config.json").write_text(json.dumps(config))
                before = snapshot(work)
            try:
                with bounded():
                    report = convert(work / "checkpoint", work / "out", verify=False, **options)
            except ConversionError as error:
                line = str(error)
                assert line.isprintable(), "not one line"
                assert len(line) <= LINE
                assert "alloc" not in line
                assert snapshot(work) == before
                return "refused"
            after = snapshot(work)
            assert {name: held for name, held in after.items() if name.split("/")[0] != "out"} == before
            if report.status == "already pooled":
                assert after == before
            else:
                check_output(work / "out", checkpoint, donor, self.base)
            return report.status


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    place = tmp_path_factory.mktemp("fuzz")
    save_donor(place / "donor", **TINY)
    state = stored(save_lost(place / "single", place / "donor"))
    for kind, layout in (("sharded", (3, "safetensors")), ("bin", (1, "bin"))):
        save_weights(Path(shutil.copytree(place / "single", place / kind)), state, *layout)
    shutil.copytree(place / "donor", place / "pooled")
    BertPooledMLMForMaskedLM.from_pretrained(place / "donor").save_pretrained(place / "pooled")
    folders = {}
    for kind in ("donor", "single", "sharded", "bin", "pooled"):
        (place / kind / "README.md").write_bytes(CARD)
        folders[kind] = {path.name: path.read_bytes() for path in (place / kind).iterdir() if path.is_file()}
    assert len([name for name in folders["sharded"] if name.endswith(".safetensors")]) > 1
    return Material(folders, set(state) | {*POOLER}, place)


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
def test_an_edited_folder_gives_a_correct_output_or_one_line(target, material, request, monkeypatch):
    kind, endings = TARGETS[target]
    names = [name for name in sorted(material.folders[kind]) if "/" not in name and f"/{name}".endswith(endings)]
    assert names
    cases = max(1, request.config.getoption("--fuzz-cases") // len(TARGETS))
    outcomes = Counter()
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # flushing to disk is most of a tiny conversion's time

    @settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,  # of its own: `bounded`, which also ends an endless loop
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(
        edited=edited_files(material.folders[kind], names),
        found=st.booleans(),
        format=st.sampled_from(("pooled", "bert")),
    )
    def run(edited, found, format):
        donor = edited.files if kind == "donor" else material.folders["donor"]
        checkpoint = material.folders["single"] if kind == "donor" else edited.files
        same = checkpoint["config.json"] == material.folders["single" if kind == "donor" else kind]["config.json"]
        outcomes[material.attempt(checkpoint, donor, not same, found=found, format=format)] += 1

    run()
    if cases >= 20:
        assert outcomes["converted"]
        assert outcomes["refused"]


def duplicate_at_the_end(checkpoint: Path) -> None:
    names = b",".join(b'"%d":0' % number for number in range(700_000))
    write_header(checkpoint, b"{" + names + b',"699999":0}')


def small_objects(checkpoint: Path) -> None:
    write_header(checkpoint, b'{"a":[' + b"{}," * 2_700_000 + b"{}]}")


def write_header(checkpoint: Path, text: bytes) -> None:
    assert 7 << 20 < len(text) < 8 << 20, "as large as a header may be"
    (checkpoint / "model.safetensors").write_bytes(join(text, b""))


def huge_card(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_bytes(CARD)
    os.truncate(checkpoint / "README.md", 1 << 40)


def huge_config(checkpoint: Path) -> None:
    os.truncate(checkpoint / "config.json", 1 << 40)


def expanded_tensor(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save({"cls.predictions.bias": torch.zeros(1).expand(1 << 40)}, checkpoint / "pytorch_model.bin")
    assert (checkpoint / "pytorch_model.bin").stat().st_size < 4096


@pytest.mark.parametrize("bomb", [duplicate_at_the_end, small_objects, huge_card, huge_config, expanded_tensor])
def test_what_is_built_to_take_all_time_or_memory_is_refused_within_bounds(bomb, material, tmp_path):
    lay_out(tmp_path / "checkpoint", material.folders["single"])
    lay_out(tmp_path / "donor", material.folders["donor"])
    bomb(tmp_path / "checkpoint")
    with bounded(), pytest.raises(ConversionError) as refusal:
        graft(tmp_path / "checkpoint", tmp_path / "donor")
    assert "alloc" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "donor"]


@pytest.mark.parametrize("depth", [50, 150, 250, 350, 500, 2000])
def test_a_card_nested_at_any_depth_is_written_or_refused(depth, material, tmp_path):
    """20,000 cases found one that could be read and not be written: dumping YAML recurses deeper than loading it."""
    lay_out(tmp_path / "checkpoint", material.folders["single"])
    lay_out(tmp_path / "donor", material.folders["donor"])
    card = b"---\na: " + b"[" * depth + b"]" * depth + b"\n---\n"
    (tmp_path / "checkpoint" / "README.md").write_bytes(card)
    outcome = contextlib.nullcontext() if depth == 50 else contextlib.suppress(ConversionError)
    with bounded(), outcome:
        graft(tmp_path / "checkpoint", tmp_path / "donor")
    if (tmp_path / "out").exists():
        assert isinstance(huggingface_hub.metadata_load(tmp_path / "out" / "README.md"), dict)
