# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Records of the studies: reading, writing, rounding, and the documents that quote them."""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import documents
import torch
import training
import transformers

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parents[1] / "docs" / "fidelity.md"


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {it.__name__: it.__version__ for it in (torch, transformers)}


def rounded(value, form: str = ".6g"):
    """A record with its floats rounded."""
    if isinstance(value, dict):
        return {key: rounded(item, form) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, form) for item in value]
    return float(format(value, form)) if isinstance(value, float) else value


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value) -> None:
    """Writes to a temporary file and renames it, so that an existing file is always complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.rename(path)


def run(program: str, description: str, stages: dict[str, Callable], tables: Callable, draw=None, form: str = ".6g"):
    """The command line of a study.

    A stage that returns a record publishes it: record, figure and, in studies/results, the tables of docs/fidelity.md.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", default="all", choices=(*stages, "all", "show"), help="default: all")
    parser.add_argument("--work-dir", type=Path, default=Path(f"{program}-run"), help="default: %(default)s")
    parser.add_argument("-o", "--output-dir", type=Path, help="default: studies/results; of --quick: the work folder")
    parser.add_argument("--quick", action="store_true", help="a few steps for every run, as a smoke test")
    args = parser.parse_args()
    training.quiet(threads=1 if args.quick else 2)
    output = args.output_dir or (args.work_dir if args.quick else RESULTS)
    file = output / f"{program}.json"
    for name, stage in stages.items():
        if args.stage in (name, "all") and (found := stage(args)):
            write_json(file, rounded({"versions": versions()} | found, form))
            if draw:
                draw(read_json(file), file.with_suffix(".png"))
    if args.stage in (name, "all", "show"):  # the last stage publishes
        made = tables(read_json(file))
        for title, table in made.items():
            print(f"\n{title}\n\n{table}")
        if output == RESULTS:
            documents.update(PAGE, f"{program}.py", made)
