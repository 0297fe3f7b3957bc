"""Texts for `--calibrate`: files and datasets, what is wrong with them, and two tokenizers on the same texts."""

import json
import os
import sys

import pytest
import torch
import transformers
from bert_pooled_mlm import conversion
from bert_pooled_mlm.convert import main
from checkpoints import save_donor, save_lost, save_tokenizer
from grafting import refused, sentences
from transformers import BertTokenizerFast

ROWS = [{"text": 'a "b", c', "text_pair": "d"}, {"text": "e", "text_pair": None}, {"text": "中文"}]
READ = [('a "b", c', "d"), "e", "中文"]


def read(source, samples: int = 10) -> list:
    return conversion.texts.read_texts(source, samples)


def lines(*rows) -> str:
    return "\n".join(map(json.dumps, rows))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "\ufefferste Zeile\r\n\r\n  zweite \r\nerste Zeile\r\n中文\n", ["erste Zeile", "zweite", "中文"]),
        ("a", "NA\nnull\n", ["NA", "null"]),
        ("a.jsonl", lines(*ROWS).replace("\n", "\n\n"), READ),
        ("a.jsonl", lines("one", {"text": "two"}, "one", ""), ["one", "two"]),
        ("a.jsonl:body", lines({"body": "one", "text": "x"}), ["one"]),
        ("a:b.txt", "one", ["one"]),
        ("a.txt:c.jsonl:body", lines({"body": "one"}), ["one"]),
    ],
    ids=str,
)
def test_text_files_are_read_without_a_library(name, content, expected, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    with open(name.removesuffix(":body"), "w", encoding="utf-8", newline="") as file:
        file.write(content)
    assert read(name) == expected


TABLES = {
    "csv": ("a.csv", 'label,text,text_pair\r\n1,"a ""b"", c",d\r\n0,e,\r\n1,中文,\r\n', READ),
    "csv, another column": ("a.csv:body", "text,body\nx,NA\ny,null\nz,1.50\n", ["NA", "null", "1.50"]),
    "tsv": ("a.tsv", 'label\ttext\ttext_pair\n1\ta "b", c\td\n0\te\t\n0\t中文\t\n', READ),
    "json": ("a.json", json.dumps(ROWS), READ),
    "json, a line each": ("a.json", lines(*ROWS), READ),
}


@pytest.mark.versions
@pytest.mark.parametrize("case", TABLES)
def test_tables_are_read_through_datasets(case, tmp_path, monkeypatch):
    name, content, expected = TABLES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name.partition(":")[0]).write_bytes(content.encode())
    conversion.texts.check_source(name)
    assert read(name) == expected


@pytest.mark.versions
def test_datasets_and_their_columns_are_read(tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)
    rows = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(50)], "comment": ["x"] * 25 + ["y"] * 25})
    rows.save_to_disk("saved")
    datasets.DatasetDict({"test": rows, "train": rows.select(range(20))}).save_to_disk("split")
    (tmp_path / "data").mkdir()
    rows.to_json("data/train.jsonl")
    rows.to_parquet("rows.parquet")
    assert read("saved", 30) == read("saved", 30)
    assert len(set(read("saved", 30))) == len(set(read("data", 30))) == len(set(read("rows.parquet", 30))) == 30
    assert set(read("split", 30)) == {f"text {number}" for number in range(20)}
    assert set(read("./data:comment")) == set(read("rows.parquet:comment")) == {"x", "y"}


