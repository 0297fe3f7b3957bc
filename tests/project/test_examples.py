# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration, run as a user runs it: from another folder, on real MiniLM weights, offline, with few steps.

Only on the pinned versions, which its install command selects.
"""

import importlib
import json
import re
import subprocess
from pathlib import Path
from pydoc_data import topics

import pytest
import torch
from checkpoints import POOLER, ROOT, is_whole, state, todays
from programs import run_python

PROGRAM = ROOT / "examples" / "rescue_minilm.py"
TINY = ("--nsp-steps", "3", "--mlm-steps", "3", "--batch-size", "4", "--length", "16", "--text", "text.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working folder outside the checkout, with a text of 40 paragraphs."""
    folder = tmp_path_factory.mktemp("elsewhere")
    paragraphs = [p for topic in topics.topics.values() for p in topic.split("\n\n") if len(p.split()) >= 8]
    (folder / "text.txt").write_text("\n\n".join(list(dict.fromkeys(paragraphs))[:40]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def demonstration(folder) -> subprocess.CompletedProcess:
    done = run_python(PROGRAM, folder, *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def result(demonstration, folder) -> dict:
    return json.loads((folder / "rescue-minilm" / "rescue.json").read_text(encoding="utf-8"))


@pytest.fixture
def program(monkeypatch):
    """The program as a module, so that its errors are tested in this process."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    return importlib.import_module("rescue_minilm")


def test_loads_differ_before_and_are_equal_after_and_only_by_the_pooler(result):
    assert result["loads"] == result["before"]["distinct"] == 5
    assert max(map(abs, result["before"]["cosines"])) < 0.5  # unrelated vectors, not rounding
    assert not result["before"]["pooler_equal"]
    assert result["after"]["distinct"] == 1
    assert result["after"]["pooler_equal"]
    assert len(set(result["after"]["accuracy"])) == 1
    assert result["before"]["distinct_states"] == result["after"]["distinct_states"] == 1


def test_the_folders_hold_the_donors_pooler_and_encoders_that_were_trained(demonstration, result, folder):
    names = ("donor", "mlm", "mlm-pooled", "mlm-anchored")
    donor, mlm, pooled, anchored = (todays(folder / "rescue-minilm" / name) for name in names)
    assert not any("pooler" in name for name in mlm)
    assert pooled.keys() == mlm.keys() | {*POOLER}
    for name, tensor in pooled.items():
        assert torch.equal(tensor, (donor if name in POOLER else mlm)[name]), name
    assert all(torch.equal(anchored[name], donor[name]) for name in POOLER)
    assert donor["bert.pooler.dense.bias"].any()  # trained: MiniLM's own bias is zero
    layer = "bert.encoder.layer.5.output.dense.weight"
    assert not any(torch.equal(*pair) for pair in ((donor[layer], mlm[layer]), (anchored[layer], donor[layer])))
    for way in ("plain", "anchored"):
        assert 0 < result[way]["cosine"] < 1
        assert 0 < result[way]["mlm_loss"] < 11  # ln 30522 is 10.3, the loss of uniform predictions


def test_no_anchor_is_a_held_out_pair(program, folder):
    train, held_out = program.make_pairs(program.split([(folder / "text.txt").read_text(encoding="utf-8")]), 0)
    assert held_out
    assert not {pair[:2] for pair in train} & {pair[:2] for pair in held_out}


def test_the_output_shows_the_warning_the_command_and_the_tables(demonstration, folder):
    output = demonstration.stdout
    assert output.count("newly initialized") == 1  # the load report of transformers, once
    assert re.search(r"(?m)^   \$ python \S*convert\.py rescue-minilm/mlm --pooler-from rescue-minilm/donor$", output)
    assert re.search(r"(?m)^   distinct pooler_outputs +5 +1$", output)
    assert re.search(r"(?m)^   anchored MLM +\d\.\d\d +\d\.\d\d +\d+\.\d\d$", output)
    assert "\x1b" not in output
    assert str(folder) not in (folder / "rescue-minilm" / "rescue.json").read_text(encoding="utf-8")


def test_the_figure_is_drawn_whole(program, demonstration, result, folder, monkeypatch, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import image
    from matplotlib import pyplot as plt

    assert image.imread(folder / "rescue-minilm" / "rescue.png").std() > 0.05, "not blank"
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    program.draw(tmp_path / "figure.png", torch.eye(5), torch.ones(5, 5), result)
    monkeypatch.undo()
    assert is_whole(drawn[0])
    plt.close(drawn[0])


def test_an_earlier_run_is_not_overwritten_without_the_option(program, demonstration, folder, monkeypatch, capsys):
    before = state(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(program, "redirect_transformers", lambda: None)  # would also apply to later tests
    assert program.main([*TINY]) == 1
    assert capsys.readouterr().err == (
        "rescue_minilm.py: error: rescue-minilm is not empty; name another --output-dir, or pass --overwrite\n"
    )
    assert state(folder) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "missing.txt"], r"missing\.txt"),
        (["--text", "short.txt"], r"short\.txt: too little text; more than 21 paragraphs"),
        (["--text", "latin.txt"], r"latin\.txt is not UTF-8"),
        (["--length", "600"], r"--length 600: .* reads 512 tokens at most"),
        (["--output-dir", "short.txt"], r"short\.txt is not a folder"),
        (["--model", "gpt"], r"gpt is not a BERT: its model_type is 'gpt2'"),
        (["--model", "./no-such-folder"], r"no-such-folder"),
    ],
)
def test_an_impossible_run_is_an_error_before_the_training(program, tmp_path, monkeypatch, options, message):
    (tmp_path / "short.txt").write_text("Too short.\n\n" * 30, encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("Ein längerer Absatz, der nicht in UTF-8 ist.".encode("latin-1"))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OSError, ValueError), match=message):
        program.prepare(program.parse(options))
    assert not (tmp_path / "rescue-minilm").exists()
