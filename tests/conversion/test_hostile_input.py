"""What a folder of unknown origin may hold: which of it reaches the output and the report, and which limits hold."""

import json
import os
import re
from pathlib import Path

import pytest
from bert_pooled_mlm import ConversionError, conversion
from bert_pooled_mlm.convert import main
from checkpoints import FORMATS, POOLER, edit_json
from grafting import config_of, graft, refused
from transformers import BertConfig

# config.json.

FOREIGN = {
    "custom_pipelines": {"feature-extraction": {"impl": "evil.Pipeline", "pt": ["AutoModel"]}},
    "attn_implementation": "someone/kernel",
    "_attn_implementation_internal": "someone/kernel:evil",
    "auto_map": {"AutoModel": "evil--modeling.Model"},
    "trust_remote_code": True,
    "encoder": {"model_type": "bert", "auto_map": {}},
    "\x1b[2Jname": 1,
}
# Names that travel, with values that could be followed, or that are too large.
UNFIT = {
    "num_labels": 200_000,
    "id2label": {"0": "\x1b[2J"},
    "task_specific_params": {"feature-extraction": {"custom_pipelines": {"x": "evil"}}},
    "problem_type": ["../evil"],
    "torch_dtype": {"evil": "float16"},
    "dtype": "torch.float32",
    "prefix": "x" * 5000,
    "use_cache": "evil",
    "temperature": "hot",
}


@pytest.mark.parametrize("format", FORMATS)
def test_foreign_fields_stay_behind_and_are_named(format, checkpoint, donor, out):
    edit_json(checkpoint / "config.json", **FOREIGN)
    report = graft(checkpoint, donor, format=format)
    written = config_of(out)
    assert not [name for name in FOREIGN if name in written and name != "auto_map"]
    assert not re.search("evil|someone", json.dumps(written))
    assert {f"config.json's {name}" for name in FOREIGN} <= {*report.dropped}
    assert "\x1b" not in str(report)


def test_fields_of_another_type_or_size_stay_behind(checkpoint, donor, out):
    edit_json(checkpoint / "config.json", **UNFIT)
    report = graft(checkpoint, donor, format="bert")
    assert not UNFIT.keys() & config_of(out).keys()
    assert {f"config.json's {name}" for name in UNFIT} <= {*report.dropped}


def test_the_report_on_many_fields_is_short(checkpoint, donor):
    edit_json(checkpoint / "config.json", **{f"field_{number}" + "x" * 500: [] for number in range(1000)})
    report = str(graft(checkpoint, donor))
    assert len(report) < 10_000
    assert "980 more fields" in report


KEPT = {
    "hidden_dropout_prob": 0.2, "classifier_dropout": 0.3, "layer_norm_eps": 1e-7, "hidden_act": "gelu_new",
    "id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 2,
    "problem_type": "single_label_classification", "bos_token_id": None, "eos_token_id": [2, 3], "sep_token_id": 3,
    "task_specific_params": None, "use_cache": False,
    "torch_dtype": "float32", "directionality": "bidi", "pooler_type": "first_token_transform", "temperature": 0.5,
    "gradient_checkpointing": False, "chunk_size_feed_forward": 0, "language": "中文", "pruned_heads": {},
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_the_fields_of_bert_and_the_harmless_ones_travel(format, checkpoint, donor, out):
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
    kept, dropped = conversion.fields.kept_fields(fields, "config.json")
    assert dropped == []
    assert fields.keys() - kept.keys() <= {*conversion.fields.REPLACED}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", ["gelu"]), ("hidden_act", None), ("layer_norm_eps", "1e-12"), ("layer_norm_eps", float("nan")),
        ("hidden_dropout_prob", [0.1]), ("pad_token_id", "0"), ("hidden_size", 1 << 40), ("sparse_prediction", "yes"),
        ("return_logits", None), ("pooler_loss_weight", "big"),
    ],
)  # fmt: skip
def test_a_field_that_the_model_is_computed_with_and_does_not_fit_is_an_error(name, value, place):
    edit_json(place / "checkpoint" / "config.json", **{name: value, "num_attention_heads": 1})
    refused(place, rf"config.json: {name} is ")


# pooler_source.

MARKUP = "<img src=x onerror=alert(1)>[click](https://evil.example) `x` **bold** | @user"


def forge(folder: Path, **changed) -> None:
    """Changes what the config of a converted checkpoint states about its pooler."""
    edit_json(folder / "config.json", pooler_source=config_of(folder)["pooler_source"] | changed)


@pytest.fixture
def bert(checkpoint, donor, tmp_path) -> Path:
    """A converted checkpoint in bert format, that names its donor."""
    graft(checkpoint, donor, tmp_path / "bert", format="bert")
    return tmp_path / "bert"


