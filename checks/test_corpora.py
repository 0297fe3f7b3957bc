"""docs/corpora.md against the record of benchmarks/corpus_cost.py."""

import json
import re

from checkpoints import ROOT


def test_the_costs_of_a_corpus_are_those_of_the_record():
    record = json.loads((ROOT / "benchmarks/results/corpus.json").read_text("utf-8"))
    measured = {
        **{name: record[name] for name in ("memory_private", "memory_streaming_private", "memory_resident")},
        **{name: record[name][0] for name in ("preparation", "step")},
    }
    section = (ROOT / "docs/corpora.md").read_text("utf-8").partition("## Cost")[2]
    shown = re.findall(r"^\| .* \| ([\d.]+) \| ", section, re.MULTILINE)
    figures = [f"{measured[name]:.2f}" for name in ("memory_private", "memory_streaming_private", "memory_resident")]
    figures += [f"{measured['preparation']:.2f}", str(record["second_start_seconds"]), f"{measured['step']:.2f}"]
    assert shown == figures
    peaks = [record["runs"][f"{size}, prepared"]["private"] / 1e9 for size in ("large", "small")]
    assert "{:.2f} GB in all processes (5 MB: {:.2f} GB)".format(*peaks) in section
