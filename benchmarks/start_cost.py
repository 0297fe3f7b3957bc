# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed package costs before any work: its command and its import; a part of benchmark.py.

The installed command is compared with `python convert.py` of the checkout, `import bert_pooled_mlm` with
`import transformers`. Each runs in a fresh process, in turns.
"""

import functools
import sys
import sysconfig
import tempfile
from pathlib import Path

from convert_cost import in_rounds, write_checkpoint
from measuring import in_fresh_process
from subjects import ROOT

COMMAND = Path(sysconfig.get_path("scripts")) / "bert-pooled-mlm-convert"
IMPORTED = "import pathlib, bert_pooled_mlm; print(pathlib.Path(bert_pooled_mlm.__file__).parent)"


def start(shape: dict, rounds: int, disk: Path | None = None) -> dict:
    """Seconds, CPU seconds and peak bytes of each way, after one round that is discarded."""
    with tempfile.TemporaryDirectory(dir=disk, prefix="benchmark-") as place:
        lost, donor, out = (Path(place, name) for name in ("lost", "donor", "out"))
        size = write_checkpoint(lost, shape)
        write_checkpoint(donor, shape, pooler=True)
        work = (lost, "--pooler-from", donor, "-o", out, "-q", "--no-verify")
        checkout = (sys.executable, ROOT / "convert.py")
        ways = {
            "installed": (COMMAND, *work),
            "checkout": (*checkout, *work),
            "installed_help": (COMMAND, "--help"),
            "checkout_help": (*checkout, "--help"),
            "import": (sys.executable, "-c", IMPORTED),
            "import_transformers": (sys.executable, "-c", "import transformers"),
        }
        found = Path(in_fresh_process(*ways["import"])["out"].strip())
        if found.resolve() != ROOT:
            raise RuntimeError(f"installed is {found}, not this checkout: run `pip install -e .`")
        calls = {name: functools.partial(in_fresh_process, *argv) for name, argv in ways.items()}
        return {"bytes": size, "runs": in_rounds(calls, [lost, donor], out, rounds, warm_rounds=1)}
