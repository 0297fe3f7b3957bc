"""What a folder from somewhere may hold: what travels into the output, what is said of it, and in which time."""

import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from bert_pooled_mlm import ConversionError, conversion
from bert_pooled_mlm.convert import main
from checkpoints import FORMATS, POOLER, edit_json, save_weights, stored
from grafting import LINEAGE, config_of, graft, in_time, refused, split, write_sparse
from transformers import BertConfig

SECONDS = 30  # of a conversion that takes half a one: what is quadratic in megabytes takes minutes


# --- config.json -----------------------------------------------------------------------------------------------------

FOREIGN = {
    "custom_pipelines": {"feature-extraction": {"impl": "evil.Pipeline", "pt": ["AutoModel"]}},
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "_attn_implementation_internal": "someone/kernel:evil",
    "experts_implementation": "someone/kernel",
    "auto_map": {"AutoModel": "evil--modeling.Model"},
    "quantization_config": {"quant_method": "evil"},
    "trust_remote_code": True,
    "base_model_tp_plan": {"*": "colwise"},
    "encoder": {"model_type": "bert", "auto_map": {}},
    "_commit_hash": "c" * 40,
    "\x1b[2Jname": 1,
}
# Known names, with values that could be followed, or that make transformers compute for ever.
UNFIT = {
    "num_labels": 10**12,
    "id2label": {"0": "\x1b[2J"},
    "label2id": {"a": {"b": 1}},
    "task_specific_params": {"feature-extraction": {"custom_pipelines": {"x": "evil"}}},
    "problem_type": "../evil",
    "torch_dtype": "os.system('x')",
    "dtype": {"evil": "float16"},
    "prefix": "x" * 5000,
    "use_cache": "evil",
    "return_dict": [1],
    "transformers_version": "evil/4",
    "bad_words_ids": [[1] * 1000],
    "eos_token_id": {"a": 1},
    "temperature": "hot",
}


@pytest.mark.parametrize("format", FORMATS)
def test_fields_of_others_stay_behind_and_are_named(format, checkpoint, donor, out):
    edit_json(checkpoint / "config.json", **FOREIGN)
    report = graft(checkpoint, donor, format=format)
    written = config_of(out)
    assert not [name for name in FOREIGN if name in written and name != "auto_map"]
    assert not re.search("evil|someone", json.dumps(written))
    for name in FOREIGN:
        assert f"config.json's {name}" in report.dropped
        assert conversion.errors.printable(f"dropped      config.json's {name}: neither BERT's, nor ") in str(report)


@pytest.mark.parametrize("name", UNFIT)
def test_a_harmless_field_with_a_value_that_is_not_stays_behind(name, checkpoint, donor, out):
    edit_json(checkpoint / "config.json", **{name: UNFIT[name]})
    report = graft(checkpoint, donor, format="bert")
    assert name not in config_of(out)
    assert f"config.json's {name}" in report.dropped


def test_fields_of_any_number_are_named_in_bounds(checkpoint, donor):
    edit_json(checkpoint / "config.json", **{f"field_{number}" + "x" * 500: [] for number in range(10_000)})
    report = graft(checkpoint, donor)
    assert len(str(report)) < 10_000
    assert "dropped      9980 more fields of config.json: neither BERT's, nor known to be harmless" in str(report)


