"""The benchmark: that it runs and compares like with like, and that the documents quote its record."""

import json
import os
import re
import subprocess
import sys

import benchmark
import documents
import figures
import pytest
import report
import rows
import torch
from checkpoints import ROOT, is_whole
from measuring import IDLE
from subjects import TwoEncoderPasses, Work, encoder_passes, new, sharing
from transformers import BertForMaskedLM

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 301,
}  # fmt: skip
RESULTS = ROOT / "benchmarks" / "results"
RECORDED = json.loads((RESULTS / "cpu-2-cores.json").read_text(encoding="utf-8"))
FIGURES = ("cpu-2-cores.png", "cpu-2-cores-growth.png")


def test_what_is_compared_computes_the_same_on_the_same_memory():
    work = Work(SHAPE, torch.device("cpu"), rows=4, length=20)
    ours, inputs = new(work), work.batch(labels=True)
    stock, twice = (sharing(cls(work.stock_config()), ours) for cls in (BertForMaskedLM, TwoEncoderPasses))
    with torch.no_grad():
        found = [model(**inputs)["logits"] for model in (ours, stock, twice)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert len({model.get_input_embeddings().weight.data_ptr() for model in (ours, stock, twice)}) == 1
    passes = [encoder_passes(model, lambda model=model: model(**inputs)) for model in (ours, twice)]
    assert passes == [1, 2]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The whole program on the smallest models: its output, and the folder that it wrote."""
    folder = tmp_path_factory.mktemp("benchmark")
    argv = [sys.executable, ROOT / "benchmarks" / "benchmark.py", "--preset", "tiny", "--threads", "1", "-o", folder]
    done = subprocess.run(argv, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done, folder


def test_it_measures_every_row_of_the_record(ran):
    done, folder = ran
    result = json.loads((folder / "cpu-1-cores.json").read_text())
    assert set(result["parts"]) == set(result["seconds"]) == set(result["others"]) == set(benchmark.PARTS)
    other = {row["key"] for row in result["rows"]} ^ {row["key"] for row in RECORDED["rows"]}
    larger = {"several_4", "several_16"}
    assert other <= {"trainer_bfloat16"} | larger, "not of every CPU, and too large"
    assert all(row["measured"] is not None for row in result["rows"])
    assert json.loads(json.dumps(rows.rows(result))) == result["rows"]
    assert "not the figures that the documents quote" in done.stdout
    assert all((folder / name).is_file() for name in ("cpu-1-cores.png", "cpu-1-cores-growth.png"))


def test_a_part_that_is_measured_again_replaces_the_recorded_one_and_no_other(ran):
    _, folder = ran
    earlier = json.loads((folder / "cpu-1-cores.json").read_text())
    part = earlier["parts"]["start"]
    doubled = {key: [2 * it for it in values] for key, values in part["runs"]["installed"].items()}
    again = {"start": part | {"runs": part["runs"] | {"installed": doubled}}}
    result = earlier | {"parts": again, "seconds": {"start": 1.0}, "others": {"start": 0.0}}
    found = benchmark.merged(earlier, result)
    assert found["parts"] == earlier["parts"] | again
    assert [*found["parts"]] == [*benchmark.PARTS]
    changed = {one["key"] for one, other in zip(found["rows"], earlier["rows"], strict=True) if one != other}
    assert changed == {"installed", "installed_cpu", "installed_peak"}
    assert "Measured later" not in report.blocks(found)["setup"]
    elsewhere = benchmark.merged(found, result | {"device": result["device"] | {"name": "Another"}})
    assert "Measured later, on Another, 1 threads" in report.blocks(elsewhere)["setup"]
    assert benchmark.merged(elsewhere, result)["later"] == {}


@pytest.mark.parametrize(
    "argv", [["--only", "forward,speed"], ["--device", "cuda", "--only", "conversion"], ["--quick", "--merge"]]
)
def test_arguments_that_do_not_fit_are_rejected(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.parse(argv)
    assert re.search(rf"{argv[-2]}|{argv[-1]}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("again", "ours", "reached"),
    [
        ([0.97, 0.99, 1.01, 1.03], [1.01, 1.02, 1.01, 1.02], True),
        ([1.0, 1.0, 1.001, 1.0], [1.01, 1.02, 1.01, 1.02], False),
        ([1.0, 1.0, 1.001, 1.0], [0.9] * 4, True),
    ],
)
def test_a_ratio_of_one_is_reached_within_the_spread_of_stock_against_itself(again, ours, reached):
    times = {"stock": [1.0] * 4, "again": again, "ours": ours}
    assert rows.equal("key", "work", "against", times)["reached"] is reached


# The record, and what quotes it.


def test_the_record_is_of_a_full_run_on_an_idle_machine():
    assert RECORDED["preset"] == "full"
    assert set(RECORDED["parts"]) == set(benchmark.PARTS)
    assert sum(RECORDED["seconds"].values()) < 30 * 60
    assert max(RECORDED["others"].values()) < IDLE
    assert json.loads(json.dumps(rows.rows(RECORDED))) == RECORDED["rows"]


@pytest.mark.parametrize("name", [path.name for path in benchmark.DOCUMENTS])
def test_the_documents_quote_the_record(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert "<!-- benchmark.py: " in text
    assert documents.filled(text, "benchmark.py", report.blocks(RECORDED)) == text, "run benchmark.py --update-docs"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_quotes_the_record(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    items = re.findall(r"^- .*?(?=^- |^$|\Z)", text, re.DOTALL | re.MULTILINE)
    quoted = [it for item in items if "docs/performance.md" in item for it in re.findall(r"\d\.\d\d(?!\d)", item)]
    assert quoted
    assert {*quoted} <= {f"{row['measured']:.2f}" for row in RECORDED["rows"]}


@pytest.mark.parametrize("draw", ["draw_ratios", "draw_growth"])
def test_the_figures_of_the_full_run_are_there_and_nothing_of_them_is_cut_off(draw, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.drawing, "save", lambda figure, path: drawn.append(figure))
    getattr(figures, draw)(None, RECORDED)
    (figure,) = drawn
    assert is_whole(figure)
    figures.drawing.plt.close(figure)
    assert all((RESULTS / name).stat().st_size > 10_000 for name in FIGURES)


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
