"""What ends a run, at any moment: one line, no child, no folder and no cache left. Kills by step: test_kills.py."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from checkpoints import ROOT, save_weights, snapshot, stored
from grafting import Conversions
from programs import CHILDREN

AT_ONCE = CHILDREN / "from_a_terminal.py"
DOORS = {
    "python convert.py": [ROOT / "convert.py"],
    "python -m bert_pooled_mlm.convert": ["-m", "bert_pooled_mlm.convert"],
    "bert-pooled-mlm-convert": [Path(sysconfig.get_path("scripts"), "bert-pooled-mlm-convert")],
}


def start(place: Path, *argv, door: str = "python convert.py", ignored: str = "", **env: str) -> subprocess.Popen:
    """A conversion in `place`, as from a terminal, with a folder for temporary files; `ignored`: as under `nohup`."""
    (place / "tmp").mkdir(exist_ok=True)
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
    variables |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf"), "TMPDIR": str(place / "tmp"), **env}
    options = ["checkpoint", "--pooler-from", "donor", "-o", "out"]
    command = [sys.executable, AT_ONCE, *DOORS[door], *options, *argv]
    if ignored:
        command = ["sh", "-c", f'trap "" {ignored}; exec "$@"', "sh", sys.executable, *DOORS[door], *options, *argv]
    return subprocess.Popen(
        [*map(str, command)], cwd=place, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def verifying(place: Path, process: subprocess.Popen) -> int:
    """Waits until the verification's process runs, and gives its number."""
    deadline = time.monotonic() + 300
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [name for name in os.listdir(place) if name.startswith(".out.tmp-")], "premise: it works in its folder"
    return int(found[0])


def assert_ends(pid: int) -> None:
    """At once, or, where the signal came while it was being started, with the run."""
    deadline = time.monotonic() + 20
    with contextlib.suppress(FileNotFoundError):
        while Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline, "it goes on without the run"
            time.sleep(0.01)


def left(place: Path) -> set[str]:
    """What a run left: beside its inputs, and among the temporary files."""
    assert not (place / "hf").exists(), "a cache"
    return {path.name for path in [*place.iterdir(), *(place / "tmp").iterdir()]} - {"checkpoint", "donor", "tmp"}


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="a process's children are read from /proc")


@needs_proc
@pytest.mark.parametrize(("name", "code", "what"), [
    ("SIGTERM", 143, "ended by SIGTERM"), ("SIGHUP", 129, "ended by SIGHUP"), ("SIGINT", 130, "interrupted"),
])  # fmt: skip
def test_a_run_that_is_ended_while_it_verifies_leaves_no_process_and_no_folder(name, code, what, place):
    before = snapshot(place)
    process = start(place)
    child = verifying(place, process)
    process.send_signal(signal.Signals[name])
    line = f"error: {what}; what has not got its name yet is gone\n"
    assert ended(process) == (code, "", line)
    assert_ends(child)
    assert left(place) == set()
    shutil.rmtree(place / "tmp")
    assert snapshot(place) == before


@needs_proc
def test_what_a_killed_run_left_is_cleared_by_the_next_one_which_leaves_another_ones_alone(place):
    process = start(place)
    child = verifying(place, process)
    process.kill()
    ended(process)
    (killed,) = left(place)
    assert_ends(child)
    running = killed.replace(str(process.pid), str(os.getpid()))
    assert running != killed, "premise: its name tells the process"
    shutil.copytree(place / killed, place / running)
    held = snapshot(place / running)
    assert ended(start(place, "--no-verify"))[0] == 0
    assert left(place) == {"out", running}
    assert snapshot(place / running) == held


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_scheduler_ends_a_run_at_any_step_with_nothing_left(name, place, tmp_path):
    """And sends the signal again while the run clears away."""
    before = snapshot(place)
    argv = [place / "checkpoint", "--pooler-from", place / "donor", "-o", place / "out"]
    number = signal.Signals[name]
    with Conversions(HF_HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path)) as conversions:
        steps = conversions.run(*argv)["steps"].split()
        shutil.rmtree(place / "out")
        for at in range(1, len(steps) + 1):
            run = conversions.run(*argv, at=at, signal=number)
            if run["code"] == 0:  # while the empty workspace was cleared away: the output has its name
                assert steps[at - 1] == "os.rmdir"
            else:
                assert (run["code"], run["err"].count("\n")) == (128 + number, 1)
                assert run["err"].startswith(f"error: ended by {name}; ")
            if (place / "out").exists():
                assert "os.rename" in steps[:at]
                shutil.rmtree(place / "out")
            assert snapshot(place) == before, (at, steps[at - 1])


@pytest.mark.parametrize("name", ["HUP", "INT"])
def test_a_signal_that_is_ignored_stays_ignored(name, place):
    """`nohup`, and a background job: the first SIGHUP of a closed terminal must not end what was told to stay."""
    process = start(place, ignored=name)
    deadline = time.monotonic() + 300
    while not [it for it in os.listdir(place) if it.startswith(".out.tmp-")]:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.Signals[f"SIG{name}"])
    code, out, err = ended(process)
    assert (code, err) == (0, "")
    assert "verified" in out


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("door", "module"), [
    ("python convert.py", "argparse"),
    ("python convert.py", "huggingface_hub.utils"),
    ("python convert.py", "numpy"),
    ("python convert.py", "yaml"),
    ("python convert.py", "zipfile"),
    ("python convert.py", "torch"),  # of a .bin, in the midst of the work
    ("python -m bert_pooled_mlm.convert", "transformers"),
    ("python -m bert_pooled_mlm.convert", "torch"),
    ("bert-pooled-mlm-convert", "transformers"),
    ("bert-pooled-mlm-convert", "tokenizers"),
])  # fmt: skip
def test_an_interrupt_during_imports_is_one_line(door, module, place):
    save_weights(place / "checkpoint", stored(place / "checkpoint"), kind="bin")
    before = snapshot(place)
    process = start(place, door=door, PYTHONPATH=str(CHILDREN / "interrupted"), INTERRUPT_AT=module)
    code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert err.startswith("error: interrupted")
    assert err.count("\n") == 1
    shutil.rmtree(place / "tmp")
    assert snapshot(place) == before


def test_an_interrupt_during_imports_is_not_swallowed_where_another_program_imports_it(tmp_path):
    """Who imports the package from a program of their own gets their KeyboardInterrupt."""
    code = "try:\n    import bert_pooled_mlm\nexcept KeyboardInterrupt:\n    print('theirs')"
    variables = os.environ | {"PYTHONPATH": str(CHILDREN / "interrupted"), "INTERRUPT_AT": "transformers"}
    command = [sys.executable, AT_ONCE, "-c", code]
    done = subprocess.run([*map(str, command)], env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "theirs\n")
