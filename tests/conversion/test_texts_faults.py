"""Texts, tokenizers and devices that calibration can't be made with: one line each, and as early as it can be seen."""

import importlib.util
import json
import os
import re

import pytest
import torch
import transformers
from bert_pooled_mlm import conversion
from bert_pooled_mlm.convert import main
from checkpoints import save_donor, save_lost
from grafting import refused, sentences

ROWS = [{"text": 'a "b", c', "text_pair": "d"}, {"text": "e\nf", "text_pair": ""}, {"text": "中文"}]
READ = [('a "b", c', "d"), "e\nf", "中文"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", 'label,text,text_pair\r\n1,"a ""b"", c",d\r\n0,"e\nf",\r\n1,中文\r\n', READ),
        ("a.json", json.dumps(ROWS, indent=2), READ),
        ("a.json", "\n".join(map(json.dumps, ROWS)), READ),
        ("a.json", json.dumps(["one", "two", "one", ""]), ["one", "two"]),
        ("a.jsonl", "\n".join(map(json.dumps, ["one", {"text": "two"}])), ["one", "two"]),
        ("a.json", "", []),
        ("a.csv", "\ufefftext\nx\n", ["x"]),
    ],
    ids=str,
)
def test_tables_and_lists_are_read_as_what_they_are(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    assert conversion.texts.read_texts(tmp_path / name, 10) == expected


FAULTS = {
    "no such file": ("texts.txt", None, r"texts.txt: no such file"),
    "no such table": ("texts.csv", None, r"texts.csv: no such file"),
    "no such path": ("../away/texts", None, r"../away/texts: no such file"),
    "another column": ("a.csv", b"body,label\nx,1\n", r"a.csv, line 2: expected a text in the field 'text'; its fields"
                       ": body, label"),
    "another separator": ("a.csv", b"label;text\n1;x\n", r"a.csv, line 2: .*its fields: label;text"),
    "another field": ("a.json", b'[{"body": "x"}]', r"a.json, entry 1: expected a text in the field 'text'; .*: body"),
    "an object": ("a.json", b'{"data": [{"text": "x"}]}', r"a.json, line 1: expected a text .*: data"),
    "numbers": ("a.json", b"[1, 2]", r"a.json, entry 1: expected a JSON object, found int"),
    "half a list": ("a.json", b'[{"text": "x"},', r"a.json: not valid JSON"),
    "a deep list": ("a.json", b"[" * 100_000, r"a.json: not valid JSON"),
    "a field that is no text": ("a.jsonl", b'{"text": 3}', r"a.jsonl, line 1: expected a text in the field 'text'"),
    "another encoding": ("a.txt", "schön".encode("utf-16"), r"a.txt: not UTF-8"),
    "a field without an end": ("a.tsv", b"text\n" + b"x" * 200_000, r"a.tsv: can't be read \(field larger than"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_texts_is_said_before_anything_else_is_read(fault, place, monkeypatch):
    """The checkpoint is not there, and the donor neither: nobody has looked."""
    name, content, match = FAULTS[fault]
    monkeypatch.chdir(place)
    if content is not None:
        (place / name).write_bytes(content)
    for path in ("checkpoint", "donor"):
        (place / path).rename(place / f"{path}-away")
    refused(place, f"^--calibrate {name}: .*{match}", calibrate=name)


def test_what_is_no_file_is_not_waited_for(place):
    os.mkfifo(place / "texts.txt")
    refused(place, r"texts.txt: not a file; write the texts into one", calibrate=place / "texts.txt")
    refused(place, r"/dev/zero: not a file", calibrate="/dev/zero")


@pytest.mark.parametrize("name", ["texts.txt", "texts.tsv", "texts.csv", "texts.jsonl"])
def test_a_line_without_an_end_is_one_line(name, place):
    """300 GB of zeros that take no disk."""
    with (place / name).open("wb"):
        os.truncate(place / name, 300 << 30)
    with pytest.raises(ValueError, match=rf"{name}, line 1: longer than 16777216 characters; one text a line"):
        conversion.texts.check_source(place / name)


def test_a_list_without_an_end_is_one_line(place, monkeypatch):
    monkeypatch.setattr(conversion.texts, "JSON_LIMIT", 1000)
    (place / "texts.json").write_text(json.dumps(["x" * 999]))
    with pytest.raises(ValueError, match=r"longer than 1000 characters; a \.jsonl, one object a line, may be"):
        conversion.texts.check_source(place / "texts.json")


def test_a_missing_file_is_said_before_torch_is_looked_for(place, monkeypatch, capsys):
    monkeypatch.setattr(conversion.calibrate, "device_of", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([str(place / "checkpoint"), "--calibrate", str(place / "no" / "texts")]) == 1
    assert re.fullmatch(r"error: --calibrate .*texts: .+\n", capsys.readouterr().err)


def test_a_column_behind_a_colon_belongs_to_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    path_of = conversion.texts.path_of
    assert [path_of(name) for name in ("data:body", "data", "user/data:body")] == ["data", "data", "user/data:body"]


# --- Texts that the two models can't read ----------------------------------------------------------------------------


@pytest.fixture
def calibrated(place, texts):
    """A calibration that is refused; gives the line."""

    def run(match: str, lines: list | None = None, **options) -> str:
        source = texts
        if lines is not None:
            source = place / "lines.jsonl"
            source.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
        return refused(place, match, calibrate=source, calibrate_length=32, **options)

    return run


def test_tokens_without_an_embedding_are_one_line(place, calibrated):
    """A vocabulary that grew beside a model that did not."""
    for name in ("checkpoint", "donor"):
        (place / name / "tokenizer.json").unlink()
        with (place / name / "vocab.txt").open("a") as file:
            file.write("beyond\n")
    lines = [{"text": f"{line} beyond"} for line in sentences(200)]
    calibrated(r"input_ids up to 128, and \w+ has embeddings for 128: they do not belong together", lines)


def test_pairs_for_a_model_with_one_kind_of_token_are_one_line(place, calibrated):
    save_donor(place / "one", type_vocab_size=1)
    save_lost(place / "one-lost", place / "one")
    lines = [{"text": line, "text_pair": "word1"} for line in sentences(200)]
    match = r"token_type_ids up to 1, and \S+ has embeddings for 1: they do not belong together"
    calibrated(match, lines, checkpoint="one-lost", pooler_from=place / "one")


def test_half_a_character_is_one_line(calibrated):
    calibrated(
        r"lines.jsonl: text \d+ can't be tokenized: .*ud800", [{"text": f"\ud800 {it}"} for it in sentences(200)]
    )


def test_texts_that_are_the_same_once_they_are_cut_count_once(place, calibrated):
    """Else one of them is fitted to, and the other judges the fit."""
    lines = [{"text": "word1 " * 64 + line} for line in sentences(300)]
    calibrated(r"1 different texts; at least 100 are needed", lines)


# --- Devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device",
    ["meta", "cuda:99", "nonsense", "cpu:x", " ", "mps", "xla", "xpu", "hpu", "vulkan", "mkldnn", "ipu", "npu"],
)
def test_a_device_that_nothing_can_be_computed_on_is_one_line(device, calibrated):
    if device in ("mps", "xpu") and getattr(torch, device).is_available():
        pytest.skip(f"this machine has {device}")
    calibrated(rf"^--device {device}: ", device=device)


def test_a_full_device_is_one_line(calibrated, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total of ...")

    monkeypatch.setattr(transformers.BertModel, "forward", full)
    calibrated(r"checkpoint: the pooler can't be calibrated: CUDA out of memory. Tried to allocate 20.00 MiB.$")
    monkeypatch.setattr(transformers.BertModel, "to", full)
    calibrated(r"checkpoint: the pooler can't be calibrated: CUDA out of memory. Tried to allocate 20.00 MiB.$")