def test_of_many_texts_the_same_are_chosen_each_time_from_all_over_the_file(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("\n".join(f"text {number}" for number in range(1000)))
    chosen = read(file, 100)
    assert chosen == read(file, 100)
    assert len(set(chosen)) == 100
    numbers = sorted(int(text.split()[1]) for text in chosen)
    assert numbers[9] < 250
    assert numbers[90] > 750
    assert read(file, 1000) == [f"text {number}" for number in range(1000)]


def test_a_drive_is_no_file_with_a_column():
    assert conversion.texts.split_column(r"C:\texts.txt") == (r"C:\texts.txt", "")


# Name, content, and what the one line names.
FAULTS = {
    "no such file": ("texts.txt", None, "no such file"),
    "no such table": ("texts.csv", None, "no such file"),
    "no such path": ("../away/texts", None, "no such file"),
    "another column": ("a.csv", b"body,label\nx,1\n", "'text'; its fields: body, label"),
    "another separator": ("a.csv", b"label;text\n1;x\n", "'text'; its fields: label;text"),
    "numbers alone": ("a.csv", b"text\n1\n2\n", "row 1: expected a text in the field 'text', found int"),
    "another field": ("a.json", b'[{"body": "x"}]', "'text'; its fields: body"),
    "numbers in a list": ("a.json", b"[1, 2]", "row 1: expected a text in the field 'text', found int"),
    "half a list": ("a.json", b'[{"text": "x"},', r"can't be read \("),
    "half an object": ("a.jsonl", b'{"text": ', "line 1: not valid JSON"),
    "a list": ("a.jsonl", b"[1]", "line 1: expected a JSON object, found list"),
    "a field that is no text": ("a.jsonl", b'{"text": 3}', "line 1: expected a text in the field 'text', found int"),
    "another encoding": ("a.txt", "schön".encode("utf-16"), "not UTF-8"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_texts_is_found_before_anything_else_is_read(fault, place, monkeypatch):
    """The checkpoint is not there, and the donor neither: nobody has looked."""
    name, content, match = FAULTS[fault]
    monkeypatch.chdir(place)
    if content is not None:
        (place / name).write_bytes(content)
    for path in ("checkpoint", "donor"):
        (place / path).rename(place / f"{path}-away")
    refused(place, f"^--calibrate {name}: .*{match}", calibrate=name)


def test_without_datasets_the_error_names_it(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (place / "texts.csv").write_text("text\nx\n")
    refused(place, "texts.csv: .*pip install datasets", calibrate=place / "texts.csv")
    with pytest.raises(ValueError, match="pip install datasets"):
        read("user/no-such-dataset")


def test_what_is_no_file_is_not_waited_for(place):
    os.mkfifo(place / "texts.txt")
    refused(place, r"texts.txt: not a file", calibrate=place / "texts.txt")
    refused(place, r"/dev/zero: not a file", calibrate="/dev/zero")


@pytest.mark.parametrize("name", ["texts.txt", "texts.jsonl"])
def test_a_line_of_unbounded_length_is_an_error(name, place, monkeypatch):
    monkeypatch.setattr(conversion.texts, "LINE_LIMIT", 100)
    (place / name).write_text("x" * 200)
    refused(place, f"{name}: line 1 is longer than 100 characters", calibrate=place / name)


def test_a_missing_file_is_found_before_torch_is_looked_for(place, monkeypatch, capsys):
    monkeypatch.setattr(conversion.calibrate, "device_of", None)
    monkeypatch.setattr(conversion.options.importlib.util, "find_spec", lambda name: None)
    assert main([str(place / "checkpoint"), "--calibrate", str(place / "no" / "texts")]) == 1
    assert capsys.readouterr().err.startswith(f"error: --calibrate {place}/no/texts: ")


# --- Two tokenizers --------------------------------------------------------------------------------------------------


def with_vocabulary(folder, words: list[str]) -> BertTokenizerFast:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(folder / "vocab.txt"))


@pytest.fixture
def words(tokenizer) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


@pytest.fixture
def readings(tokenizer, monkeypatch):
    """Texts, tokenized by another tokenizer and by the donor's."""
    monkeypatch.setattr(conversion.texts, "FEWEST_TEXTS", 1)
    return lambda other, *texts: conversion.texts.tokenize_with_both([other, tokenizer], texts, 32)


def test_equal_tokenizers_need_no_note(readings, words, tmp_path):
    found = readings(with_vocabulary(tmp_path / "one", words), "word1", ("word1", "word2"))
    assert found.notes == []
    assert found.texts == ["word1", ("word1", "word2")]
    first, second = found.rows[1]
    assert first["token_type_ids"].tolist() == second["token_type_ids"].tolist() == [0, 0, 0, 1, 1]


def test_the_hash_depends_on_the_texts_alone(readings, tokenizer, words, tmp_path):
    other = with_vocabulary(tmp_path / "more", [*words, "graft"])
    one, same, more = readings(tokenizer, "word1"), readings(other, "word1"), readings(tokenizer, "word1", "word2")
    assert one.sha256 == same.sha256 != more.sha256


def test_one_vocabulary_with_two_ways_of_tokenizing_is_an_error(readings, tmp_path):
    save_tokenizer(tmp_path / "cased")
    cased = BertTokenizerFast.from_pretrained(tmp_path / "cased", do_lower_case=False)
    assert json.loads(cased.backend_tokenizer.normalizer.__getstate__())["lowercase"] is False
    assert readings(cased, "word1").notes == []
    with pytest.raises(ValueError, match="text 2 differently: from token 2 on"):
        readings(cased, "word1", "word2 WORD3")


# --- Texts and devices that the two models can't be calibrated with --------------------------------------------------


@pytest.fixture
def failing(place, texts):
    """A calibration that ends in an error of one line, which names what is expected."""

    def run(match: str, rows: list | None = None, **options) -> None:
        source = texts
        if rows is not None:
            source = place / "lines.jsonl"
            source.write_text(lines(*rows))
        refused(place, match, calibrate=source, calibrate_length=32, **options)

    return run


def test_a_token_without_an_embedding_is_an_error(place, failing):
    """A vocabulary that grew, of a model that did not."""
    for name in ("checkpoint", "donor"):
        (place / name / "tokenizer.json").unlink()
        with (place / name / "vocab.txt").open("a") as file:
            file.write("beyond\n")
    failing(r"input_ids up to 128, .*embeddings for 128", [f"{line} beyond" for line in sentences(200)])


def test_pairs_for_a_model_with_one_type_of_token_are_an_error(place, failing):
    save_donor(place / "one", type_vocab_size=1)
    save_lost(place / "one-lost", place / "one")
    rows = [{"text": line, "text_pair": "word1"} for line in sentences(200)]
    match = r"token_type_ids up to 1, .*embeddings for 1"
    failing(match, rows, checkpoint="one-lost", pooler_from=place / "one")


def test_half_a_character_is_an_error(failing):
    failing(r"lines.jsonl: text \d+ .*ud800", [f"\ud800 {line}" for line in sentences(200)])


def test_texts_that_are_the_same_once_they_are_truncated_count_once(failing):
    """Else one of them is fitted to, and the other is in the held-out fold."""
    failing(r"1 different texts; at least 100", ["word1 " * 64 + line for line in sentences(300)])


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense", "cpu:x", " "])
def test_a_device_on_which_nothing_can_be_computed_is_an_error(device, failing):
    failing(rf"^--device {device}: ", device=device)


@pytest.mark.parametrize("where", ["forward", "to"])
def test_a_device_without_memory_is_an_error(where, failing, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total of ...")

    monkeypatch.setattr(transformers.BertModel, where, full)
    failing(r"checkpoint: .*CUDA out of memory. Tried to allocate 20.00 MiB.$")