FORGERIES = {
    "markup in the donor's name": {"donor": MARKUP},
    "a name of another type": {"donor": ["x"]},
    "a name of two lines": {"donor": "x\n- donor: `google-bert/bert-base-uncased`"},
    "not a commit": {"revision": "main`<script>"},
    "not a cosine": {"lineage_cosine": float("nan")},
    "many reasons": {"forced": ["xxxxx"] * 1000},
    "not a calibration": {"calibration": {"texts": "<b>"}},
    "hashes of other tensors": {"sha256": dict.fromkeys(POOLER, "a" * 64)},
    "hashes with markup": {"donor_sha256": dict.fromkeys(POOLER, "<b>")},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_origin_is_neither_reported_nor_passed_on(forgery, bert, donor, out):
    """It is not believed: the checkpoint then has a pooler of unknown origin."""
    forge(bert, **FORGERIES[forgery])
    with pytest.raises(ConversionError, match="has a pooler already"):
        graft(bert, donor, out)
    report = graft(bert, donor, out, replace_pooler=True)
    card, config = (out / "README.md").read_text("utf-8"), config_of(out)
    found = str(report) + card.partition(conversion.card.BEGIN)[2] + json.dumps(config)
    assert not re.search(r"<img|<script|<b>|evil|onerror|xxxxx", found)
    assert config["pooler_source"]["donor"] == donor.name


def test_what_only_the_input_states_is_reported_as_only_stated(bert, out):
    """Its name may be false and of the right form: the converter can not know."""
    forge(bert, donor="google-bert/bert-base-uncased", forced=[MARKUP])
    report = graft(bert, output=out)
    assert report.donor is None
    card = (out / "README.md").read_text("utf-8")
    assert "- donor: `google-bert/bert-base-uncased`\n" in card
    assert "config.json states" in card
    reason = card.partition("--force-donor although ")[2].partition("\n")[0]
    assert not re.search(r"(?<!\\)[<>`*|@\[]|https://", reason), reason


# README.md. (Half a kilobyte of YAML whose aliases and merge keys refer to each other once became any number of keys.)

BEGIN, END = conversion.card.BEGIN, conversion.card.END


def test_a_section_that_somebody_else_wrote_in_our_name_is_replaced(checkpoint, donor, out):
    (checkpoint / "README.md").write_text(f"# Mine\n\n{BEGIN}\n- donor: `forged`\n{END}\n\nText.\n")
    graft(checkpoint, donor)
    card = (out / "README.md").read_text()
    assert (card.count(BEGIN), card.count(END), "forged" in card) == (1, 1, False)
    assert "# Mine\n\nText.\n" in card


@pytest.mark.parametrize("metadata", ["license: &a mit\nother: *a", "a: &a {k: v}\nb:\n  <<: *a", "license: &a mit"])
def test_metadata_with_anchors_aliases_or_merge_keys_is_not_read(metadata, place):
    (place / "checkpoint" / "README.md").write_text(f"---\n{metadata}\n---\n# Mine\n")
    refused(place, "README.md: ")


def test_metadata_above_the_limit_is_not_read(place, monkeypatch):
    monkeypatch.setattr(conversion.card, "METADATA_LIMIT", 100)
    (place / "checkpoint" / "README.md").write_text(f"---\ntags: [{'x' * 100}]\n---\n# Mine\n")
    refused(place, "README.md: its metadata has 109 characters; expected at most 100")


def test_a_thousand_names_of_donors_are_eight_requests(checkpoint, asked):
    names = [f"user/model-{number}" for number in range(1000)]
    (checkpoint / "README.md").write_text(f"---\nbase_model: {json.dumps(names)}\n---\n")
    with pytest.raises(ConversionError):
        graft(checkpoint)
    assert len(asked) <= conversion.origins.NAMES_LIMIT


# Files that are larger than they may be. They take no space on disk.


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "README.md"])
def test_a_file_of_300_gb_is_one_line(file, place):
    with (place / "checkpoint" / file).open("ab") as opened:
        os.truncate(opened.fileno(), 300 << 30)
    with pytest.raises(ConversionError, match=f"{file}: {300 << 30} bytes; expected"):  # `refused` would read it
        graft(place / "checkpoint", place / "donor", place / "out")
    assert not (place / "out").exists()


def test_too_little_memory_is_one_line(place, monkeypatch, capsys):
    def read(*_):
        raise MemoryError

    monkeypatch.setattr(conversion.tensors.Tensor, "values", read)
    assert main([str(place / "checkpoint"), "--pooler-from", str(place / "donor"), "--no-verify"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {place / 'checkpoint'}: needs more memory")
    assert error.count("\n") == 1
