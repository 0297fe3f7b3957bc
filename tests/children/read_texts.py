"""Reads texts from data sets that it makes, and from a name that is nothing, in the plain checkout that is named."""

import json
import os
import sys

import datasets

sys.path.insert(0, sys.argv[1])
from conversion.texts import read_texts

rows = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(50)], "comment": ["x"] * 25 + ["y"] * 25})
rows.save_to_disk("saved")
datasets.DatasetDict({"test": rows, "train": rows.select(range(20))}).save_to_disk("split")
os.mkdir("data")
rows.to_json("data/train.jsonl")
found = []
for source in ("saved", "saved", "split", "data", "./data:comment", "no-such.txt"):
    try:
        found.append(read_texts(source, 30))
    except ValueError as error:
        found.append(str(error))
print(json.dumps(found))
