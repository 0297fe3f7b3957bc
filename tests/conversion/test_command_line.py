"""The command line: several inputs, exit codes, what is printed, and the ways that lead to it."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from bert_pooled_mlm import conversion
from bert_pooled_mlm.convert import main
from checkpoints import ROOT, bits, edit_json, stored
from grafting import expected_of
from programs import answer


@pytest.fixture
def run(lost, donor, tmp_path) -> Path:
    """A training run: three checkpoints, the second of them damaged."""
    folder = tmp_path / "run"
    for step in (1, 2, 3):
        shutil.copytree(lost, folder / f"checkpoint-{step}")
    (folder / "checkpoint-2" / "config.json").unlink()
    return folder


@pytest.mark.parametrize("placed", [True, False], ids=["-o DIR", "next to each"])
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


def test_several_sound_checkpoints_exit_with_0(run, donor, capsys):
    assert main([str(run / "checkpoint-1"), str(run / "checkpoint-3"), "--pooler-from", str(donor), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 planned, 0 refused"


REPEATED = {
    "no donor": ([], "no donor found for its pooler"),
    "a donor that is not there": (["--pooler-from", "./no-such-donor"], "./no-such-donor: no such folder"),
    "a hub that is not there": (
        ["--pooler-from", "user/base"],
        "user/base: no such folder, and not in the",
    ),
    "texts that are not there": (["--calibrate", "./no-texts.txt"], "no-texts.txt: no such file"),
}


@pytest.mark.parametrize("cause", REPEATED)
def test_an_error_of_several_checkpoints_stands_once(cause, run, capsys):
    options, words = REPEATED[cause]
    (run / "checkpoint-2" / "config.json").write_bytes((run / "checkpoint-1" / "config.json").read_bytes())
    for step in (1, 2, 3):
        edit_json(run / f"checkpoint-{step}" / "config.json", "_name_or_path")
    checkpoints = [str(run / f"checkpoint-{step}") for step in (1, 2, 3)]
    assert main([*checkpoints, *options, "--no-verify"]) == 1
    first, *others = capsys.readouterr().err.splitlines()
    assert words in first
    assert others == [
        f"error: {name}: not converted for the same reason as {checkpoints[0]}" for name in checkpoints[1:]
    ]


def test_json_of_several_is_one_object_too(run, donor, tmp_path, capsys):
    checkpoints = [str(path) for path in sorted(run.iterdir())]
    assert main([*checkpoints, "--pooler-from", str(donor), "-o", str(tmp_path / "out"), "--dry-run", "--json"]) == 1
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["status"] for result in results] == ["planned", "refused", "planned"]
    assert [result["checkpoint"] for result in results] == checkpoints
    assert "no config.json" in results[1]["error"]


def test_json_of_a_refusal_is_an_object(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--json"]) == 1
    captured = capsys.readouterr()
    error = f"{tmp_path / 'none'}: no such folder"
    assert json.loads(captured.out) == {"status": "refused", "checkpoint": str(tmp_path / "none"), "error": error}
    assert captured.err == f"error: {error}\n"


@pytest.mark.parametrize("count", [1, 2])
def test_quiet_prints_nothing(count, run, donor, capfd):
    checkpoints = [str(run / f"checkpoint-{step}") for step in (1, 3)][:count]
    assert main([*checkpoints, "--pooler-from", str(donor), "--no-verify", "-q"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (run / "checkpoint-1-pooled").is_dir()


# --- What ends the verification of one -------------------------------------------------------------------------------

ENDS = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "the verification process was ended by signal 9; is there too"),
    "killed with what forks it": ("os.kill(os.getppid(), signal.SIGKILL)", "was ended by signal 9; is there too"),
    "out of memory": ("raise MemoryError", "could not be loaded as it was written: MemoryError"),
    "exits": ("os._exit(3)", "could not be loaded as it was written: exit code 3, and no message"),
}
STAND_IN = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import verification_process

def load_twice(folder, classes, pooler_files):
    if "checkpoint-2" in folder:
        {end}
    return {{"missing": [], "mismatched": [], "pooler_equal": True, "loads_equal": True}}

verification_process.load_twice = load_twice
verification_process.compare_tokens = lambda *_: {{"input": None, "output": None, "differing": [], "texts": 1}}
verification_process.serve()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, nothing is forked")
@pytest.mark.parametrize("kind", ENDS)
def test_a_verification_that_is_ended_concerns_its_own_checkpoint(kind, run, donor, tmp_path, monkeypatch, capsys):
    """The process is the converter's own, but for what it loads."""
    end, message = ENDS[kind]
    (run / "checkpoint-2" / "config.json").write_bytes((run / "checkpoint-1" / "config.json").read_bytes())
    program = tmp_path / "program.py"
    program.write_text(STAND_IN.format(folder=str(ROOT / "conversion"), end=end))
    monkeypatch.setattr(conversion.verify, "PROGRAM", program)
    checkpoints = [str(path) for path in sorted(run.iterdir())]
    assert main([*checkpoints, "--pooler-from", str(donor), "--json"]) == 1
    captured = capsys.readouterr()
    results = json.loads(captured.out)["results"]
    assert [result["checkpoint"] for result in results] == checkpoints
    assert [result["status"] for result in results] == ["converted", "refused", "converted"]
    assert message in results[1]["error"]
    assert captured.err == f"error: {results[1]['error']}\n"
    folders = {f"checkpoint-{number}" for number in (1, 2, 3)}
    assert {path.name for path in run.iterdir()} == folders | {"checkpoint-1-pooled", "checkpoint-3-pooled"}


