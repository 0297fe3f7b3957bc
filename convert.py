# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Grafts the original pooler into a BERT checkpoint that lost it in masked-language-model (MLM) training.

    python convert.py CHECKPOINT [CHECKPOINT ...]

`convert` is the itinerary: read the checkpoint (config and headers, no weights), find the donor and check its lineage,
plan all that will be written, refit the pooler if asked, write into a temporary sibling of the destination, verify,
and only then give the folder its name. Each step is a room of `conversion/`.

Nothing of the input is executed: pickles load with `weights_only=True`, its `auto_map` is dropped, no `.py` is copied.
Only pickles, `--calibrate` and the verification import torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:
    from .conversion import terminal
else:  # `python convert.py`, from a checkout; under PYTHONSAFEPATH its folder is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from conversion import terminal

# isort: split
import argparse
import contextlib
import difflib
import importlib.util
import json
import os
import signal
from collections.abc import Iterator

from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils.logging import set_verbosity_error
from tqdm import tqdm

if __package__:
    from .conversion import calibrate as fitting
    from .conversion import checkpoint as reading
    from .conversion import hub, staging, texts, verify, wire, write
    from .conversion import plan as planning
    from .conversion.donors import Donors
    from .conversion.errors import ConversionError, first_line, printable
    from .conversion.formats import FORMATS
    from .conversion.opening import open_checkpoint
    from .conversion.origins import named_folders
    from .conversion.push import Upload, push
    from .conversion.report import ConversionReport
    from .conversion.sources import local_path
else:
    from conversion import calibrate as fitting
    from conversion import checkpoint as reading
    from conversion import hub, staging, texts, verify, wire, write
    from conversion import plan as planning
    from conversion.donors import Donors
    from conversion.errors import ConversionError, first_line, printable
    from conversion.formats import FORMATS
    from conversion.opening import open_checkpoint
    from conversion.origins import named_folders
    from conversion.push import Upload, push
    from conversion.report import ConversionReport
    from conversion.sources import local_path

__all__ = ["ConversionError", "ConversionReport", "convert", "main"]


