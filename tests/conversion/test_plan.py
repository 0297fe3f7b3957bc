"""What is decided and checked before the first byte is written."""

import shutil
import types
from pathlib import Path

import pytest
from bert_pooled_mlm import convert
from bert_pooled_mlm.conversion.errors import ArgumentError
from bert_pooled_mlm.conversion.options import NEEDS
from bert_pooled_mlm.convert import main
from checkpoints import CODE_FILES, POOLER, contents, state
from grafting import graft, refused


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"pooler_revision": "v1"}, "donor: a folder has no revision 'v1'"),
        ({"revision": "v1"}, "checkpoint: a folder has no revision 'v1'"),
        ({"push_to_hub": "a/b/c"}, "a/b/c: not a repository id of the Hub"),
    ],
)
def test_options_that_do_not_fit_the_input_are_an_error(option, match, place):
    refused(place, match, **option)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"format": "onnx"}, "{format} is 'onnx'; expected 'pooled' or 'bert' or 'encoder'"),
        ({"pooler_revision": "v1"}, "{pooler_revision} needs {pooler_from}"),
        ({"force_donor": True}, "{force_donor} needs {pooler_from} or {head_from}"),
        ({"head_from": "x", "format": "encoder"}, "{head_from} is of no use: {format} 'encoder' has no MLM head"),
        ({"private": True}, "{private} needs {push_to_hub}"),
        ({"create_pr": True}, "{create_pr} needs {push_to_hub}"),
        ({"device": "cuda:99"}, "{device} needs {calibrate}"),
        ({"calibrate_length": 64}, "{calibrate_length} needs {calibrate}"),
        *(
            ({"calibrate_samples": value}, f"{{calibrate_samples}} is {value!r}; expected a positive whole number")
            for value in (-5, 0, True, "8", 2.0)
        ),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_as_the_function_and_as_the_command_line_name_it(arguments, text, lost, out):
    with pytest.raises(ArgumentError) as caught:
        convert(lost, out, **arguments)
    names = {name: name for name in (*arguments, *" ".join(NEEDS.values()).split())}
    assert str(caught.value) == text.format_map(names)
    flags = {name: f"--{name.replace('_', '-')}" for name in names}
    assert caught.value.for_command_line() == text.format_map(flags)
    assert not out.exists()


def test_too_little_room_is_found_beforehand(place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    refused(place, rf"{place}: \d+ bytes to write, 1000 free")


LEFT_BEHIND = (
    "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth", "trainer_state.json",
    "training_args.bin", "global_step10", "latest", "zero_to_fp32.py", "modeling_own.py", "tokenization_own.py",
    "data.pkl", "weights.pickle", "vocab.npy", "tf_model.h5", "flax_model.msgpack", "events.out.tfevents.1", "runs",
    ".git", "handler.py", "model.onnx", "generation_config.json",
)  # fmt: skip


def test_nothing_that_is_not_the_models_is_copied(checkpoint, rescues, donor, tmp_path):
    for name in (*LEFT_BEHIND, "pytorch_model.bin", *CODE_FILES):
        (checkpoint / name).write_bytes(b"raise SystemExit('secret')")
    report = graft(checkpoint, donor, tmp_path / "pooled")
    assert contents(tmp_path / "pooled") == contents(Path(rescues["pooled"].output))
    assert set(report.left_behind) == {*LEFT_BEHIND, *CODE_FILES}


def test_a_dry_run_writes_nothing_and_names_what_is_missing(lost, donor, tmp_path, capsys):
    before = state(tmp_path)
    assert main([str(lost), "--pooler-from", str(donor), "-o", str(tmp_path / "deep" / "out"), "--dry-run"]) == 0
    assert state(tmp_path) == before
    out = capsys.readouterr().out
    assert out.startswith("status       planned")
    assert f"missing      {', '.join(POOLER)}: random" in out
    assert "Load it" not in out