def test_a_verification_that_can_not_start_is_told_once(run, donor, tmp_path, monkeypatch, capsys):
    program = tmp_path / "program.py"
    program.write_text("raise ImportError('transformers is broken')")
    monkeypatch.setattr(conversion.verify, "PROGRAM", program)
    checkpoints = [str(run / f"checkpoint-{step}") for step in (1, 3)]
    assert main([*checkpoints, "--pooler-from", str(donor), "-o", str(tmp_path / "out")]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("could not be loaded as it was written: ImportError: transformers is broken")
    assert second == f"error: {checkpoints[1]}: not converted for the same reason as {checkpoints[0]}"
    assert not (tmp_path / "out").exists()


# --- The ways to start it --------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A plain checkout: the files without an installation."""
    ignored = shutil.ignore_patterns("__pycache__")
    folder = Path(shutil.copytree(ROOT / "conversion", tmp_path / "plain-checkout" / "conversion", ignore=ignored))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder.parent)
    return folder.parent


def run_command(command: list, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
    variables |= {"HF_HOME": str(cwd / "hf-home"), "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True)


COMMANDS = {
    "python convert.py": ([sys.executable, "plain-checkout/convert.py"], []),
    "python -m bert_pooled_mlm.convert": ([sys.executable, "-m", "bert_pooled_mlm.convert"], ["--no-verify"]),
    "bert-pooled-mlm-convert": ([Path(sysconfig.get_path("scripts"), "bert-pooled-mlm-convert")], ["--no-verify"]),
}


@pytest.mark.parametrize("way", COMMANDS)
def test_every_command_leads_to_the_same_conversion(way, checkout, checkpoint, lost, donor, tmp_path):
    command, options = COMMANDS[way]
    done = run_command([*command, "checkpoint", "--pooler-from", donor, *options], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("status       converted")
    assert ("verified " in done.stdout) == (options == [])
    assert bits(stored(tmp_path / "checkpoint-pooled")) == expected_of(lost, donor)


def test_convert_is_a_function_also_once_its_module_is_imported(checkpoint, donor):
    import bert_pooled_mlm.convert
    from bert_pooled_mlm import convert

    assert inspect.isfunction(convert)
    assert bert_pooled_mlm.convert is convert
    assert convert(checkpoint, pooler_from=donor, dry_run=True).status == "planned"


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
        (["a", "--pooler-revision", "v1"], 2, "--pooler-revision needs --pooler-from"),
        (["a", "--private"], 2, "--private needs --push-to-hub"),
        (["a", "--format", "gguf"], 2, "argument --format: invalid choice"),
        (["a", "--calibrate-samples", "10"], 2, "--calibrate-samples needs --calibrate"),
        (["a", "--device", "cpu"], 2, "--device needs --calibrate"),
        (["a", "--calibrate", "a.txt", "--calibrate-samples", "0"], 2, "is 0; expected a positive whole number"),
        (["a", "--calibrate", "a.txt", "--calibrate-length", "-3"], 2, "is -3; expected a positive whole number"),
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


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["checkpoint", "--pooler-from", "giver", "--no-verify"]],
    ids=["help", "a whole conversion"],
)
def test_the_script_does_without_torch_and_transformers(arguments, checkout, checkpoint, giver, tmp_path):
    assert answer("without_torch", tmp_path, checkout / "convert.py", *arguments, fresh=True) == [0, []]
    assert (tmp_path / "checkpoint-pooled").is_dir() == (arguments != ["--help"])


@pytest.mark.versions
def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(place, capfd):
    (place / "checkpoint" / "config.json").unlink()
    assert main([str(place / "checkpoint"), "--pooler-from", str(place / "donor")]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    advice = "copy the config.json of the model that the training started from into the folder"
    assert err == f"error: {place / 'checkpoint'}: no config.json; {advice}\n"
