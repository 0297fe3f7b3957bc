# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What run.py asks of a program: each folder, opened by its line, and the vectors of the texts."""

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def answer(vectors_of: Callable) -> None:
    """Prints a line for each run: what `vectors_of(folder, call, texts)` gives, or how it fails.

    Where the weights are not the folder's any more, it gives {"weights": the folder that they are in} besides.
    """
    asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    for folder, call in asked["runs"]:
        try:
            found = vectors_of(folder, call, asked["texts"])
            vectors, changed = found if isinstance(found, tuple) else (found, {})
            said = {"vectors": [[float(number) for number in vector] for vector in vectors], **changed}
        except Exception as error:
            traceback.print_exc()
            said = {"error": f"{type(error).__name__}: {error}"}
        # In a line of its own, also where the client left a question in the last one.
        print("\n" + json.dumps(said), flush=True)


def run_command(folder: str, call: str) -> None:
    """Runs a line of a command that is installed beside this Python, on a folder.

    Raises:
        RuntimeError: It failed; the message is what it printed.
    """
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = call.replace(" folder ", f" {folder} ").split()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path)
    if done.returncode:
        raise RuntimeError(done.stderr)


def with_file(folder: str, name: str, text: str) -> str:
    """A copy of the folder, under its name, that holds this file as well."""
    copy = Path("changed", Path(folder).name)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    (copy / name).write_text(text, "utf-8")
    return str(copy)


def with_vocabulary(folder: str) -> str:
    """A copy that holds vocab.txt, which slow tokenizers read, and transformers 5 does not write."""
    ids = json.loads(Path(folder, "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return with_file(folder, "vocab.txt", "\n".join(sorted(ids, key=ids.get)))
