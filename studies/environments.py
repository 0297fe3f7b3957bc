# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Separate virtual environments for the programs that a study runs."""

import json
import os
import re
import subprocess
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
SECONDS = 1200  # time limit of an installation or a program


def environment(
    folder: Path, *packages: str, without: tuple[str, ...] = (), alone: tuple[str, ...] = ()
) -> tuple[Path, dict[str, str]]:
    """Creates the environment in `folder`, or reuses it; returns its Python and the installed versions.

    Packages in `alone` are installed without their requirements, those in `without` are removed at the end.
    """
    python, complete, wanted = folder / "bin" / "python", folder / "complete", repr((packages, without, alone))
    if not complete.exists() or complete.read_text(encoding="utf-8") != wanted:
        venv.create(folder, with_pip=True, clear=True)
        (folder / "constraints.txt").write_text(TORCH + "\n", encoding="utf-8")
        pip = [python, "-m", "pip", "install", "-q", "--no-compile", "-c", folder / "constraints.txt"]
        ran([*pip, *(package for package in packages if package not in alone)], folder)
        if alone:
            ran([*pip, "--no-deps", *alone], folder)
        if without:
            ran([python, "-m", "pip", "uninstall", "-q", "-y", *without], folder)
        complete.write_text(wanted, encoding="utf-8")
    listed = json.loads(ran([python, "-m", "pip", "list", "--format", "json"], folder))
    return python, {package["name"].lower().replace("_", "-"): package["version"] for package in listed}


def ran(command: list, folder: Path, **variables: str) -> str:
    """Returns the standard output of a program; raises RuntimeError with its error output if it fails."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=kept | variables, timeout=SECONDS,
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout or f"exit code {done.returncode}")
    return done.stdout


def last_error(text: str) -> str:
    """The last line that names an error, or the last line if none does."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|ERROR)\b", line)]
    return (errors or lines)[-1]