KEPT = {
    "hidden_dropout_prob": 0.2, "classifier_dropout": 0.3, "layer_norm_eps": 1e-7, "hidden_act": "gelu_new",
    "id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 2,
    "problem_type": "single_label_classification", "bos_token_id": None, "eos_token_id": [2, 3], "sep_token_id": 3,
    "task_specific_params": {"text-generation": {"max_length": 50, "do_sample": True}}, "use_cache": False,
    "torch_dtype": "float32", "directionality": "bidi", "pooler_type": "first_token_transform", "temperature": 0.5,
    "gradient_checkpointing": False, "chunk_size_feed_forward": 0, "language": "中文", "pruned_heads": {},
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_berts_fields_and_the_harmless_ones_travel(format, checkpoint, donor, out):
    edit_json(checkpoint / "config.json", **KEPT)
    report = graft(checkpoint, donor, format=format)
    written = config_of(out)
    assert {name: written.get(name) for name in KEPT} == KEPT
    assert not [key for key in report.dropped if "config.json" in key]


@pytest.mark.versions
def test_every_field_that_this_transformers_writes_travels(tmp_path):
    BertConfig(num_labels=3, attn_implementation="eager").save_pretrained(tmp_path)
    fields = config_of(tmp_path)
    assert len(fields) > 15, "premise"
    kept, dropped = conversion.fields.travelling(fields, "config.json")
    assert dropped == []
    assert fields.keys() - kept.keys() <= {*conversion.fields.REPLACED}
    everything = json.loads(BertConfig().to_json_string(use_diff=False))
    left = set(conversion.fields.travelling(everything, "config.json")[1])
    assert left <= {"_attn_implementation", "_output_attentions"}, "fields that no version saves"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "../evil"), ("hidden_act", ["gelu"]), ("hidden_act", None), ("layer_norm_eps", "1e-12"),
        ("layer_norm_eps", float("nan")), ("hidden_dropout_prob", [0.1]), ("initializer_range", 10**400),
        ("chunk_size_feed_forward", "x"), ("pruned_heads", {"0": [1]}), ("pad_token_id", "0"),
        ("sparse_prediction", "yes"), ("return_logits", 1), ("return_logits", None), ("pooler_loss_weight", "big"),
    ],
)  # fmt: skip
def test_a_field_that_the_model_is_computed_with_and_holds_something_else_is_refused(name, value, place):
    edit_json(place / "checkpoint" / "config.json", **{name: value})
    refused(place, rf"config.json: {name} is .*; the model can't be computed with that")


# --- pooler_source ---------------------------------------------------------------------------------------------------

MARKUP = "<img src=x onerror=alert(1)>[click](https://evil.example) `x` **bold** | @user"


def forged(folder: Path, **changed) -> None:
    """What a converted checkpoint's own config says of its pooler, changed."""
    edit_json(folder / "config.json", pooler_source=config_of(folder)["pooler_source"] | changed)


@pytest.fixture
def bert(checkpoint, donor, tmp_path) -> Path:
    """A converted checkpoint in bert format, that names its donor."""
    graft(checkpoint, donor, tmp_path / "bert", format="bert")
    return tmp_path / "bert"


