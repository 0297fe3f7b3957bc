"""The verification: that it is done by default, what it notices, and its one process for all outputs of a call."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bert_pooled_mlm import ConversionError, conversion, convert
from bert_pooled_mlm.convert import main
from checkpoints import FORMATS, ROOT, contents, edit_json, save_lost, todays
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
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "torch" else find_spec(name))
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

# In the place of the program. In the load of the second checkpoint, it does something else.
STAND_IN = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import verification_process

def load_twice(folder, classes):
    if "checkpoint-2" in folder:
        {end}
    return {{"missing": [], "mismatched": [], "pooler_equal": True, "loads_equal": True}}

verification_process.load_twice = load_twice
verification_process.compare_tokens = lambda *_: {{"input": None, "output": None, "differing": [], "texts": 1}}
verification_process.serve()
"""
ENDS = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "the verification process was ended by signal 9; is there too"),
    "killed with what forks it": ("os.kill(os.getppid(), signal.SIGKILL)", "was ended by signal 9; is there too"),
    "out of memory": ("raise MemoryError", "could not be loaded as it was written: MemoryError"),
    "exits": ("os._exit(3)", "could not be loaded as it was written: exit code 3, and no message"),
}


@pytest.fixture
def run(donor, tmp_path) -> list[Path]:
    """What a Trainer's run leaves: checkpoints that differ."""
    return [save_lost(tmp_path / "run" / f"checkpoint-{step}", donor, seed=step) for step in (1, 2, 3)]


@pytest.fixture
def convert_run(run, donor, tmp_path, capfd):
    """Converts them in one call, into the folder `out`; gives the exit code, the results and what stderr has."""

    def call() -> tuple[int, list[dict], str]:
        code = main([*map(str, run), "-o", str(tmp_path / "out"), "--pooler-from", str(donor), "--json"])
        out, err = capfd.readouterr()
        return code, json.loads(out)["results"], err

    return call


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, nothing is forked")
@pytest.mark.parametrize("kind", ENDS)
def test_a_load_that_ends_the_process_concerns_its_own_checkpoint(kind, convert_run, run, tmp_path, monkeypatch):
    end, message = ENDS[kind]
    program = tmp_path / "program.py"
    program.write_text(STAND_IN.format(folder=str(ROOT / "conversion"), end=end))
    monkeypatch.setattr(conversion.verify, "PROGRAM", program)
    code, results, err = convert_run()
    assert code == 1
    assert [result["checkpoint"] for result in results] == [str(checkpoint) for checkpoint in run]
    assert [result["status"] for result in results] == ["converted", "refused", "converted"]
    assert message in results[1]["error"]
    assert err == f"error: {results[1]['error']}\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint-1", "checkpoint-3"]


@pytest.mark.versions
def test_one_process_verifies_every_output_of_a_call(convert_run, run, donor, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    started, memory = [], []
    popen, code_of = subprocess.Popen, conversion.verify._Process.code_of

    def start(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    def watched(*args):
        code = code_of(*args)
        status = Path(f"/proc/{started[0].pid}/status").read_text()
        memory.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
        return code

    monkeypatch.setattr(conversion.verify.subprocess, "Popen", start)
    monkeypatch.setattr(conversion.verify._Process, "code_of", watched)
    code, results, _ = convert_run()
    assert code == 0
    assert [process.poll() is None for process in started] == [False], "one, and it has ended"
    assert len(memory) == 3
    assert max(memory) - min(memory) < 10, "each load is a fork"
    assert not (tmp_path / "modules").exists(), "the user's module cache"
    for checkpoint, result in zip(run, results, strict=True):
        assert result["verified"]
        report = graft(checkpoint, donor, tmp_path / "alone" / checkpoint.name)
        assert contents(Path(result["output"])) == contents(Path(report.output))
    assert len({(Path(it["output"]) / "model.safetensors").read_bytes() for it in results}) == 3, "premise"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {checkpoint.name for checkpoint in run}