def convert(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike | None = None,
    *,
    pooler_from: str | os.PathLike | None = None,
    revision: str | None = None,
    pooler_revision: str | None = None,
    format: str = "pooled",
    push_to_hub: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    calibrate: str | os.PathLike | None = None,
    calibrate_samples: int = fitting.Options.samples,
    calibrate_length: int = fitting.Options.length,
    calibrate_batch_size: int = fitting.Options.batch_size,
    device: str | None = None,
    replace_pooler: bool = False,
    force_donor: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    verify: bool = True,
    progress: bool = False,
    donors: Donors | None = None,
) -> ConversionReport:
    """Grafts the original pooler into an MLM checkpoint that lost it.

        report = convert("old_ckpt")  # finds the donor, checks it, writes and verifies old_ckpt-pooled
        print(report)  # what was grafted from where, and the lines that load the result

    Args:
        checkpoint: A folder or Hub id, saved from `BertForMaskedLM`.
        output_dir: Where the result goes; default: `<checkpoint>-pooled` beside it (of a Hub id: in this folder).
        pooler_from: The donor, a folder or Hub id; default: found and verified.
        revision: The checkpoint's branch, tag or commit on the Hub.
        pooler_revision: The donor's.
        format: "pooled": this package's classes, their code included. "bert": stock BERT, which needs no remote code.
            "encoder": as `BertModel` saves it, for vectors only; a checkpoint without an MLM head can become this.
        push_to_hub: The repo to upload the result to.
        private: Create that repo private; a public one is refused.
        create_pr: Open a pull request there, in a repo that may be another's, instead of committing to it.
        calibrate: Unlabelled texts, to refit the pooler to the encoder that it now sits on: a file with one text a
            line, a `.tsv`, `.csv`, `.jsonl` or `.json` with `text` (and `text_pair`), or a data set's id or folder.
        calibrate_samples: Texts at most.
        calibrate_length: Tokens of a text at most.
        calibrate_batch_size: Texts that are encoded at once.
        device: Where they are encoded, such as "cuda:1"; default: a GPU where there is one.
        replace_pooler: Graft over a pooler that the checkpoint has.
        force_donor: Take the pooler of `pooler_from` although a check failed.
        overwrite: Replace `output_dir`, if this program wrote all of it, once the result is complete.
        dry_run: Check and report everything, write nothing.
        verify: Reopen and load what was written before it gets its name. Needs torch and transformers.
        progress: Show a bar on stderr.
        donors: What an earlier call has read of donors, to be used again.

    Returns:
        What was done. A checkpoint that is pooled already is left alone: `status` is "already pooled"; unless it lacks
        sentence-transformers' modules, and `output_dir` is given: then it is written there, with them.

    Raises:
        ConversionError: A refusal, with one clear line; neither input nor destination has been touched. If only the
            upload failed, the output is there, and the line says how to try again.
        ValueError: An unknown `format`, or one argument without another that it needs.
    """
    check_arguments(format, pooler_from, force_donor, push_to_hub, private or create_pr)
    if donors is None:
        wire.new_call()
    name, revision = hub.from_page(os.fspath(checkpoint), revision)
    if pooler_from is not None:
        pooler_from, pooler_revision = hub.from_page(os.fspath(pooler_from), pooler_revision)
    target, options, upload = FORMATS[format], None, None
    output = local_path(staging.default_output(name) if output_dir is None else output_dir)
    if calibrate is not None:
        sizes = calibrate_samples, calibrate_length, calibrate_batch_size
        options = fitting.Options(os.fspath(calibrate), *sizes, device)
    if push_to_hub is not None:
        upload = Upload(push_to_hub, private, create_pr)
    with one_line(name, output):
        check_call(name, upload, options, verifies=verify and not dry_run)
        read = reading.read_checkpoint(open_checkpoint(name, revision), vectors_only=not target.has_mlm_head)
        is_done = read.is_converted and read.format is target and not replace_pooler and options is None
        if is_done and (output_dir is None or not reading.lacks_modules(read.source)):
            return already_pooled(name, read, output_dir and output, upload)
        if not dry_run:
            staging.clear_stale(output)
        plan = planning.make_plan(
            read, output, donors or Donors(), format=target, title=push_to_hub or output.name,
            pooler_from=pooler_from, pooler_revision=pooler_revision, force_donor=force_donor,
            replace_pooler=replace_pooler, overwrite=overwrite, texts=options and options.texts,
        )  # fmt: skip
        plan, fit = fitting.refit(plan, options, dry_run, progress) if options else (plan, None)
        if dry_run:
            return ConversionReport.of("planned", name, plan, calibration=fit)
        proof = carry_out(plan, overwrite, verify, progress)
    pushed, notes = push(output, upload, plan.commit_message) if upload else (None, [])
    return ConversionReport.of("converted", name, plan, calibration=fit, proof=proof, pushed=pushed, push_notes=notes)


