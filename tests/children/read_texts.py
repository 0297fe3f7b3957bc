"""Reads texts from some sources: `with` or `without` the library datasets, or from data sets that it has `made`."""

import json
import os
import sys

from bert_pooled_mlm.calibration import read_texts

how, samples, *sources = sys.argv[1:]
if how == "without":
    sys.modules["datasets"] = None
if how == "made":
    import datasets

    rows = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(50)], "comment": ["x"] * 25 + ["y"] * 25})
    rows.save_to_disk("saved")
    datasets.DatasetDict({"test": rows, "train": rows.select(range(20))}).save_to_disk("split")
    os.mkdir("data")
    rows.to_json("data/train.jsonl")
found = []
for source in sources:
    try:
        found.append(read_texts(source, int(samples)))
    except ValueError as error:
        found.append(str(error))
print(json.dumps(found))
