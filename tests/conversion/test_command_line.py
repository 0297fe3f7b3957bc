"""The command line: several inputs, exit codes, what is printed, and the ways that lead to it."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from bert_pooled_mlm import conversion
from bert_pooled_mlm.convert import main
from checkpoints import bits, clone, edit_json, stored
from grafting import expected_of
from programs import run_python


@pytest.fixture
def run(lost, donor, tmp_path) -> Path:
    """A training run: three checkpoints, the second of them damaged."""
    folder = tmp_path / "run"
    for step in (1, 2, 3):
        shutil.copytree(lost, folder / f"checkpoint-{step}")
    (folder / "checkpoint-2" / "config.json").unlink()
    return folder


@pytest.mark.parametrize("placed", [True, False])
def test_several_checkpoints_in_one_call(placed, run, lost, donor, tmp_path, capsys, monkeypatch):
    """One that fails does not stop the others; the exit code and a summary tell."""
    opened, original = Counter(), os.open
    monkeypatch.setattr(os, "open", lambda path, *args, **kw: (opened.update([path]), original(path, *args, **kw))[1])
    where = ["-o", str(tmp_path / "out")] if placed else []
    checkpoints = [str(path) for path in sorted(run.iterdir())]
    assert main([*checkpoints, "--pooler-from", str(donor), "--no-verify", *where]) == 1
    suffix, folder = ("", tmp_path / "out") if placed else ("-pooled", run)
    for step in (1, 3):
        assert bits(stored(folder / f"checkpoint-{step}{suffix}")) == expected_of(lost, donor)
    assert not (folder / f"checkpoint-2{suffix}").exists()
    assert opened[donor / "config.json"] == 1, "the donor is read once"
    assert opened[run / "checkpoint-1" / "config.json"] == opened[run / "checkpoint-3" / "config.json"] == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "checkpoint-2: no config.json" in captured.err
    *rows, total = captured.out.splitlines()[-4:]
    assert [row.split()[0] for row in rows] == ["converted", "refused", "converted"]
    assert [Path(row.split()[1]).name for row in rows] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert total == "2 done, 1 refused"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no donor found for its pooler: it names no model that it started from, and the table"),
        (["--pooler-from", "./no-such-donor"], "./no-such-donor: no such folder"),
        (["--pooler-from", "user/base"], "user/base: no such folder, and not in the"),
        (["--calibrate", "./no-texts.txt"], "no-texts.txt: no such file"),
        (["--pooler-from", "donor", "-o", "out"], "ImportError: transformers is broken"),
    ],
    ids=str,
)
def test_an_error_of_several_checkpoints_stands_once(options, words, run, donor, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("donor").symlink_to(donor)
    Path("program.py").write_text("raise ImportError('transformers is broken')")
    monkeypatch.setattr(conversion.verify, "PROGRAM", Path("program.py"))
    checkpoints = [str(run / f"checkpoint-{step}") for step in (1, 3)]
    for checkpoint in checkpoints:
        edit_json(Path(checkpoint, "config.json"), "_name_or_path")
    assert main([*checkpoints, *options]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert words in first
    assert second == f"error: {checkpoints[1]}: not converted for the same reason as {checkpoints[0]}"
    assert not Path("out").exists()


@pytest.mark.parametrize("count", [1, 2])
def test_quiet_prints_nothing(count, run, donor, capfd):
    checkpoints = [str(run / f"checkpoint-{step}") for step in (1, 3)][:count]
    assert main([*checkpoints, "--pooler-from", str(donor), "--no-verify", "-q"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (run / "checkpoint-1-pooled").is_dir()


# --- The script, and its exit codes ----------------------------------------------------------------------------------


def test_a_plain_checkout_converts_and_verifies_without_torch_in_its_own_process(checkpoint, lost, donor, tmp_path):
    """That the installed command does the same is tested with the package."""
    arguments = [clone(tmp_path) / "convert.py", "checkpoint", "--pooler-from", donor]
    done = run_python("without_torch", tmp_path, *arguments, fresh=True)
    *report, found = done.stdout.splitlines()
    assert (done.returncode, done.stderr, json.loads(found)) == (0, "", [0, []])
    assert report[0].startswith("status       converted")
    assert "verified " in done.stdout
    assert bits(stored(tmp_path / "checkpoint-pooled")) == expected_of(lost, donor)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none"], 1, "error: none: "),
        ([], 2, "the following arguments are required: CHECKPOINT"),
        (["a", "b", "--push-to-hub", "user/x"], 2, "--push-to-hub takes one CHECKPOINT"),
        (["a", "--pooler-form", "b"], 2, "unrecognized arguments: --pooler-form b; did you mean --pooler-from?"),
        (["a", "--pooler_from=b"], 2, "unrecognized arguments: --pooler_from=b; did you mean --pooler-from?"),
        (["a", "--zzz"], 2, "unrecognized arguments: --zzz\n"),
        (["a", "--force-donor"], 2, "--force-donor needs --pooler-from"),
        (["a", "--format", "gguf"], 2, "argument --format: invalid choice"),
        (["a", "--calibrate", "a.txt", "--calibrate-samples", "0"], 2, "is 0; expected a positive whole number"),
    ],
)
def test_exit_codes_tell_a_refusal_from_wrong_usage(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        exit_code = main(arguments)
    except SystemExit as exit:
        exit_code = exit.code
    captured = capsys.readouterr()
    assert exit_code == code
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.versions
@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_an_error_is_one_line_on_stderr_and_with_json_an_object_too(options, place, capfd):
    (place / "checkpoint" / "config.json").unlink()
    checkpoint = str(place / "checkpoint")
    assert main([checkpoint, "--pooler-from", str(place / "donor"), *options]) == 1
    out, err = capfd.readouterr()
    error = f"{checkpoint}: no config.json; copy the config.json of the model that the training started from into the"
    assert err.startswith(f"error: {error}")
    assert err.count("\n") == 1
    found = {"status": "refused", "checkpoint": checkpoint, "error": err.removeprefix("error: ").rstrip("\n")}
    assert (json.loads(out) if options else out) == (found if options else "")
