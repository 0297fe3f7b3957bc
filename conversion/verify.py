# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 6, verify: reopen what was written, compare it with the bytes that were read, and load it as users do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from .bert import ENCODER, POOLER
from .errors import ConversionError, listed, printable
from .formats import DENSE
from .plan import Plan
from .sources import Folder
from .terminal import log
from .weights import read_tensors

EXPECTED = {"missing": [], "mismatched": [], "pooler_equal": True, "loads_equal": True}
PROGRAM = Path(__file__).with_name("verification_process.py")


@dataclasses.dataclass(frozen=True)
class Proof:
    """What was verified."""

    text: str
    tokens: str = ""  # the result of comparing the two tokenizers
    tokenizer_loads: bool = True


def check_unchanged(plan: Plan) -> None:
    """Raises ConversionError where a file that was read has been replaced or written to meanwhile."""
    donors = [donor.checkpoint.source for donor in plan.graft.donors]
    for source in (plan.checkpoint.source, plan.checkpoint.root, *donors):
        if isinstance(source, Folder) and (changed := source.changed()):
            raise ConversionError(
                source.where(),
                f"{listed(changed)} changed while it was read, perhaps by a training that is still running; nothing "
                "was written",
                "run it again when nothing writes to the folder",
            )


def verify_output(plan: Plan, folder: Path, checksums: dict[str, int], loads: Loads) -> Proof:
    """Compares every tensor's bits, and takes the result of the loads in the verification process.

    Args:
        plan: What was to be written.
        folder: Where it was written.
        checksums: Of each tensor, as it was read.
        loads: The request to the verification process, under way.

    Raises:
        ConversionError: Something differs, is missing, or is random.
    """
    log.debug("verifying %s ...", printable(plan.output.name))
    written, planned = read_tensors(Folder(folder)), plan.tensors
    differing = sorted(written.keys() ^ planned.keys()) or [
        key
        for key, tensor in planned.items()
        if (tensor.dtype, tensor.shape) != (written[key].dtype, written[key].shape)
        or checksums[key] != written[key].checksum()
    ]
    if differing:
        reason = f"what was written differs from what was read: {listed(differing)}"
        raise ConversionError(folder, reason, "is the disk damaged?")
    found = loads.result()
    tokens = found.pop("tokens", None)
    if found != EXPECTED:
        raise ConversionError(plan.output, f"two loads through AutoModel differ from what is expected: {found}")
    text = f"all {len(planned)} tensors bit for bit; two loads through AutoModel identical"
    return Proof(text) if tokens is None else Proof(text, _check_tokens(plan, tokens), tokens["output"] is None)


def _check_tokens(plan: Plan, tokens: dict) -> str:
    """The result of comparing the output's tokenizer with the one that it was copied from.

    Raises:
        ConversionError: They differ, or only the output's can't be loaded.
    """
    differing, whose = tokens["differing"], "the donor's" if plan.tokenizer.from_donor else "the input's"
    if differing or (tokens["output"] and not tokens["input"]):
        texts = listed([repr(text[:40]) for text in differing], 2)
        what = f"tokenizes {texts} differently" if differing else f"can't be loaded: {tokens['output']}"
        raise ConversionError(
            plan.output,
            f"its tokenizer ({plan.tokenizer.class_name}) {what}, unlike {whose}",
            "convert with another version of transformers, or with --format bert, whose model type transformers knows",
        )
    if tokens["input"]:
        return f"not compared with {whose}, which can't be loaded here: {tokens['input']}"
    return f"{tokens['texts']} texts in many scripts tokenized as {whose} does"


def _pooler_files(plan: Plan) -> dict[str, tuple[str, str]]:
    """For weight and bias of the pooler, the file and the name there with which a load is compared."""
    if plan.modules is None:  # the copy that sentence-transformers reads
        return {part: (DENSE, f"linear.{part}") for part in ("weight", "bias")}
    names = {key: key.removeprefix(ENCODER) if not plan.format.prefix else key for key in POOLER}
    return {
        key.rpartition(".")[2]: (file, name)
        for key, name in names.items()
        for file, tensors in plan.shards.items()
        if name in tensors
    }


