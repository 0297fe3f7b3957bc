#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# datasets 5.2.0: which columns a stream has depends on whether a dataset was made of the same generator before.
#
# Seen, with a generator of the rows {"x": 1} and {"x": 2, "y": 3}: IterableDataset.from_generator gives both rows as they
# are. Dataset.from_generator has the columns of the first row, and drops y without a message. After that, in a later
# process too, IterableDataset.from_generator of the same generator drops y as well: it finds the other's features in the
# cache. With another cache folder it gives both rows again. (With the wider row first, Dataset.from_generator fails.)
# Why it surprises: the program that reads the stream is the same, and so are its rows. Rows that carry a second training
# target, as a teacher's vectors beside plain text, lose it because of what some other program did with them before.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile datasets==5.2.0 pyarrow==26.0.1 huggingface_hub==2.4.0 numpy==2.4.6

cat > read.py <<'PY'
import sys

import datasets


def rows():
    yield {"x": 1}
    yield {"x": 2, "y": 3}


print(list(getattr(datasets, sys.argv[1]).from_generator(rows)))
PY
run() { HF_HOME="$work/$1" venv/bin/python read.py "$2" 2> errors.txt || { tail -3 errors.txt; exit 1; }; }
both="[{'x': 1}, {'x': 2, 'y': 3}]"
dropped="[{'x': 1}, {'x': 2}]"
check() {
    found=$(run "$1" "$2")
    echo "cache $1, $2: $found"
    [ "$found" = "$3" ] || { echo "no longer as stated: expected $3"; exit 1; }
}
check one IterableDataset "$both"
check one Dataset "$dropped"
check one IterableDataset "$dropped"
check two IterableDataset "$both"
