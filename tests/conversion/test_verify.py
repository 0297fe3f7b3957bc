"""The verification: that it is done by default, what it notices, and its one process for all outputs of a call."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest
from bert_pooled_mlm import ConversionError, conversion, convert
from bert_pooled_mlm.convert import main
from checkpoints import FORMATS, contents, edit_json, save_lost, todays
from grafting import graft, refused


@pytest.mark.versions
@pytest.mark.usefixtures("forked")
def test_the_default_verifies_and_writes_what_a_conversion_without_it_writes(rescued, report, lost, donor, tmp_path):
    output = tmp_path / rescued.name
    verified = convert(lost, output, pooler_from=donor, format=rescued.name)
    assert str(len(todays(lost)) + 2) in verified.verified
    assert contents(output) == contents(rescued)
    assert verified.tokenizer.startswith(f"{report.tokenizer}; ")
    own = {name: getattr(verified, name) for name in ("verified", "tokenizer")} | {"output": str(output)}
    assert verified.to_dict() == report.to_dict() | own


@pytest.mark.usefixtures("forked")
def test_a_disk_that_changes_bits_is_noticed(place, monkeypatch):
    """It does so once the file is on it."""
    size, changed = (place / "checkpoint" / "model.safetensors").stat().st_size, []

    def faulty(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > size:  # the output's weights, which the pooler is added to
            changed.append(os.pwrite(descriptor, b"\x55", size))

    monkeypatch.setattr(os, "fsync", faulty)
    refused(place, r"what was written differs from what was read: \S*bert\.", verify=True)
    assert changed == [1], "premise"


@pytest.mark.usefixtures("forked")
def test_what_transformers_cannot_load_is_not_moved_into_place(place):
    """A config that the converter accepts, and `BertModel` does not."""
    edit_json(place / "checkpoint" / "config.json", hidden_dropout_prob=7)
    refused(place, r"out: could not be loaded .*dropout probability", verify=True)


def test_without_what_the_verification_needs_nothing_is_begun(lost, donor, out, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
    )
    with pytest.raises(ConversionError, match=r"needs torch; .*--no-verify"):
        convert(lost, out, pooler_from=donor)
    assert not out.exists()
    assert graft(lost, donor, out).status == "converted"


@pytest.mark.versions
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("field", [{"return_dict": False}, {"torchscript": True}], ids=str)
def test_a_config_that_gives_tuples_is_verified_as_any_other(field, place, tmp_path):
    edit_json(place / "checkpoint" / "config.json", **field)
    for format in FORMATS:
        assert convert(place / "checkpoint", tmp_path / format, pooler_from=place / "donor", format=format).verified


# --- The process -----------------------------------------------------------------------------------------------------

# Runs in the verification process before its imports, as tools that watch processes do it.
WATCHER = """
import os, sys
if "verification_process" in str(sys.orig_argv):
    {code}
"""
# In the fork that loads the output of this name.
IN_LOAD = """
    def hook(event, args):
        if event == "open" and str(args[0]).endswith("errors.txt") and "/.{name}.tmp-" in str(args[0]):
            sys.addaudithook(lambda event, args: {code} if event == "import" or event == "open" else None)
    sys.addaudithook(hook)
"""


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Lets the verification process run code of its own at its start."""

    def use(code: str) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(WATCHER.format(code=code.strip()))
        path = os.pathsep.join(filter(None, (str(tmp_path / "site"), os.getenv("PYTHONPATH"))))
        monkeypatch.setenv("PYTHONPATH", path)

    return use


@pytest.fixture
def processes(monkeypatch) -> list[subprocess.Popen]:
    """The verification processes that were started."""
    started, popen = [], subprocess.Popen

    def start(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(conversion.verify.subprocess, "Popen", start)
    return started


ENDS = {
    "prints at exit": ("import atexit; atexit.register(print, 'bye')", None),
    "is killed": ("os.kill(os.getpid(), 9)", "signal 9"),
    "exits": ("os._exit(3)", "exit code 3"),
    "fails": ("raise SystemExit('Traceback\\nno room')", "could not be loaded .*: no room"),
}


@pytest.mark.parametrize("case", ENDS)
def test_however_the_process_ends_the_error_is_one_line(case, place, watched):
    code, match = ENDS[case]
    watched(code)
    if match is None:
        assert convert(place / "checkpoint", place / "out", pooler_from=place / "donor").verified
    else:
        refused(place, f"out: .*{match}", verify=True)


def run_of(folder: Path, donor: Path, count: int) -> list[str]:
    """What a Trainer's run leaves: checkpoints that differ."""
    return [str(save_lost(folder / f"checkpoint-{step}", donor, seed=step)) for step in range(1, count + 1)]


@pytest.mark.versions
def test_one_process_verifies_every_output_of_a_call(donor, tmp_path, processes, monkeypatch, capfd):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    checkpoints = run_of(tmp_path / "run", donor, 3)
    memory, code_of = [], conversion.verify._Process.code_of

    def watched_code_of(self, loads):
        code = code_of(self, loads)
        status = Path(f"/proc/{processes[0].pid}/status").read_text()
        memory.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
        return code

    monkeypatch.setattr(conversion.verify._Process, "code_of", watched_code_of)
    arguments = [*checkpoints, "-o", str(tmp_path / "out"), "--pooler-from", str(donor), "--json"]
    assert main(arguments) == 0
    results = json.loads(capfd.readouterr().out)["results"]
    assert len(processes) == 1
    assert processes[0].poll() is not None, "it has ended"
    assert len(memory) == 3
    assert max(memory) - min(memory) < 10, "each load is a fork"
    assert not (tmp_path / "modules").exists(), "the user's module cache"
    for checkpoint, result in zip(checkpoints, results, strict=True):
        assert result["verified"]
        report = graft(Path(checkpoint), donor, tmp_path / "alone" / Path(checkpoint).name)
        assert contents(Path(result["output"])) == contents(Path(report.output))
    assert len({(Path(it["output"]) / "model.safetensors").read_bytes() for it in results}) == 3, "premise"
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert sorted(left) == [Path(it).name for it in checkpoints]


@pytest.mark.parametrize(
    ("code", "match"),
    [("os.kill(os.getpid(), 9)", "signal 9"), ("exec('raise MemoryError')", "MemoryError")],
    ids=["killed", "out of memory"],
)
def test_a_load_that_fails_concerns_its_own_checkpoint(code, match, donor, tmp_path, watched, processes, capfd):
    checkpoints = run_of(tmp_path / "run", donor, 3)
    watched(IN_LOAD.format(name="checkpoint-2", code=code))
    arguments = [*checkpoints, "-o", str(tmp_path / "out"), "--pooler-from", str(donor), "--json"]
    assert main(arguments) == 1
    first, second, third = json.loads(capfd.readouterr().out)["results"]
    assert first["verified"]
    assert third["verified"]
    assert match in second["error"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint-1", "checkpoint-3"]
    assert len(processes) == 1, "the load was a fork"
