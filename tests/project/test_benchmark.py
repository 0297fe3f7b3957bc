"""What the benchmark rests on and needs no clock for: passes, products and sizes; that it runs; that docs quote it."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from checkpoints import ROOT, is_whole
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertForMaskedLM, BertModel

PATH = sys.path.copy()
sys.path.append(str(ROOT / "benchmarks"))
try:
    import benchmark
    import documents
    import figures
    import memory_cost
    import report
    from measuring import IDLE
    from model_cost import training_step
    from subjects import BertPooledMLMModel, TwoEncoderPasses, Work, arithmetic, encoder_passes, new, sharing
finally:
    sys.path[:] = PATH

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 301,
}  # fmt: skip
WORK = Work(SHAPE, torch.device("cpu"), rows=4, length=20)
LABELLED = 12  # 15 % of 80 tokens
RECORDED = json.loads(path.read_text()) if (path := ROOT / "benchmarks/results/cpu-2-cores.json").is_file() else None


@pytest.fixture
def models() -> dict[str, torch.nn.Module]:
    ours = new(WORK, sparse_prediction=True)
    return {
        "ours": ours,
        "stock": sharing(BertForMaskedLM(WORK.stock_config()), ours),
        "twice": sharing(TwoEncoderPasses(WORK.stock_config()), ours),
        "vectors": sharing(BertPooledMLMModel(WORK.config(return_logits=False)), ours),
        "bert": sharing(BertModel(WORK.stock_config()), ours, "bert."),
    }


class Sizes(TorchDispatchMode):
    """Notes the rows of each tensor that is as wide as the vocabulary, those of the softmax, and each cast."""

    def __init__(self):
        super().__init__()
        self.rows, self.softmax, self.casts = [], [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dim() > 1 and result.shape[-1] == SHAPE["vocab_size"]:
            self.rows.append(result.shape[:-1].numel())
            if "softmax" in function._schema.name:
                self.softmax.append(self.rows[-1])
            if function._schema.name == "aten::_to_copy":
                self.casts.append(result.shape)
        return result


@pytest.mark.versions
def test_the_encoder_runs_once_where_the_class_that_circulates_runs_it_twice(models):
    inputs = WORK.batch(labels=True)
    assert encoder_passes(models["ours"], lambda: models["ours"](**inputs)) == 1
    assert encoder_passes(models["ours"].train(), training_step(models["ours"], inputs, WORK)) == 1
    assert encoder_passes(models["vectors"], lambda: models["vectors"](**WORK.batch())) == 1
    assert encoder_passes(models["twice"], lambda: models["twice"](**inputs)) == 2


@pytest.mark.versions
def test_all_subjects_compute_the_same_on_the_same_memory(models):
    inputs = WORK.batch(labels=True)
    with torch.no_grad():
        ours, stock, twice = (models[name](**inputs) for name in ("ours", "stock", "twice"))
    assert torch.equal(ours.logits, stock.logits)
    assert torch.equal(ours.logits, twice["logits"])
    assert torch.equal(ours.last_hidden_state, twice["last_hidden_state"])
    assert not hasattr(twice, "pooler_output")
    weights = {name: model.get_input_embeddings().weight.data_ptr() for name, model in models.items()}
    assert len(set(weights.values())) == 1, weights


@pytest.mark.versions
@pytest.mark.parametrize("labels", [False, True])
def test_a_forward_takes_stocks_matrix_products_and_one_more(labels, models):
    inputs = WORK.batch(labels)
    with torch.no_grad():
        ours, stock = (arithmetic(lambda name=name: models[name](**inputs)) for name in ("ours", "stock"))
    assert stock["products"] > 12
    assert ours["products"] == stock["products"] + 1
    assert ours["flops"] == stock["flops"] + 2 * WORK.rows * SHAPE["hidden_size"] ** 2


@pytest.mark.versions
def test_vectors_take_stocks_matrix_products(models):
    inputs = WORK.batch()
    with torch.no_grad():
        ours, stock = (arithmetic(lambda name=name: models[name](**inputs)) for name in ("vectors", "bert"))
    assert ours == stock
    assert stock["products"] > 10


@pytest.mark.versions
def test_a_training_step_takes_stocks_matrix_products_and_one_more(models):
    """The frozen pooler has no backward pass."""
    inputs = WORK.batch(labels=True)
    ours, stock = (arithmetic(training_step(models[name].train(), inputs, WORK)) for name in ("ours", "stock"))
    assert ours["products"] == stock["products"] + 1
    assert ours["flops"] < stock["flops"]


@pytest.mark.versions
def test_the_sparse_head_sees_the_labelled_rows_only(models):
    """Whatever is as wide as the vocabulary, forward and backward, has a row for each label and no other."""
    inputs = WORK.batch(labels=True)
    assert (inputs["labels"] != -100).sum() == LABELLED
    found = {}
    for name in ("ours", "stock"):
        with Sizes() as found[name]:
            training_step(models[name].train(), inputs, WORK)()
    weight_and_bias = {SHAPE["hidden_size"], 1}
    assert set(found["ours"].rows) - weight_and_bias == {LABELLED}
    assert WORK.rows * WORK.length in found["stock"].rows, "premise: stock makes logits for all tokens"


@pytest.mark.versions
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("training", [False, True])
def test_the_loss_reads_the_labelled_rows_only(training, sparse, models):
    """Also where the logits are those of all positions: stock makes two more arrays of their size, ours none."""
    models["ours"].config.sparse_prediction = sparse
    found = {}
    for name in ("ours", "stock"):
        with Sizes() as found[name]:
            models[name].train(training)(**WORK.batch(labels=True)).loss.backward()
    assert found["ours"].softmax == 2 * [LABELLED], "forward and backward"
    assert found["stock"].softmax == 2 * [WORK.rows * WORK.length], "premise: all of stock's"


# Its new name is not in the older versions.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("way", "subject"),
    [
        ("checkpointing", "stock"),
        ("checkpointing", "ours"),
        ("plain", "dense"),
        ("plain", "encoder"),
        ("evaluation", "stock"),
        ("evaluation", "loss"),
    ],
)
def test_each_peak_is_measured(way, subject, monkeypatch):
    """That it runs: in this process, which was larger before, its figure says nothing."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    described = {"shape": SHAPE, "rows": 2, "length": 8, "share": 0.15, "way": way}
    found = memory_cost.main(subject, described | {"device": "cpu", "dtype": "torch.float32", "threads": 1})
    assert isinstance(found, int)