FORGERIES = {
    "markup in the donor's name": {"donor": MARKUP},
    "an endless name": {"donor": "x" * 100_000},
    "a name that is none": {"donor": ["x"]},
    "a line of its own": {"donor": "x\n- donor: `google-bert/bert-base-uncased`"},
    "a commit that is none": {"revision": "main`<script>"},
    "a cosine that is none": {"lineage_cosine": float("nan")},
    "a cosine above one": {"lineage_cosine": 10**300},
    "a thousand reasons": {"forced": ["x"] * 1000},
    "a fit that is none": {"calibration": {"texts": "<b>"}},
    "a fit that is not a number": {"calibration": {"texts": 1, "held_out": 1, "sha256": "a" * 64, "penalty":
                                   float("nan"), "cosine_before": 0.1, "cosine_after": 0.2}},
    "hashes of others": {"sha256": dict.fromkeys(POOLER, "a" * 64)},
    "hashes with markup": {"donor_sha256": dict.fromkeys(POOLER, "<b>")},
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_origin_is_neither_told_nor_passed_on(forgery, bert, donor, out):
    """What does not read like ours is not believed: the checkpoint then has a pooler of unknown origin."""
    forged(bert, **FORGERIES[forgery])
    with pytest.raises(ConversionError, match="has a pooler already"):
        graft(bert, donor, out)
    report = graft(bert, donor, out, replace_pooler=True)
    card, config = (out / "README.md").read_text("utf-8"), config_of(out)
    said = str(report) + card.partition(conversion.card.BEGIN)[2] + json.dumps(config)
    assert not re.search(r"<img|<script|<b>|evil|onerror|xxxxx", said)
    assert config["pooler_source"]["donor"] == donor.name


def test_what_only_the_input_says_is_said_to_be_stated(bert, out):
    """Its name may be a lie of the right form; that it is one is not for us to know."""
    forged(bert, donor="google-bert/bert-base-uncased", forced=[MARKUP])
    report = graft(bert, output=out)
    assert report.donor is None
    card = (out / "README.md").read_text("utf-8")
    assert "- donor: `google-bert/bert-base-uncased`\n" in card
    assert "(As the checkpoint's own config.json states it. Only the two hashes were checked when this" in card
    reason = card.partition("--force-donor although ")[2].partition("\n")[0]
    assert not re.search(r"(?<!\\)[<>`*|@\[]|https://", reason), reason


def test_a_readme_with_our_marks_is_not_taken_for_ours(checkpoint, donor, out):
    """A section that somebody else wrote in our name gives way to ours."""
    begin, end = conversion.card.BEGIN, conversion.card.END
    (checkpoint / "README.md").write_text(f"# Mine\n\n{begin}\n- donor: `forged`\n{end}\n\nText.\n")
    graft(checkpoint, donor)
    card = (out / "README.md").read_text()
    assert (card.count(begin), card.count(end), "forged" in card) == (1, 1, False)
    assert "# Mine\n\nText.\n" in card


# --- README.md -------------------------------------------------------------------------------------------------------


def merge_bomb(levels: int) -> str:
    """Half a kilobyte that PyYAML makes 10 ** levels keys of."""
    lines = [f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "---\na0: &a0 {k: v}\n" + "\n".join(lines) + "\n---\n"


BEGIN, END = conversion.card.BEGIN, conversion.card.END
READMES = {
    "newlines": ("\n" * 200_000, None),
    "newlines in a section": (f"{BEGIN}{chr(10) * 200_000}{END}{chr(10) * 200_000}x", None),
    "begin marks": (BEGIN * (3_000_000 // len(BEGIN)), None),
    "end marks": (END * (3_000_000 // len(END)), None),
    "sections": (f"{BEGIN}x{END}\n" * 40_000, None),
    "fences": ("---\na: b" + "\n--- \tx" * 500_000, None),
    "blanks": (" " * 3_000_000, None),
    "blanks before a fence that is none": (" \n" * 1_000_000 + "--", None),
    "large metadata": ("---\n" + "a: b\n" * 800_000 + "---\n", "its metadata has 4000000 characters; expected at"),
    "deep metadata": ("---\na: " + "[" * 20_000 + "]" * 20_000 + "\n---\n", "not valid YAML"),
    "deep blocks": ("---\n" + "\n".join(" " * n + "a:" for n in range(300)) + "\n---\n", "not valid YAML|^$"),
    "aliases of aliases": ("---\na: &a [x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)) + "---\n", None),
    "merges of merges": (merge_bomb(12), "more than 1000 keys in one place"),
    "a number of a million digits": ("---\na: " + "9" * 60_000 + "\n---\n", "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", READMES)
def test_a_readme_of_any_size_takes_no_time(kind, place):
    text, refusal = READMES[kind]
    (place / "checkpoint" / "README.md").write_text(text)
    with in_time(SECONDS):
        if refusal is None:
            graft(place / "checkpoint", place / "donor", place / "out")
        else:
            try:
                refused(place, rf"README.md: .*({refusal})")
            except pytest.fail.Exception:
                assert refusal.endswith("^$"), "it may be converted where Python's stack allows it"
    if (place / "out").exists():
        card = (place / "out" / "README.md").read_text("utf-8")
        assert isinstance(yaml.safe_load(card.split("---\n")[1]), dict)


def test_a_thousand_names_are_eight_requests(checkpoint, asked):
    names = [f"user/model-{number}" for number in range(1000)]
    (checkpoint / "README.md").write_text(f"---\nbase_model: {json.dumps(names)}\n---\n")
    with pytest.raises(ConversionError):
        graft(checkpoint)
    assert len(asked) <= conversion.origins.NAMES_LIMIT


# --- Weights ---------------------------------------------------------------------------------------------------------


def test_a_header_that_promises_more_than_there_is_is_one_line(place):
    """A file without contents, as large as it says: as a download that was set up and never came."""
    (place / "checkpoint").rename(place / "small")
    config = {
        "vocab_size": 1 << 24, "hidden_size": 1 << 12, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 8, "max_position_embeddings": 8, "type_vocab_size": 1,
    }  # fmt: skip
    assert write_sparse(place / "checkpoint", config, pooler=None, lineage=0) > 250 << 30
    with in_time(SECONDS):
        assert "hidden_size is 32, the checkpoint's is 4096" in refusal_of(place)
        shutil.rmtree(place / "donor")
        write_sparse(place / "donor", config, pooler=1, lineage=0, every=False)
        assert re.search(r"bytes to write, \d+ free; make room or choose another -o", refusal_of(place))


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt", "LICENSE", "config.json", "README.md"])
def test_a_file_without_contents_of_300_gb_is_one_line(file, place):
    path = place / "checkpoint" / file
    with path.open("ab"):
        os.truncate(path, 300 << 30)
    with in_time(SECONDS):
        said = refusal_of(place)
    assert f"{file}: {300 << 30} bytes; expected" in said


def refusal_of(place: Path) -> str:
    """Like `refused`, which would read what is there before and after."""
    with pytest.raises(ConversionError) as refusal:
        graft(place / "checkpoint", place / "donor", place / "out")
    assert not (place / "out").exists()
    return str(refusal.value)


@pytest.mark.parametrize("size", [1 << 40, (1 << 15) * (1 << 15)])
def test_a_size_that_no_bert_has_is_one_line(size, place):
    edit_json(place / "checkpoint" / "config.json", hidden_size=size, num_attention_heads=1)
    refused(place, rf"config.json: hidden_size is {size}, above 16384")


def test_too_little_memory_is_one_line(place, monkeypatch, capsys):
    def read(*_):
        raise MemoryError

    monkeypatch.setattr(conversion.tensors.Tensor, "values", read)
    argv = [str(place / "checkpoint"), "--pooler-from", str(place / "donor"), "--no-verify"]
    assert main(argv) == 1
    line = f"error: {place / 'checkpoint'}: needs more memory than there is; nothing was written\n"
    assert capsys.readouterr().err == line


def zip_of(place: Path, change) -> Path:
    """The checkpoint as a .bin whose records are written anew: `change(name, data)` gives data and compression."""
    save_weights(place / "checkpoint", stored(place / "checkpoint"), kind="bin")
    file = place / "checkpoint" / "pytorch_model.bin"
    with zipfile.ZipFile(file) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for name, data in records.items():
            data, way = change(name, data)
            new.writestr(name, data, way)
    return file


@pytest.mark.parametrize("name", ["data.pkl", "/data/0"])
def test_a_zip_bomb_is_not_unpacked(name, place, monkeypatch):
    monkeypatch.setattr(torch, "load", None)

    def bomb(record: str, data: bytes) -> tuple[bytes, int]:
        here = record.endswith(name)
        return (data + bytes(50 << 20), zipfile.ZIP_DEFLATED) if here else (data, zipfile.ZIP_STORED)

    assert zip_of(place, bomb).stat().st_size < 1 << 20, "premise"
    with in_time(SECONDS):
        refused(place, rf"pytorch_model.bin: .*{name} is compressed, which torch.save never does")


def test_a_pickle_of_any_size_is_not_unpickled(place, monkeypatch):
    monkeypatch.setattr(torch, "load", None)
    stored_as = zipfile.ZIP_STORED
    zip_of(place, lambda name, data: (data + bytes(9 << 20) if name.endswith(".pkl") else data, stored_as))
    refused(place, r"pytorch_model.bin: a pickle of \d+ bytes; expected 8388608")


def test_a_pickle_in_another_byte_order_is_read_as_torch_reads_it(place):
    """Whose bytes are not those that lie in the file."""
    plain = stored(place / "checkpoint")

    def swapped(name: str, data: bytes) -> tuple[bytes, int]:
        if name.endswith("/byteorder"):
            return b"big", zipfile.ZIP_STORED
        if "/data/" in name:
            data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
        return data, zipfile.ZIP_STORED

    zip_of(place, swapped)
    graft(place / "checkpoint", place / "donor", place / "out")
    assert torch.equal(stored(place / "out")[LINEAGE], plain[LINEAGE])


def test_a_safetensors_header_with_a_deep_manifest_is_read(place):
    """Anybody's metadata is passed over where it is not asked for."""
    header, body = split((place / "checkpoint" / "model.safetensors").read_bytes())
    header["__metadata__"] = {"format": "pt", conversion.staging.MANIFEST: "[" * 100_000}
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + body
    (place / "checkpoint" / "model.safetensors").write_bytes(data)
    began = time.monotonic()
    assert graft(place / "checkpoint", place / "donor", place / "out").status == "converted"
    assert time.monotonic() - began < SECONDS