class Verifier:
    """The verification process of one call, which loads one output after another; see `verification_process.py`.

    It is started before the first output is written, since its imports take seconds. Its module cache is not the
    user's. It ends with this process, however this one ends.
    """

    def __init__(self, classes: tuple[str, ...] = ("AutoModel", "AutoModelForMaskedLM")):
        self._classes = classes
        self._folder: tempfile.TemporaryDirectory | None = None
        self._processes: list[_Process] = []

    def start(self) -> None:
        """Starts the process, if none is running that takes further requests."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="bert-pooled-mlm-", ignore_cleanup_errors=True)
        if not self._processes or not self._processes[-1].takes_requests:
            self._processes.append(_Process(Path(self._folder.name), self._classes))

    def load(self, plan: Plan, folder: Path) -> Loads:
        """Requests the loads of a complete output folder; files of the request are written next to the folder."""
        copies = folder.with_name("tokenizer")
        if plan.tokenizer.source is not None:
            plan.tokenizer.copy_to(copies)
        request = {
            "folder": str(folder),
            "answer": str(folder.with_name("loads.json")),
            "errors": str(folder.with_name("errors.txt")),
            "tokenizer": str(copies) if copies.exists() else None,
            "classes": plan.format.auto_classes,
            "pooler": _pooler_files(plan),
        }
        loads = Loads(self, plan.output, request)
        self.send(loads)
        return loads

    def send(self, loads: Loads) -> None:
        """Sends a request; again, where an earlier process did not get to it."""
        self.start()
        self._processes[-1].send(loads)

    def close(self) -> None:
        for process in self._processes:
            process.close()
        if self._folder is not None:
            self._folder.cleanup()


class Loads:
    """One request to the verification process."""

    def __init__(self, verifier: Verifier, output: Path, request: dict):
        self._verifier, self._output, self.request = verifier, output, request
        self.process: _Process | None = None  # which it was sent to

    def result(self) -> dict:
        """What the loads found.

        Raises:
            ConversionError: The output could not be loaded.
        """
        code = self.process.code_of(self)
        if code is None:  # the process has ended, perhaps because of another request
            self._verifier.send(self)
            code = self.process.code_of(self)
        if code is None:
            code = self.process.exit_code
        if code < 0:
            raise ConversionError(
                self._output, f"the verification process was ended by signal {-code}", "is there too little memory?"
            )
        try:
            return json.loads(Path(self.request["answer"]).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = self.process.errors(Path(self.request["errors"])) or f"exit code {code}, and no message"
            raise ConversionError(self._output, f"could not be loaded as it was written: {reason}") from error

    def abandon(self) -> None:
        """Ends the loads if they are still under way, so that nothing is written into their folder any more."""
        if not self.process.has_answered(self):
            self.process.end()  # other requests are sent again, to another process


class _Process:
    """A running verification process."""

    def __init__(self, folder: Path, classes: tuple[str, ...]):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._child = subprocess.Popen(
            [sys.executable, str(PROGRAM), *classes],
            env={**os.environ, **quiet, "HF_MODULES_CACHE": str(folder / "modules")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # with its forks
        )
        self._codes: dict[str, int] = {}  # output folder -> exit code of its load
        self._is_used_up = False

    def send(self, loads: Loads) -> None:
        loads.process = self
        self._is_used_up = sys.platform != "linux"  # elsewhere, a process handles one request
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `code_of` notices
            self._child.stdin.write(json.dumps(loads.request).encode() + b"\n")
            self._child.stdin.flush()

    @property
    def takes_requests(self) -> bool:
        return not self._is_used_up and self._child.poll() is None

    def code_of(self, loads: Loads) -> int | None:
        """The exit code of a request's load; None if the process ended before."""
        while loads.request["folder"] not in self._codes:
            if not (line := self._child.stdout.readline()):
                return None
            self._codes |= json.loads(line)
        return self._codes[loads.request["folder"]]

    @property
    def exit_code(self) -> int:
        return self._child.wait()

    def errors(self, of_load: Path) -> str:
        """The last line that the load, else the process, printed to stderr."""
        self._errors.seek(0)
        printed = of_load.read_bytes() if of_load.exists() else self._errors.read()
        lines = printed.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def has_answered(self, loads: Loads) -> bool:
        return loads.request["folder"] in self._codes

    def end(self) -> None:
        if self._child.poll() is None:  # not by its stdin's end, which it would notice after its imports
            os.killpg(self._child.pid, signal.SIGKILL) if os.name == "posix" else self._child.kill()
        self._child.wait()

    def close(self) -> None:
        self.end()
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.stdout.close()
        self._errors.close()
