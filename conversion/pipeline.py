# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""One conversion from beginning to end, in two parts: `write` and `finish`.

While the verification process loads one output, the next checkpoint can be written: several conversions of one call
alternate between the two parts, and share a `Session`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from . import calibrate, checkpoint, hub, staging
from .donors import Donors
from .errors import ConversionError, first_line, printable
from .graft import choose_grafts
from .opening import open_checkpoint
from .options import Options
from .plan import Plan, make_plan
from .push import Upload, push
from .report import ConversionReport
from .verify import Loads, Verifier, check_unchanged, verify_output
from .write import write_output


class Session:
    """What the conversions of one call share: donors that have been read, and the verification process."""

    def __init__(self):
        self.donors = Donors()
        self.verifier = Verifier()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Session:
        self._stack.enter_context(hub.connected())
        self._stack.callback(self.verifier.close)
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    def staging_folder(self, output: Path) -> contextlib.ExitStack:
        """Closes a staging folder: when it is told to, at the latest when the session ends."""
        stack = contextlib.ExitStack()
        self._stack.callback(stack.close)
        return stack


@dataclasses.dataclass(frozen=True)
class Written:
    """An output that is complete in its staging folder; not verified, and not in place."""

    name: str  # of the checkpoint
    plan: Plan
    calibration: dict | None
    folder: Path
    checksums: dict[str, int]  # of each tensor as it was read
    loads: Loads | None  # None: without verification
    staging: contextlib.ExitStack


@contextlib.contextmanager
def _system_errors(name: str, output: Path) -> Iterator[None]:
    """Turns errors of the operating system into one line."""
    try:
        yield
    except OSError as error:
        where = f"{name} -> {output}" if error.filename is None else error.filename
        raise ConversionError(where, f"{error.strerror or first_line(error)}; nothing was written") from error
    except MemoryError as error:
        raise ConversionError(name, "needs more memory than there is; nothing was written") from error


def write(job: staging.Job, options: Options, session: Session, progress: bool = False) -> ConversionReport | Written:
    """Reads a checkpoint, finds its donor, plans and writes the output; or a report, where nothing is to be written.

    Raises:
        ConversionError: The checkpoint can't be converted.
    """
    name, revision, output = job
    with _system_errors(name, output):
        options.check_possible(name)
        with_head = options.head_from is not None
        root = open_checkpoint(name, revision, keep_modules=with_head)
        read = checkpoint.read_checkpoint(root, not options.target.has_mlm_head, with_head)
        if _is_done(read, options):
            return _already_pooled(name, read, options, output)
        if not options.dry_run:
            staging.remove_stale(output)
        staging.check_apart(output, root.path, "the checkpoint")
        staging.check_output(output, options.overwrite)  # before a donor is looked for, which can take long
        graft = choose_grafts(read, session.donors, options)
        plan, fit = make_plan(graft, output, options), None
        if options.calibrate is not None:
            readings = calibrate.tokenize_texts(graft, options)
            if options.dry_run:
                fit = {"texts": len(readings.texts), "sha256": readings.sha256}
            else:
                graft, fit = calibrate.refit(graft, readings, options, progress)
                plan = make_plan(graft, output, options)
        if options.dry_run:
            return ConversionReport.of("planned", name, plan, calibration=fit)
        return _write(name, plan, fit, options.verify, session, progress)


def _is_done(read: checkpoint.Checkpoint, options: Options) -> bool:
    """Whether the input is in the wanted format already, with nothing to be added."""
    wanted = read.format is options.target and not options.replace_pooler and options.calibrate is None
    wanted &= options.head_from is None
    if not (read.is_converted and wanted) or read.cannot_load:
        return False
    lacks = read.lacks_modules or read.tokenizer.source is None
    return options.output_dir is None or not lacks


def _already_pooled(name: str, read: checkpoint.Checkpoint, options: Options, output: Path) -> ConversionReport:
    """The report on a checkpoint that is left as it is."""
    if options.push_to_hub is not None:
        upload = Upload(options.push_to_hub, options.private, options.create_pr)
        raise ConversionError(
            name,
            "pooled already, so nothing was pushed",
            f"to publish it as it is: {upload.command(read.source.path)}",
        )
    return ConversionReport.already_pooled(name, read, output if options.output_dir is not None else None)


def _write(name: str, plan: Plan, fit: dict | None, verified: bool, session: Session, progress: bool) -> Written:
    if verified:
        session.verifier.start()
    bar = tqdm(
        total=plan.nbytes,
        unit="B",
        unit_scale=True,
        desc=printable(plan.output.name),
        delay=1,
        disable=None if progress else True,
    )
    stack = session.staging_folder(plan.output)
    try:
        staged = stack.enter_context(staging.staging_folder(plan.output))
        # transformers caches the code of a folder under its last name, which must therefore be a new one.
        folder = staged / f"output-{secrets.token_hex(4)}"
        folder.mkdir()
        with bar:
            checksums = write_output(plan, folder, bar.update, checked=verified)
        check_unchanged(plan)
        loads = session.verifier.load(plan, folder) if verified else None
        if loads:
            stack.callback(loads.abandon)  # before the folder is removed
    except BaseException:
        stack.close()
        raise
    return Written(name, plan, fit, folder, checksums, loads, stack)


def finish(written: Written, options: Options) -> ConversionReport:
    """Verifies an output, moves it into place, and uploads it if asked.

    Raises:
        ConversionError: The output is wrong, and has been removed; or only the upload failed.
    """
    plan = written.plan
    with _system_errors(written.name, plan.output), written.staging:
        proof = verify_output(plan, written.folder, written.checksums, written.loads) if written.loads else None
        staging.move_into_place(written.folder, plan.output, options.overwrite)
    pushed, notes = None, []
    if options.push_to_hub is not None:
        upload = Upload(options.push_to_hub, options.private, options.create_pr)
        pushed, notes = push(plan.output, upload, plan.commit_message)
    calibration = written.calibration
    return ConversionReport.of(
        "converted", written.name, plan, calibration=calibration, proof=proof, pushed=pushed, push_notes=notes
    )
