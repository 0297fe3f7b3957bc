"""Hypothesis' strategies that edit the files of a folder: JSON, safetensors, cards, and bytes of any file."""

import contextlib
import json

from checkpoints import LAYER_NORM, POOLER, renamed
from grafting import join
from hypothesis import note
from hypothesis import strategies as st

TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
DROPPED = {"bert.embeddings.position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias"}
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
        way = draw(st.sampled_from(("inside", "inside", "inside", "rename", "remove", "add", "exchange")))
        note(f"{way} {key[:60]!r}")
        if way == "inside":
            return {**value, key: draw(edited_json(value[key]))}
        if way == "rename":
            name = draw(other_keys(key, list(value)))
            return {name if old == key else old: held for old, held in value.items()}
        if way == "remove":
            return {old: held for old, held in value.items() if old != key}
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
