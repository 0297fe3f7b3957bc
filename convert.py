# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Grafts the original pooler into a BERT checkpoint that lost it in masked-language-model (MLM) training.

    python convert.py CHECKPOINT [CHECKPOINT ...]

The steps are modules of `conversion/`: read the checkpoint (config and headers, no weights), find the donor and check
its lineage, plan everything that will be written, refit the pooler if asked, write into a staging folder next to the
destination, verify, and move the folder into place.

Nothing of the input is executed: pickles load with `weights_only=True`, its `auto_map` is dropped, no `.py` is copied.
Only pickles, `--calibrate` and the verification import torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __package__:
    from .conversion.command_line import main
    from .conversion.errors import ConversionError
    from .conversion.options import Options
    from .conversion.pipeline import Session, Written, finish, write
    from .conversion.report import ConversionReport
    from .conversion.staging import job_of
else:  # `python convert.py`, from a checkout; under PYTHONSAFEPATH its folder is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from conversion.command_line import main
    from conversion.errors import ConversionError
    from conversion.options import Options
    from conversion.pipeline import Session, Written, finish, write
    from conversion.report import ConversionReport
    from conversion.staging import job_of

__all__ = ["ConversionError", "ConversionReport", "convert", "main"]


def convert(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike | None = None,
    *,
    pooler_from: str | os.PathLike | None = None,
    head_from: str | os.PathLike | None = None,
    revision: str | None = None,
    pooler_revision: str | None = None,
    format: str = "pooled",
    push_to_hub: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    calibrate: str | os.PathLike | None = None,
    calibrate_samples: int = Options.calibrate_samples,
    calibrate_length: int = Options.calibrate_length,
    calibrate_batch_size: int = Options.calibrate_batch_size,
    device: str | None = None,
    replace_pooler: bool = False,
    force_donor: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    verify: bool = True,
    progress: bool = False,
) -> ConversionReport:
    """Grafts the original pooler into an MLM checkpoint that lost it.

        report = convert("old_ckpt")  # finds the donor, checks it, writes and verifies old_ckpt-pooled
        print(report)  # what was grafted from where, and the lines that load the result

    Args:
        checkpoint: A folder or Hub id, saved from `BertForMaskedLM`.
        output_dir: Where the result is written; default: `<checkpoint>-pooled` next to it (for a Hub id: here).
        pooler_from: The donor, a folder or Hub id; default: found and verified.
        head_from: Give a checkpoint that lost its MLM head (a classifier, a sentence-transformers model) the head of
            this donor; "auto": of one that is found and verified.
        revision: The checkpoint's branch, tag or commit on the Hub.
        pooler_revision: The donor's.
        format: "pooled": this package's classes, their code included. "bert": stock BERT, which needs no remote code.
            "encoder": as `BertModel` saves it, for vectors only; a checkpoint without an MLM head can become this.
        push_to_hub: The repo to upload the result to.
        private: Create that repo private; with a public one, the upload fails.
        create_pr: Open a pull request there, in a repo that may be another's, instead of committing to it.
        calibrate: Unlabelled texts, to refit the pooler to the encoder as it is now: a file with one text a line, or a
            `.jsonl` with `text` (and `text_pair`); with the library `datasets`, other files and datasets too.
        calibrate_samples: Texts at most.
        calibrate_length: Tokens of a text at most.
        calibrate_batch_size: Texts that are encoded at once.
        device: Where they are encoded, such as "cuda:1"; default: a GPU where there is one.
        replace_pooler: Graft over a pooler that the checkpoint has.
        force_donor: Take what `pooler_from` or `head_from` has although a check failed.
        overwrite: Replace `output_dir`, if this program wrote all of it, once the result is complete.
        dry_run: Check and report everything, write nothing.
        verify: Reopen and load the result before it is moved into place. Needs torch and transformers.
        progress: Show a bar on stderr.

    Returns:
        What was done. A checkpoint that is pooled already is left as it is: `status` is "already pooled"; unless it
        lacks sentence-transformers' modules and `output_dir` is given: then it is written there, with them.

    Raises:
        ConversionError: The checkpoint can't be converted; neither input nor destination has been changed. If only the
            upload failed, the output is there, and the message says how to try again.
        ValueError: An argument has a value that it can't have, or needs another one.
    """
    names = set(Options.__dataclass_fields__)
    options = Options(**{name: value for name, value in locals().items() if name in names})
    job = job_of(os.fspath(checkpoint), options)
    with Session() as session:
        step = write(job, options, session, progress)
        return finish(step, options) if isinstance(step, Written) else step


if __name__ == "__main__":
    sys.exit(main())
