#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# datasets 5.2.0: what becomes of a column that only some rows have depends on which row is the first, and on the method.
#
# Seen, with rows {"x": 1} and {"x": 2, "y": 3}:
#                                    {"x"} first                {"x", "y"} first
#   Dataset.from_list                y is dropped               y is None where it is missing
#   Dataset.from_generator           y is dropped               DatasetGenerationError, caused by KeyError: 'y'
#   IterableDataset.from_generator   each row keeps its own     each row keeps its own
# Nothing is printed where a column is dropped.
# Why it surprises: rows that carry a second training target (a teacher's vector beside rows of plain text) lose it in
# silence, and the training goes on without it; the same rows in another order, or as a stream, keep it or fail.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile datasets==5.2.0 pyarrow==26.0.1 huggingface_hub==2.4.0 numpy==2.4.6

venv/bin/python - 2> errors.txt <<'PY' || { tail -3 errors.txt; exit 1; }
import datasets
from datasets import Dataset, IterableDataset


def read(rows):
    yield from rows


def seen(make, rows):
    try:
        return list(make(rows))
    except datasets.exceptions.DatasetGenerationError as error:
        return repr(error.__cause__)


methods = {
    "Dataset.from_list": Dataset.from_list,
    "Dataset.from_generator": lambda rows: Dataset.from_generator(read, gen_kwargs={"rows": rows}),
    "IterableDataset.from_generator": lambda rows: IterableDataset.from_generator(read, gen_kwargs={"rows": rows}),
}
narrow, wide = {"x": 1}, {"x": 2, "y": 3}
found = {name: [seen(make, [narrow, wide]), seen(make, [wide, narrow])] for name, make in methods.items()}
dropped = [{"x": 1}, {"x": 2}]
stated = {
    "Dataset.from_list": [dropped, [wide, {"x": 1, "y": None}]],
    "Dataset.from_generator": [dropped, "KeyError('y')"],
    "IterableDataset.from_generator": [[narrow, wide], [wide, narrow]],
}
for name, results in found.items():
    print(f"datasets {datasets.__version__}, {name}: {results[0]} | {results[1]}")
assert found == stated, "no longer as stated"
PY
