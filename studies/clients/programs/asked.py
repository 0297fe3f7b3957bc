# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What run.py asks of a program: each folder, opened by its line, and the vectors of the texts."""

import json
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
