"""Reading texts, and two tokenizers side by side."""

import json
import sys

import pytest
from bert_pooled_mlm import conversion
from checkpoints import ROOT, save_tokenizer
from programs import answer
from transformers import BertTokenizerFast


def test_a_text_file_has_a_text_a_line(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_bytes("\ufefferste Zeile\r\n\r\n  zweite \r\nerste Zeile\r\n中文\n".encode())
    assert conversion.texts.read_texts(file, 10) == ["erste Zeile", "zweite", "中文"]


def test_a_tsv_and_a_jsonl_have_fields(tmp_path):
    tsv, jsonl = tmp_path / "a.tsv", tmp_path / "a.jsonl"
    tsv.write_text('label\ttext\ttext_pair\n1\ta "b\tc\n0\td\t\n', encoding="utf-8")
    rows = [{"text": 'a "b', "text_pair": "c"}, {"text": "d", "text_pair": None}]
    jsonl.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert conversion.texts.read_texts(tsv, 10) == conversion.texts.read_texts(jsonl, 10) == [('a "b', "c"), "d"]


def test_of_many_texts_the_same_are_chosen_each_time_from_all_over_the_file(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("\n".join(f"text {number}" for number in range(1000)))
    chosen = conversion.texts.read_texts(file, 100)
    assert chosen == conversion.texts.read_texts(file, 100)
    assert len(set(chosen)) == 100
    numbers = sorted(int(text.split()[1]) for text in chosen)
    assert numbers[9] < 250
    assert numbers[90] > 750
    assert conversion.texts.read_texts(file, 1000) == [f"text {number}" for number in range(1000)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"gut\nsch\xf6n\n", "a.txt: not UTF-8"),
        (
            "a.tsv",
            b"body\tlabel\nx\t1\n",
            "a.tsv, line 2: expected a text in the field 'text'; its fields: body, label",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', "a.jsonl, line 2: expected a text in the field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: expected a JSON object, found list"),
    ],
)
def test_what_can_not_be_read_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        conversion.texts.read_texts(tmp_path / name, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.versions
def test_a_data_set_is_read_from_a_folder_with_a_column(tmp_path):
    saved, again, split, data, comments, nothing = answer("read_texts", tmp_path, ROOT)
    assert saved == again
    assert len(set(saved)) == len(set(data)) == 30
    assert set(split) == {f"text {number}" for number in range(20)}
    assert set(comments) == {"x", "y"}
    assert nothing.startswith("no-such.txt: no such file, nor a data set that can be read (")
    assert "\n" not in nothing


def test_a_name_that_is_nothing_is_refused_in_one_line_where_datasets_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    text = "^no-such.txt: no such file; for a data set, run `pip install datasets` first$"
    with pytest.raises(ValueError, match=text):
        conversion.texts.read_texts("no-such.txt", 10)


def test_fewer_samples_are_taken_from_all_over_the_file(far, fit, out):
    assert fit(far, out, calibrate_samples=100).calibration["texts"] == 100


# --- Two tokenizers --------------------------------------------------------------------------------------------------


def with_vocabulary(folder, words: list[str], **options) -> BertTokenizerFast:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(folder / "vocab.txt"), **options)


def words_of(tokenizer) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


@pytest.fixture
def notes(tokenizer, monkeypatch):
    """What is said of another tokenizer beside the donor's, on these texts."""
    monkeypatch.setattr(conversion.texts, "FEWEST_TEXTS", 1)
    return lambda other, *texts: conversion.texts.read_with_both([other, tokenizer], texts, 32).notes


def test_equal_tokenizers_say_nothing(tokenizer, notes, tmp_path):
    assert notes(with_vocabulary(tmp_path / "one", words_of(tokenizer)), "word1") == []


def test_an_extended_vocabulary_is_said(tokenizer, notes, tmp_path):
    (note,) = notes(with_vocabulary(tmp_path / "more", [*words_of(tokenizer), "graft"]), "word1 graft")
    assert "1 tokens more and 0 fewer" in note


def test_the_same_vocabulary_read_differently_is_refused(notes, tmp_path):
    folder = tmp_path / "cased"
    save_tokenizer(folder)
    cased = BertTokenizerFast.from_pretrained(folder, do_lower_case=False)
    state = json.loads(cased.backend_tokenizer.normalizer.__getstate__())
    assert state["lowercase"] is False
    assert notes(cased, "word1") == []
    with pytest.raises(ValueError, match="read text 2 differently: from token 2 on"):
        notes(cased, "word1", "word2 WORD3")


def test_other_numbers_for_the_same_tokens_are_refused(tokenizer, notes, tmp_path):
    words = words_of(tokenizer)
    swapped = with_vocabulary(tmp_path / "swapped", [*words[:5], words[6], words[5], *words[7:]])
    with pytest.raises(ValueError, match="number 2 of the same tokens differently"):
        notes(swapped, "word9")
