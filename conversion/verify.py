# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 6, verify: reopen what was written, compare it with what was read when it was read, and load it as users do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from .errors import ConversionError, listed, printable
from .plan import Plan
from .sources import Folder
from .weights import read_tensors
from .wire import log

SOUND = {"missing": [], "mismatched": [], "pooler_equal": True, "loads_equal": True}
CHILD = Path(__file__).with_name("load_twice.py")


@dataclasses.dataclass(frozen=True)
class Proof:
    """What was verified."""

    text: str
    tokens: str = ""  # what the comparison of the two tokenizers says
    tokenizer_loads: bool = True


def check_unchanged(plan: Plan) -> None:
    """Holds the files that were read against those that are there now.

    Raises:
        ConversionError: One has been replaced or written to: what was read may be neither the old one nor the new.
    """
    sources = [plan.checkpoint.source, *([plan.donor.checkpoint.source] if plan.donor else [])]
    for source in sources:
        if isinstance(source, Folder) and (changed := source.changed()):
            raise ConversionError(
                f"{source.where()}: {listed(changed)} changed while it was read, by a training that still runs?; "
                "nothing was written; run it again when the folder is at rest"
            )


def verify_output(plan: Plan, folder: Path, digests: dict[str, str], loading: Loading) -> Proof:
    """Compares every tensor's bits, then loads the folder through each of its format's doors, in a fresh process.

    Args:
        plan: What was to be written.
        folder: Where it was written, in a folder of its own: what the loads leave goes beside it.
        digests: The sha256 of each tensor as it was read.
        loading: The process that loads it.

    Raises:
        ConversionError: Something differs, is missing, or is random.
    """
    log.debug("verifying %s: reads it back, and loads it in a fresh process ...", printable(plan.output.name))
    loading.begin()
    written = read_tensors(Folder(folder))
    differing = sorted(written.keys() ^ plan.tensors.keys()) or [
        key
        for key, tensor in plan.tensors.items()
        if (tensor.dtype, tensor.shape) != (written[key].dtype, written[key].shape)
        or digests[key] != written[key].sha256()
    ]
    if differing:
        raise ConversionError(
            f"{folder}: what was written differs from what was read: {listed(differing)}; is the disk sound?"
        )
    found = loading.found()
    tokens = found.pop("tokens", None)
    if found != SOUND:
        raise ConversionError(f"{plan.output}: two loads through AutoModel are not what they should be: {found}")
    text = f"all {len(plan.tensors)} tensors bit for bit; two loads through AutoModel identical"
    return Proof(text) if tokens is None else Proof(text, judge_tokens(plan, tokens), tokens["output"] is None)


def judge_tokens(plan: Plan, tokens: dict) -> str:
    """What the comparison of the output's tokenizer with the one that it was copied from says.

    Raises:
        ConversionError: They differ, or only the output's can't be loaded.
    """
    differing, other = tokens["differing"], "the input's" if not plan.tokenizer.lent else "the donor's"
    if differing or (tokens["output"] and not tokens["input"]):
        texts = listed([repr(text[:40]) for text in differing], 2)
        what = f"reads {texts} differently" if differing else f"can't be loaded: {tokens['output']}"
        raise ConversionError(
            f"{plan.output}: its tokenizer ({plan.tokenizer.class_name}) {what}, unlike {other}; convert with another "
            "version of transformers, or with --format bert, whose model type transformers knows"
        )
    if tokens["input"]:
        return f"not compared with {other}, which can't be loaded here: {tokens['input']}"
    return f"{tokens['texts']} texts in all scripts read as {other} reads them"


class Loading:
    """The process that loads the output as users do, begun before the output is written: its imports take seconds.

    Its module cache lies beside the folder, not in the user's. It ends with this process, whatever ends that.
    """

    def __init__(self, plan: Plan, folder: Path):
        self._output, self._answer = plan.output, folder.with_name("loads.json")
        copies = folder.with_name("tokenizer")
        if plan.tokenizer.source is not None:
            plan.tokenizer.copy_to(copies)
        which = [folder, self._answer, copies if copies.exists() else "", *plan.format.doors]
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._child = subprocess.Popen(
            [sys.executable, *map(str, (CHILD, *which))],
            env={**os.environ, **quiet, "HF_MODULES_CACHE": str(folder.with_name("modules"))},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Loading:
        return self

    def __exit__(self, *exception) -> None:
        with self._child as child, contextlib.suppress(BrokenPipeError):
            child.stdin.close()  # which ends it

    def begin(self) -> None:
        """Tells it that all is written."""
        with contextlib.suppress(BrokenPipeError):  # it has ended; its last words tell why
            self._child.stdin.write(b"\n")
            self._child.stdin.flush()

    def found(self) -> dict:
        """What `load_twice.py` finds."""
        said = self._child.stderr.read().decode(errors="replace").strip()
        code = self._child.wait()
        if code < 0:
            raise ConversionError(
                f"{self._output}: the process that loads it was ended by signal {-code}: too little memory?"
            )
        try:
            return json.loads(self._answer.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            silent = f"the process that loads it ended with exit code {code}, and no message"
            reason = (said or silent).splitlines()[-1]
            raise ConversionError(f"{self._output}: could not be loaded as it was written: {reason}") from error