@pytest.mark.versions
@pytest.mark.parametrize("training", [False, True])
def test_float32_logits_are_not_cast(training, models):
    model = models["ours"].train(training)
    with Sizes() as found:
        model(**WORK.batch(labels=True)).loss.backward()
    assert found.rows
    assert found.casts == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole program on the smallest models: its output, and the folder that it wrote."""
    folder = tmp_path_factory.mktemp("benchmark")
    argv = [sys.executable, ROOT / "benchmarks" / "benchmark.py", "--preset", "tiny", "--threads", "1", "-o", folder]
    done = subprocess.run(argv, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done, folder


def test_it_runs_and_measures_every_row(run):
    done, folder = run
    result = json.loads((folder / "cpu-1-cores.json").read_text())
    assert set(result["parts"]) == set(result["seconds"]) == set(result["others"]) == set(benchmark.PARTS)
    keys = [
        "forward", "products", "twice", "loss", "vectors", "without_logits", "training", "limit", "dense",
        "memory_checkpointing", "loading", "trainer_sparse", "trainer_grouped", "trainer_both",
        "convert", "convert_cpu", "convert_peak", "no_verify", "no_verify_cpu", "no_verify_peak",
        "copy", "flat", "hub",
    ]  # fmt: skip
    measured = [row for row in result["rows"] if row["key"] != "trainer_bfloat16"]  # not of every CPU
    assert [row["key"] for row in measured] == keys
    assert all(row["measured"] is not None for row in result["rows"])
    untold = {"loss", "dense", "trainer_sparse", "trainer_grouped"}
    untold |= {"convert_cpu", "convert_peak", "no_verify_cpu"}
    assert {row["key"] for row in result["rows"] if row["reached"] is None} == untold, "no target was set"
    assert json.loads(json.dumps(report.rows(result))) == result["rows"]
    assert {"length", "share", "conversion"} == set(report.curves(result))
    assert "not the figures that the documents quote" in done.stdout


def test_it_draws_figures_and_shows_them_again_as_markdown(run):
    _, folder = run
    for name in ("cpu-1-cores.png", "cpu-1-cores-growth.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert (folder / name).stat().st_size > 10_000
    result = json.loads((folder / "cpu-1-cores.json").read_text())
    found = report.blocks(result)
    marked = "".join(f"<!-- benchmark.py: {name} -->\nold\n<!-- end -->\ntext\n" for name in found)
    filled = documents.filled(marked, "benchmark.py", found)
    assert "old" not in filled
    assert filled.count("text\n") == len(found)
    assert all(text in filled for text in found.values())
    assert documents.filled(filled, "benchmark.py", found) == filled


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch, capsys):
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else spec(name))
    assert benchmark.main(["--quick"]) == 1
    assert capsys.readouterr().err == (
        'benchmark.py: missing packages: onnxruntime; run `pip install -e ".[bench]"`\n'
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--only", "forward,speed"], "--only speed: expected some of forward,"),
        (["--device", "cuda", "--only", "conversion"], "--only conversion: expected"),
        (["--quick", "--update-docs"], "--update-docs takes a full run on the CPU"),
    ],
)
def test_what_it_does_not_understand_it_refuses(argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.parse(argv)
    assert message in capsys.readouterr().err


def test_a_ratio_of_one_is_reached_within_the_spread_of_stock_against_itself():
    stock = [1.0, 1.0, 1.0, 1.0]
    noisy = {"stock": stock, "again": [0.97, 0.99, 1.01, 1.03], "ours": [1.01, 1.02, 1.01, 1.02]}
    assert report.of_times(noisy, "ours", "stock")["reached"]
    quiet = noisy | {"again": [1.0, 1.0, 1.001, 1.0]}
    assert not report.of_times(quiet, "ours", "stock")["reached"]
    faster = quiet | {"ours": [0.9, 0.9, 0.9, 0.9]}
    assert report.of_times(faster, "ours", "stock")["reached"]


def test_the_record_is_of_a_full_run_on_an_idle_machine():
    assert RECORDED, "run `python benchmarks/benchmark.py --update-docs` on two idle cores"
    assert RECORDED["preset"] == "full"
    assert set(RECORDED["parts"]) == set(benchmark.PARTS)
    assert sum(RECORDED["seconds"].values()) < 25 * 60
    assert max(RECORDED["others"].values()) < IDLE
    assert json.loads(json.dumps(report.rows(RECORDED))) == RECORDED["rows"]


@pytest.mark.parametrize("name", [path.name for path in benchmark.DOCUMENTS])
def test_the_documents_quote_the_record(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert "<!-- benchmark.py: " in text
    assert RECORDED, "run `python benchmarks/benchmark.py --update-docs` on two idle cores"
    assert documents.filled(text, "benchmark.py", report.blocks(RECORDED)) == text


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_quotes_the_record(name):
    """Its line on performance: a training step, vectors, a conversion as it comes and without verification."""
    text = (ROOT / name).read_text(encoding="utf-8")
    (line,) = re.findall(r"^- \[[^]]+\]\(docs/performance\.md\).*?(?=^- |\Z)", text, re.DOTALL | re.MULTILINE)
    measured = {row["key"]: row["measured"] for row in RECORDED["rows"]}
    assert re.findall(r"\d\.\d+", line) == [
        f"{measured[key]:.2f}" for key in ("training", "vectors", "convert", "no_verify")
    ]


@pytest.mark.parametrize("draw", ["draw_ratios", "draw_growth"])
def test_nothing_of_the_full_runs_figures_is_cut_off(draw, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    getattr(figures, draw)(None, RECORDED)
    (figure,) = drawn
    assert is_whole(figure)
    figures.plt.close(figure)


def test_the_full_runs_figures_are_there():
    for name in ("cpu-2-cores.png", "cpu-2-cores-growth.png"):
        assert (ROOT / "benchmarks" / "results" / name).stat().st_size > 10_000
