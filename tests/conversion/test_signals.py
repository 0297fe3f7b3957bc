"""What ends a run: one line, and no process, folder or cache is left. Step by step: test_kills.py."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import ROOT, snapshot
from programs import CHILDREN

AT_ONCE = CHILDREN / "from_a_terminal.py"


def start(place: Path, *argv, ignored: str = "") -> subprocess.Popen:
    """A conversion in `place`, as from a terminal, with a folder for temporary files; `ignored`: as under `nohup`."""
    (place / "tmp").mkdir(exist_ok=True)
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
    variables |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf"), "TMPDIR": str(place / "tmp")}
    program = [ROOT / "convert.py", "checkpoint", "--pooler-from", "donor", "-o", "out", *argv]
    command = [sys.executable, AT_ONCE, *program]
    if ignored:
        command = ["sh", "-c", f'trap "" {ignored}; exec "$@"', "sh", sys.executable, *program]
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


def wait_for(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def verifying(place: Path, process: subprocess.Popen) -> int:
    """Waits until an output is written, whose verification takes seconds; gives the number of that process."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(process, lambda: children.read_text() and [*place.glob(".out.tmp-*/output-*/2_Dense/model.safetensors")])
    return int(children.read_text().split()[0])


def assert_ends(pid: int) -> None:
    """Once its imports are done, which take seconds."""
    deadline = time.monotonic() + 300
    with contextlib.suppress(FileNotFoundError):
        while Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline, "it goes on without the run"
            time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="a process's children are read from /proc")
@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("SIGTERM", 143, "ended by SIGTERM"),
        ("SIGHUP", 129, "ended by SIGHUP"),
        ("SIGINT", 130, "interrupted"),
        ("SIGKILL", -9, None),
    ],
)
def test_a_run_that_is_ended_while_it_verifies_leaves_no_process_and_no_folder(name, code, what, place):
    before = snapshot(place)
    process = start(place)
    child = verifying(place, process)
    process.send_signal(signal.Signals[name])
    assert ended(process) == (code, "", f"error: {what}; incomplete output removed\n" if what else "")
    assert_ends(child)
    assert not [*(place / "tmp").iterdir()]
    if what:  # what a kill leaves next to the output is removed by the next run: test_kills.py
        (place / "tmp").rmdir()
        assert snapshot(place) == before, "no cache either"


@pytest.mark.parametrize("name", ["HUP", "INT"])
def test_a_signal_that_is_ignored_stays_ignored(name, place):
    """`nohup`, and a background job: the first SIGHUP of a closed terminal must not end what was told to stay."""
    process = start(place, ignored=name)
    wait_for(process, lambda: [*place.glob(".out.tmp-*")])
    process.send_signal(signal.Signals[f"SIG{name}"])
    code, out, err = ended(process)
    assert (code, err) == (0, "")
    assert "verified" in out
