"""classify.py: what a pooler is worth on labelled texts of one's own."""

import json

import pytest
import torch
from checkpoints import make_donor
from example_programs import error_of, in_process, load_example, start


@pytest.fixture
def module(monkeypatch):
    return load_example("classify", monkeypatch)


ROWS = [(f"word{n % 5} word{10 + n % 3 + 3 * (n % 2)}", ("even", "odd")[n % 2]) for n in range(40)]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "rows.csv"
    lines = ["label,text", *(f'{label},"{text}"' for text, label in ROWS)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.mark.versions
def test_classify_compares_the_four_vectors(pooled, table, tmp_path):
    options = ("--length", 16, "--seeds", 3, "--cpu", "--json", "figures.json")
    done = start("classify", tmp_path, table, "--model", pooled, *options)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    names = ["own pooler", "raw [CLS]", "mean of the tokens", "random pooler"]
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert (figures["train"], figures["test"], figures["labels"]) == (30, 10, ["even", "odd"])
    assert list(figures["runs"]) == names
    for runs in figures["runs"].values():
        assert len(runs) == 3
        assert all(0 <= score <= 1 for run in runs for score in run)
    assert "Most frequent label: accuracy 0.500, macro-F1 0.333." in done.stdout
    for line, (name, runs) in zip(done.stdout.splitlines()[-4:], figures["runs"].items(), strict=True):
        shown = line.removeprefix(name).split()  # of each score: mean, standard deviation, least, greatest
        for scores, (mean, _, *ends) in zip(zip(*runs, strict=True), (shown[:4], shown[4:]), strict=True):
            assert [mean, *ends] == [f"{it:.3f}" for it in (sum(scores) / 3, min(scores), max(scores))]


@pytest.mark.versions
def test_classify_learns_what_can_be_learnt_by_fine_tuning(donor, table, tmp_path, module, capsys):
    """From a stock BERT, on a test file of its own."""
    options = ("--finetune", "--seeds", 2, "--epochs", 12, "--lr", 3e-3, "--batch-size", 8, "--length", 8, "--cpu")
    file = tmp_path / "figures.json"
    assert in_process(module, table, "--model", donor, "--test", table, *options, "--json", file) == 0
    runs = json.loads(file.read_text("utf-8"))["runs"]
    assert list(runs) == ["own pooler", "raw [CLS]", "random pooler"]
    assert max(accuracy for accuracy, _ in runs["raw [CLS]"]) > 0.9
    assert "whole model trained" in capsys.readouterr().out


def test_classify_reads_every_kind_of_file_without_changing_its_values(table, tmp_path, module):
    (tmp_path / "rows.tsv").write_text("\n".join(["label\ttext", *(f"{label}\t{text}" for text, label in ROWS)]))
    rows = (json.dumps({"label": label, "text": text}) for text, label in ROWS)
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "rows[1].csv").write_bytes(
        b'\xef\xbb\xbftext,label,more\r\nNA,01,\r\n1.50,true,null\r\nnull,1,2\r\n"one, two\nthree",x,\r\n'
    )
    files = {path.name: path for path in (table, *tmp_path.iterdir())}
    found = {name: module.read_examples(path, module.parse(["d", "--model", "m"])) for name, path in files.items()}
    spelt = [("NA", "01"), ("1.50", "true"), ("null", "1"), ("one, two\nthree", "x")]
    assert found == {"rows.csv": ROWS, "rows.tsv": ROWS, "rows.jsonl": ROWS, "rows[1].csv": spelt}


def test_scores_are_accuracy_and_macro_f1_of_the_classes_that_occur(module):
    labels, predicted = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1])
    assert module.scores(predicted, labels, 3) == pytest.approx((0.75, (2 / 3 + 4 / 5) / 2))


def test_a_split_keeps_the_shares_of_the_labels_and_differs_by_seed(module):
    labels = [0] * 40 + [1] * 8 + [2] * 2
    train, test = module.split(labels, 0.25, 0)
    assert sorted(train + test) == list(range(50))
    assert [sum(labels[i] == label for i in test) for label in range(3)] == [10, 2, 1]
    assert module.split(labels, 0.25, 0) == (train, test)
    assert module.split(labels, 0.25, 1) != (train, test)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("nothing.csv --model donor", "nothing.csv is not a file"),
        ("latin1.txt --model donor", "latin1.txt is not UTF-8"),
        ("empty.txt --model donor", "empty.txt: expected .csv, .tsv or .jsonl, found .txt"),
        ("header.csv --model donor", "header.csv has no rows"),
        ("ragged.csv --model donor", "ragged.csv, row 2: more fields than the header has columns"),
        ("one.csv --model donor", "one.csv: the only label is 'x'"),
        ("rare.csv --model donor", "rare.csv: fewer than four examples of 'y'"),
        ("bad.jsonl --model donor", "bad.jsonl, line 2: no JSON"),
        ("one.csv --model donor --label-column y", "no column 'y'; choose one of text, label with --label-column"),
        ("gap.jsonl --model donor", "gap.jsonl, row 2: column 'label' is empty; the row has: text"),
        ("TABLE --model donor --test other.csv", "other.csv: labels that do not occur in TABLE: unheard"),
        ("TABLE --model donor --seeds 1", "expected an integer of at least 2, found '1'"),
        ("TABLE --model lost", "lost has no usable pooler"),
    ],
)
def test_classify_fails_in_one_line(args, message, broken, table, module, monkeypatch, capsys):
    monkeypatch.chdir(broken)
    error = error_of(module, capsys, *args.replace("TABLE", str(table)).split())
    assert message.replace("TABLE", str(table)) in error


def test_a_new_pooler_is_as_transformers_makes_it_and_another_for_each_seed(module):
    pooler = make_donor(hidden_size=128).bert.pooler
    weights = []
    for seed in range(2):
        module.randomize_pooler(pooler, 0.02, seed)
        weights.append(pooler.dense.weight.clone())
        assert not pooler.dense.bias.any()
        assert abs(pooler.dense.weight.std() - 0.02) < 0.001
    assert not torch.equal(*weights)
