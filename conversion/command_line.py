# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: its arguments, one conversion after another, what is printed, and the exit code."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils.logging import set_verbosity_error

from . import staging, terminal
from .errors import ArgumentError, ConversionError, printable
from .formats import FORMATS
from .options import AUTO, Options
from .origins import named_folders
from .pipeline import Session, Written, finish, write
from .report import ConversionReport
from .sources import local_path
from .texts import split_column

AHEAD = 3  # outputs that are written while an earlier one is verified
Result = Written | ConversionReport | ConversionError  # what came of a checkpoint so far


def parser() -> argparse.ArgumentParser:
    """The command line; its options are named as the arguments of `convert()`."""
    parser = argparse.ArgumentParser(
        description="Grafts the original pooler into BERT checkpoints that lost it in MLM training, so that "
        "pooler_output is the same at every load.",
        epilog="What is pooled already is left as it is, unless it lacks sentence-transformers' modules and -o is "
        "given. Exit codes: 0 done, or pooled already; 1 not converted, for the reason on stderr; 2 usage; 130 Ctrl-C."
        " Names that begin with a dash go after --.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="CHECKPOINT", help="a folder or Hub id, saved from BertForMaskedLM")
    add("-o", "--output-dir", metavar="DIR", help="default: CHECKPOINT-pooled next to it; for several: DIR/<name>")
    add("--pooler-from", metavar="DONOR", help="a folder or Hub id; default: found and verified")
    add(
        "--head-from",
        metavar="DONOR",
        help="give back a lost MLM head, from a folder or Hub id; auto: found and verified",
    )
    add("--revision", metavar="REV", help="branch, tag or commit of CHECKPOINT on the Hub")
    add("--pooler-revision", metavar="REV", help="branch, tag or commit of DONOR on the Hub")
    formats = "; ".join(f"{format.name}: {format.summary}" for format in FORMATS.values())
    add("--format", choices=tuple(FORMATS), default=Options.format, help=f"{formats}; default: %(default)s")
    add("--push-to-hub", metavar="REPO_ID", help="upload the result; token from HF_TOKEN or `hf auth login`")
    add("--private", action="store_true", help="create that repo private; with a public one, the upload fails")
    add("--create-pr", action="store_true", help="open a pull request there instead; the repo may be another's")
    add(
        "--calibrate",
        metavar="TEXTS",
        help="refit the pooler to the encoder as it is now, on unlabelled texts: a file or a dataset",
    )
    for name, text in (
        ("calibrate_samples", "texts at most"),
        ("calibrate_length", "tokens of a text at most"),
        ("calibrate_batch_size", "texts encoded at once"),
    ):
        flag, default = f"--{name.replace('_', '-')}", getattr(Options, name)
        add(flag, type=int, default=default, metavar="N", help=f"{text}; default: %(default)s")
    add("--device", help="where they are encoded; default: a GPU where there is one")
    add("--replace-pooler", action="store_true", help="graft over a pooler that the checkpoint has")
    add("--force-donor", action="store_true", help="take what DONOR has although a check failed")
    add("--overwrite", action="store_true", help="replace an output that this program wrote")
    add("--dry-run", action="store_true", help="check and report everything, write nothing")
    add("--no-verify", dest="verify", action="store_false", help="skip verification")
    add("--json", action="store_true", help="print the report as one JSON object")
    add("-q", "--quiet", action="store_true", help="print errors only")
    return parser


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Options]:
    """The command line's arguments, and those among them that `convert` takes."""
    command, given = parser(), sys.argv[1:] if argv is None else argv
    for option in given[: given.index("--")] if "--" in given else given:
        if option.startswith("-") and os.path.lexists(option):  # `convert.py *` in a folder from somewhere
            command.error(f"{option}: is it an option, or the file of that name here? Write ./* instead of *")
    arguments, unknown = command.parse_known_args(given)
    if unknown:
        options = [it for action in command._actions for it in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0].replace("_", "-"), options, n=1)
        command.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
    if len(arguments.checkpoints) > 1 and arguments.push_to_hub:
        command.error("--push-to-hub takes one CHECKPOINT")
    values = vars(arguments)
    try:
        return arguments, Options(**{name: values[name] for name in Options.__dataclass_fields__})
    except ArgumentError as error:
        command.error(error.for_command_line())


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        arguments, options = parse(argv)
        with terminal.raising_signals():
            return Run(arguments, options).convert_all()
    except (KeyboardInterrupt, terminal.Terminated) as error:
        number, what = (
            (2, "interrupted") if isinstance(error, KeyboardInterrupt) else (error.number, f"ended by {error}")
        )
        print(f"error: {what}; incomplete output removed", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # `| head` has read enough; Python would fail once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class Run:
    """A run of the command line over its checkpoints."""

    def __init__(self, arguments: argparse.Namespace, options: Options):
        self._checkpoints, self._options = arguments.checkpoints, options
        self._as_json, self._quiet = arguments.json, arguments.quiet
        self._several = len(arguments.checkpoints) > 1
        self._results: list[dict] = []
        self._errors: dict[tuple[str, str], str] = {}  # (reason, remedy) -> the first checkpoint that it stopped

    def convert_all(self) -> int:
        """Converts one after another; returns the exit code."""
        set_verbosity_error()  # huggingface_hub logs each retry, which would hide the one clear line
        if self._quiet or not sys.stderr.isatty():
            disable_progress_bars()
        if not self._quiet and not self._as_json:
            terminal.log_to_stderr()
        jobs = staging.jobs_of(self._checkpoints, self._options, self._reads())
        with Session() as session:
            pending: list[tuple[str, Result]] = []
            for checkpoint, job in zip(self._checkpoints, jobs, strict=True):
                if isinstance(job, staging.Job) and any(_may_be_same(job.output, step) for _, step in pending):
                    self._finish(pending, 0)
                pending.append((checkpoint, self._write(job, session)))
                self._finish(pending, AHEAD)
            self._finish(pending, 0)
        return self._conclude()

    def _reads(self) -> list[tuple[str | None, Path, str]]:
        """What this run reads, besides what each conversion checks for itself: for whom, where, what it is."""
        options, names = self._options, self._checkpoints
        reads = [(name, local_path(name), "another checkpoint of this call") for name in names]
        if options.pooler_from:
            reads.append((None, local_path(options.pooler_from), "the donor"))
        if options.head_from and options.head_from != AUTO:
            reads.append((None, local_path(options.head_from), "the donor of the MLM head"))
        if options.calibrate:
            reads.append((None, local_path(split_column(options.calibrate)[0]), "the texts"))
        if self._several and not options.pooler_from:
            reads += [(name, folder, f"a donor of {name}") for name in names for folder in named_folders(name)]
        return reads

    def _write(self, job: staging.Job | ConversionError, session: Session) -> Result:
        if isinstance(job, ConversionError):
            return job
        written = [result["output"] for result in self._results if result["status"] == "converted"]
        if any(os.path.exists(job.output) and os.path.samefile(job.output, other) for other in written):
            what = "the output of an earlier checkpoint of this call, the same folder under another path"
            return ConversionError(job.output, what)
        try:
            return write(job, self._options, session, progress=not self._quiet)
        except ConversionError as error:
            return error

    def _finish(self, pending: list[tuple[str, Result]], left: int) -> None:
        """Finishes the first ones, in their order, until no more than `left` are pending."""
        while len(pending) > left:
            checkpoint, result = pending.pop(0)
            try:
                result = finish(result, self._options) if isinstance(result, Written) else result
            except ConversionError as error:
                result = error
            self._record(checkpoint, result)

    def _record(self, checkpoint: str, result: ConversionReport | ConversionError) -> None:
        """Prints and keeps what came of one checkpoint; a reason that several share is printed once."""
        if isinstance(result, ConversionError):
            first = self._errors.setdefault((result.reason, result.remedy), checkpoint)
            same = f"{checkpoint}: not converted for the same reason as {first}"
            print(printable(f"error: {result if first is checkpoint else same}"), file=sys.stderr)
            self._results.append({"status": "refused", "checkpoint": checkpoint, "error": str(result)})
            return
        self._results.append(result.to_dict())
        if not self._quiet and not self._as_json:
            terminal.write_line(f"{result}\n" if self._several else result)

    def _conclude(self) -> int:
        results, refused = self._results, sum(result["status"] == "refused" for result in self._results)
        if self._as_json:
            terminal.write_line(json.dumps({"results": results} if self._several else results[0], indent=2))
        elif self._several and not self._quiet:
            for result in results:
                terminal.write_line(
                    printable(f"{result['status']:<15} {result['checkpoint']}  {result.get('output') or ''}")
                )
            done = "planned" if self._options.dry_run else "done"
            terminal.write_line(f"{len(results) - refused} {done}, {refused} refused")
        return 1 if refused else 0


def _may_be_same(output: Path, step: Result) -> bool:
    """Whether two outputs could be one folder, on a file system that ignores case."""
    if not isinstance(step, Written):
        return False
    return os.path.realpath(output).casefold() == os.path.realpath(step.plan.output).casefold()
