"""Runs programs as users do: in fresh processes, or in forks of one that has imported transformers."""

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CHILDREN = Path(__file__).resolve().parent / "children"
SERVER = "BERT_POOLED_MLM_TESTS_FORKS"  # the address of the process to fork from, where one has been started


def run_python(
    program: str | Path, cwd: Path, *args: str, stdin: str | None = None, fresh: bool = False, **env: str
) -> subprocess.CompletedProcess:
    """Runs a file, one of tests/children by its name, or a line of code, in a fresh process with no way to the Hub.

    What needs no environment of its own is run in a fork of one that has imported transformers, which takes seconds,
    unless it has to be `fresh`. What the Hub's client keeps is under `cwd`.
    """
    if isinstance(program, str) and program.isidentifier():
        program = CHILDREN / f"{program}.py"
    what = [program] if isinstance(program, Path) else ["-c", program]
    argv = [*map(str, [*what, *args])]
    if stdin is None and not env and not fresh:
        return run_fork(argv, cwd)
    variables = environment(**{"HF_HOME": str(cwd / "hf-home"), **env})
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=cwd, env=variables, input=stdin, capture_output=True, encoding="utf-8")


def environment(**changed: str) -> dict[str, str]:
    """This process's, but for what sets the Hub's client and Python's path; offline."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
    return variables | {"HF_HUB_OFFLINE": "1"} | changed


def answer(program: str | Path, cwd: Path, *args: str, fresh: bool = False, **env: str):
    """What a fresh process prints as its last line, as JSON. Fails with its whole output if it fails."""
    done = run_python(program, cwd, *args, fresh=fresh, **env)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def start_forks() -> None:
    """Starts the process that programs are forked from, for this process and those that it starts. It ends with it."""
    folder = tempfile.TemporaryDirectory()
    with socket.create_server(f"{folder.name}/forks", family=socket.AF_UNIX) as listener:
        process = subprocess.Popen(
            [sys.executable, CHILDREN / "forks.py", str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            cwd=folder.name,
            env=environment(HF_HOME="hf-home"),  # in the folder that each program runs in
        )

    def end() -> None:
        with folder, process:
            process.stdin.close()

    atexit.register(end)
    os.environ[SERVER] = f"{folder.name}/forks"


def run_fork(argv: list[str], cwd: Path) -> subprocess.CompletedProcess:
    """Runs `python *argv` in `cwd`, in a fork (tests/children/forks.py)."""
    with tempfile.TemporaryDirectory() as folder:
        order = {"argv": argv, "cwd": str(cwd), "out": f"{folder}/out", "err": f"{folder}/err"}
        connection = _connection()
        connection.write(json.dumps(order) + "\n")
        connection.flush()
        code = json.loads(connection.readline())
        out, err = (Path(order[name]).read_text("utf-8") for name in ("out", "err"))
    return subprocess.CompletedProcess(argv, code, out, err)


@functools.cache
def _connection():
    """One in each process that runs tests."""
    if SERVER not in os.environ:
        start_forks()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.environ[SERVER])
        return client.makefile("rw")  # which keeps it open