def check_arguments(
    format: str, pooler_from: str | os.PathLike | None, force_donor: bool, push_to_hub: str | None, of_push: bool
) -> None:
    """Refuses what no checkpoint could make sense of.

    Args:
        of_push: Whether something is said of the upload.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: expected {' or '.join(map(repr, FORMATS))}")
    if force_donor and pooler_from is None:
        raise ValueError("force_donor needs pooler_from: a guess is not forced")
    if push_to_hub is None and of_push:
        raise ValueError("private and create_pr need push_to_hub")


@contextlib.contextmanager
def one_line(name: str, output: Path) -> Iterator[None]:
    """Turns what the system refuses, up to the moment when the output gets its name, into one line."""
    try:
        yield
    except OSError as error:
        where = f"{name} -> {output}" if error.filename is None else error.filename
        raise ConversionError(f"{where}: {error.strerror or first_line(error)}; nothing was written") from error
    except MemoryError as error:
        raise ConversionError(f"{name}: needs more memory than there is; nothing was written") from error


def check_call(name: str, upload: Upload | None, options: fitting.Options | None, verifies: bool) -> None:
    """Refuses what could only fail later."""
    if options is not None:
        with fitting.said_of(options.texts):
            texts.check_source(options.texts)
    if upload is not None and not hub.is_repo_id(upload.repo_id):
        raise ConversionError(f"{upload.repo_id}: not a repository id of the Hub; expected user/name or name")
    absent = " and ".join(it for it in ("torch", "transformers") if importlib.util.find_spec(it) is None)
    if absent and options is not None:
        raise ConversionError(f"{name}: --calibrate needs {absent}; install what is missing")
    if absent and verifies:
        raise ConversionError(
            f"{name}: the result can't be verified without {absent}; install what is missing, or pass --no-verify"
        )


def already_pooled(
    name: str, read: reading.Checkpoint, output: Path | None, upload: Upload | None
) -> ConversionReport:
    """The report of a checkpoint that is left alone."""
    if upload is not None:
        raise ConversionError(
            f"{name}: pooled already, nothing was pushed; to publish it as it is: {upload.command(read.source.path)}"
        )
    return ConversionReport.already_pooled(name, read, output)


def carry_out(plan: planning.Plan, overwrite: bool, verified: bool, progress: bool) -> verify.Proof | None:
    """Writes, verifies and names the output; returns what the verification says."""
    bar = tqdm(
        total=plan.nbytes,
        unit="B",
        unit_scale=True,
        desc=printable(plan.output.name),
        delay=1,
        disable=None if progress else True,
    )
    with staging.workspace(plan.output) as work:
        folder = work / "output"
        folder.mkdir()
        with verify.Loading(plan, folder) if verified else contextlib.nullcontext() as loading:
            with bar:
                digests = write.write_output(plan, folder, bar.update, hashed=verified)
            verify.check_unchanged(plan)
            proof = verify.verify_output(plan, folder, digests, loading) if verified else None
        staging.put_in_place(folder, plan.output, overwrite)
    return proof


# --- The command line ------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Grafts the original pooler into BERT checkpoints that lost it in MLM training, so that "
        "pooler_output is the same at every load.",
        epilog="What is pooled already is left alone, unless it lacks sentence-transformers' modules and -o is given. "
        "Exit codes: 0 done, or pooled already; 1 refused, for the reason on stderr; 2 usage; 130 Ctrl-C. "
        "Names that begin with a dash go behind --.",
        allow_abbrev=False,
    )
    add, defaults = parser.add_argument, fitting.Options
    add("checkpoints", nargs="+", metavar="CHECKPOINT", help="a folder or Hub id, saved from BertForMaskedLM")
    add(
        "-o", "--output-dir", metavar="DIR", help="default: CHECKPOINT-pooled beside it; of several inputs: DIR/<name>"
    )
    add("--pooler-from", metavar="DONOR", help="a folder or Hub id; default: found and verified")
    add("--revision", metavar="REV", help="branch, tag or commit of CHECKPOINT on the Hub")
    add("--pooler-revision", metavar="REV", help="branch, tag or commit of DONOR on the Hub")
    formats = "; ".join(f"{format.name}: {format.summary}" for format in FORMATS.values())
    add("--format", choices=tuple(FORMATS), default="pooled", help=f"{formats}; default: %(default)s")
    add("--push-to-hub", metavar="REPO_ID", help="upload the result; token from HF_TOKEN or `hf auth login`")
    add("--private", action="store_true", help="create that repo private; a public one is refused")
    add("--create-pr", action="store_true", help="open a pull request there instead; the repo may be another's")
    add(
        "--calibrate",
        metavar="TEXTS",
        help="refit the pooler to the encoder as it is now, on unlabelled texts: a file or a data set",
    )
    for name, default, text in (
        ("samples", defaults.samples, "texts at most"),
        ("length", defaults.length, "tokens of a text at most"),
        ("batch-size", defaults.batch_size, "texts encoded at once"),
    ):
        add(f"--calibrate-{name}", type=count, default=default, metavar="N", help=f"{text}; default: %(default)s")
    add("--device", help="where they are encoded; default: a GPU where there is one")
    add("--replace-pooler", action="store_true", help="graft over a pooler that the checkpoint has")
    add("--force-donor", action="store_true", help="take DONOR's pooler although a check failed")
    add("--overwrite", action="store_true", help="replace an output that this program wrote")
    add("--dry-run", action="store_true", help="check and report everything, write nothing")
    add("--no-verify", dest="verify", action="store_false", help="do not load the result before it gets its name")
    add("--json", action="store_true", help="print the report as one JSON object")
    add("-q", "--quiet", action="store_true", help="print errors only")
    return parser


def count(text: str) -> int:
    """A positive whole number of the command line."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, found {text!r}")
    return int(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line's arguments, named as those of `convert`."""
    command, given = parser(), sys.argv[1:] if argv is None else argv
    for option in given[: given.index("--")] if "--" in given else given:
        if option.startswith("-") and os.path.lexists(option):  # `convert.py *` in a folder from somewhere
            command.error(f"{option}: an option, or the file of that name that lies here? Write ./* instead of *")
    arguments, unknown = command.parse_known_args(given)
    if unknown:
        options = [it for action in command._actions for it in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0].replace("_", "-"), options, n=1)
        command.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
    if len(arguments.checkpoints) > 1 and arguments.push_to_hub:
        command.error("--push-to-hub takes one CHECKPOINT")
    if arguments.force_donor and not arguments.pooler_from:
        command.error("--force-donor needs --pooler-from DONOR: a guess is not forced")
    if arguments.pooler_revision and not arguments.pooler_from:
        command.error("--pooler-revision needs --pooler-from DONOR")
    for name in ("private", "create_pr"):
        if getattr(arguments, name) and not arguments.push_to_hub:
            command.error(f"--{name.replace('_', '-')} needs --push-to-hub REPO_ID")
    for name in ("calibrate_samples", "calibrate_length", "calibrate_batch_size", "device"):
        if getattr(arguments, name) != command.get_default(name) and arguments.calibrate is None:
            command.error(f"--{name.replace('_', '-')} needs --calibrate TEXTS")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    terminal.open_streams()
    with terminal.interruptible():
        try:
            return run(parse(argv))
        except (KeyboardInterrupt, terminal.Ended) as error:
            what = "interrupted" if isinstance(error, KeyboardInterrupt) else f"ended by {error}"
            terminal.warn(f"error: {what}; what has not got its name yet is gone")
            return 128 + signal.Signals[str(error) or "SIGINT"]


