"""What is decided before the first byte is written, and what speaks against it."""

import json
import shutil
import types
from pathlib import Path

import pytest
from bert_pooled_mlm import convert
from bert_pooled_mlm.convert import main
from checkpoints import CODE_FILES, POOLER, contents, save_weights, state, stored
from grafting import WRITTEN, graft, refused, without


def test_a_checkpoint_with_a_pooler_is_refused(place):
    save_weights(place / "checkpoint", without("seq_relationship")(stored(place / "donor")))
    refused(place, r"has a pooler already \(bert.pooler.dense.\*\).*graft the original over it: --replace-pooler")


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


def test_too_little_room_is_told_beforehand(place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    refused(place, rf"{place}: \d+ bytes to write, 1000 free; make room or choose another -o")


LEFT_BEHIND = (
    "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth", "trainer_state.json",
    "training_args.bin", "global_step10", "latest", "zero_to_fp32.py", "modeling_own.py", "tokenization_own.py",
    "data.pkl", "weights.pickle", "vocab.npy", "tf_model.h5", "flax_model.msgpack", "pytorch_model.bin",
    "events.out.tfevents.1", "runs", ".git", "handler.py", "model.onnx", "generation_config.json",
)  # fmt: skip


def test_nothing_that_is_not_the_models_is_copied(checkpoint, rescues, donor, tmp_path):
    for name in LEFT_BEHIND:
        (checkpoint / name).write_bytes(b"secret")
    for name in CODE_FILES:
        (checkpoint / name).write_bytes(b"raise SystemExit('secret')")
    report = graft(checkpoint, donor, tmp_path / "pooled")
    assert contents(tmp_path / "pooled") == contents(Path(rescues["pooled"].output))
    assert set(report.left_behind) == {*LEFT_BEHIND, *CODE_FILES} - {"pytorch_model.bin"}


def test_a_checkpoint_without_a_tokenizer_gets_none_where_the_donor_has_none(checkpoint, giver, out):
    for folder in (checkpoint, giver):
        for file in [*folder.glob("*token*"), folder / "vocab.txt"]:
            file.unlink()
    assert graft(checkpoint, giver).copied == []
    assert contents(out).keys() == WRITTEN | {*CODE_FILES}


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (None, {"tokenizer_class": "BertTokenizer"}),
        ({"do_lower_case": False}, {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}),
        ({"tokenizer_class": "BertJapaneseTokenizer", "x": 1}, {"tokenizer_class": "BertJapaneseTokenizer", "x": 1}),
    ],
    ids=["no config", "no class", "another class"],
)
def test_the_tokenizers_class_is_told_where_only_the_models_type_told_it(present, expected, checkpoint, donor, out):
    for file in checkpoint.glob("*token*"):
        file.unlink()
    if present is not None:
        (checkpoint / "tokenizer_config.json").write_text(json.dumps(present), encoding="utf-8")
    graft(checkpoint, donor)
    assert json.loads((out / "tokenizer_config.json").read_text("utf-8")) == expected
    assert (out / "vocab.txt").read_bytes() == (checkpoint / "vocab.txt").read_bytes()


def test_a_damaged_tokenizer_config_is_refused(place):
    (place / "checkpoint" / "tokenizer_config.json").write_text("{")
    refused(place, r"tokenizer_config.json: not valid JSON")


def test_a_dry_run_writes_nothing_and_says_what_is_missing(lost, donor, tmp_path, capsys):
    before = state(tmp_path)
    assert main([str(lost), "--pooler-from", str(donor), "-o", str(tmp_path / "deep" / "out"), "--dry-run"]) == 0
    assert state(tmp_path) == before
    out = capsys.readouterr().out
    assert out.startswith("status       planned")
    assert f"missing      {', '.join(POOLER)}: random at each load of the input" in out
    assert "Load it" not in out