def run(arguments: argparse.Namespace) -> int:
    """Converts one after another; returns the exit code."""
    options = vars(arguments)
    checkpoints, as_json, quiet = (options.pop(name) for name in ("checkpoints", "json", "quiet"))
    several, output_dir = len(checkpoints) > 1, options.pop("output_dir")
    set_verbosity_error()  # huggingface_hub logs each retry, and would bury the one clear line
    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
    wire.new_call()
    if not quiet and not as_json:
        terminal.tell_waits()
    reads = [(name, local_path(name), "another checkpoint of this call") for name in checkpoints]
    reads += [(None, local_path(name), "the donor") for name in (options["pooler_from"],) if name]
    reads += [(None, local_path(texts.path_of(name)), "the texts") for name in (options["calibrate"],) if name]
    if several and not options["pooler_from"]:
        reads += [(name, folder, f"a donor of {name}") for name in checkpoints for folder in named_folders(name)]
    donors, results, written = Donors(), [], []
    told: dict[str, str] = {}  # an error, without the name of its checkpoint -> the first that it stopped
    for checkpoint, output in zip(checkpoints, staging.destinations(checkpoints, output_dir, reads), strict=True):
        try:
            if isinstance(output, ConversionError):
                raise output
            if any(os.path.exists(output) and os.path.samefile(output, other) for other in written):
                raise ConversionError(f"{output}: the output of an earlier checkpoint of this call, spelt otherwise")
            with terminal.ending_signals():
                chosen = None if output_dir is None else output
                report = convert(checkpoint, chosen, **options, progress=not quiet, donors=donors)
        except ConversionError as error:
            cause = str(error).removeprefix(checkpoint).removeprefix(str(local_path(checkpoint)))
            first = told.setdefault(cause, checkpoint)
            same = f"{checkpoint}: refused for the same reason as {first}"
            terminal.warn(printable(f"error: {error if first is checkpoint else same}"))
            results.append({"status": "refused", "checkpoint": checkpoint, "error": str(error)})
            continue
        written += [output] if report.status == "converted" else []
        results.append(report.to_dict())
        if not quiet and not as_json:
            terminal.say(f"{report}\n" if several else report)
    refused = sum(result["status"] == "refused" for result in results)
    if as_json:
        terminal.say(json.dumps({"results": results} if several else results[0], indent=2))
    elif several and not quiet:
        for result in results:
            terminal.say(printable(f"{result['status']:<15} {result['checkpoint']}  {result.get('output') or ''}"))
        terminal.say(f"{len(results) - refused} {'planned' if options['dry_run'] else 'done'}, {refused} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
