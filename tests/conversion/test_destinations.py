"""The destination: what it may not meet, what may be replaced. Kills: test_kills.py."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from bert_pooled_mlm import BertPooledMLMForMaskedLM, conversion
from bert_pooled_mlm.convert import main
from checkpoints import contents, edit_json, save_donor, save_lost, snapshot, state
from grafting import graft, join, refused, rejected, split


@pytest.fixture
def call(place, monkeypatch, capsys):
    """The command line in `place`; gives the exit code and what stderr has."""
    monkeypatch.chdir(place)

    def run(*argv: str, donor: bool = True) -> tuple[int, str]:
        code = main([*argv, "--no-verify", *(["--pooler-from", "donor"] if donor else [])])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def earlier(place) -> Path:
    """An output of an earlier call."""
    graft(place / "checkpoint", place / "donor", place / "checkpoint-pooled")
    return place / "checkpoint-pooled"


# --- Several names in one call ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["checkpoint-pooled"], "is another checkpoint of this call itself; choose another folder with -o"),
        (["--calibrate", "checkpoint-pooled/a.txt"], "is inside the texts checkpoint-pooled/a.txt, or around it;"),
    ],
    ids=["an input", "the texts"],
)
def test_what_the_call_reads_is_not_replaced_by_an_output(argv, message, place, earlier, call):
    """`convert.py run/*` takes both a checkpoint and its output; the second one's optimizer would have been gone."""
    (earlier / "a.txt").write_text("a\nb\n")
    before = state(earlier)
    code, printed = call("checkpoint", *argv, "--overwrite")
    assert code == 1
    assert f"error: checkpoint-pooled: {message}" in printed
    assert state(earlier) == before


@pytest.mark.parametrize("where", [("-o", "out"), ()], ids=["-o", "beside, through a link"])
def test_the_second_of_two_outputs_of_one_place_is_an_error(where, place, call):
    """Of one name, or of one folder that is named in two ways; --overwrite is for what was there before."""
    shutil.copytree(place / "checkpoint", place / "x" / "checkpoint")
    if where:
        shutil.copytree(place / "checkpoint", place / "y" / "checkpoint")
    else:
        (place / "y").symlink_to("x")
    code, printed = call("x/checkpoint", "y/checkpoint", "--overwrite", *where)
    assert code == 1
    assert printed.count("\n") == 1
    assert re.search(r"checkpoint(-pooled)?: is the output of an earlier checkpoint of this call itself", printed)
    assert (place / ("out/checkpoint" if where else "x/checkpoint-pooled") / "config.json").is_file()


def test_two_outputs_of_one_place_on_a_file_system_without_cases(place, call, monkeypatch):
    for name in ("x/Model", "y/model"):
        shutil.copytree(place / "checkpoint", place / name)
    exists = os.path.exists
    monkeypatch.setattr(os.path, "samefile", lambda one, other: str(one).lower() == str(other).lower())
    monkeypatch.setattr(os.path, "exists", lambda path: exists(path) or str(path) == os.path.join("out", "model"))
    code, printed = call("x/Model", "y/model", "--overwrite", "-o", "out")
    assert code == 1
    assert printed.startswith("error: out/model: the output of an earlier checkpoint of this call, the same folder")


def test_the_donor_of_a_later_checkpoint_is_not_replaced(place, earlier, call):
    """By the output of an earlier one, which was there before: the later would get another pooler in silence."""
    shutil.copytree(place / "checkpoint", place / "later")
    edit_json(place / "later" / "config.json", _name_or_path=str(earlier))
    edit_json(place / "checkpoint" / "config.json", _name_or_path=str(place / "donor"))
    before = state(earlier)
    code, printed = call("checkpoint", "later", "--overwrite", donor=False)
    assert code == 1
    assert printed == "error: checkpoint-pooled: is a donor of later itself; choose another folder with -o\n"
    assert state(earlier) == before
    assert (place / "later-pooled").is_dir()


@pytest.mark.parametrize("output", ["checkpoint", "checkpoint/out", "checkpoint/a/b", ".", "..", "link/out"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_destination_in_or_around_the_input_is_rejected(output, overwrite, place):
    (place / "link").symlink_to("checkpoint")
    match = r"inside the checkpoint .*, or around it; choose a folder next to it|checkpoint: is the checkpoint itself"
    refused(place, match, output=output, overwrite=overwrite)


@pytest.mark.parametrize(
    ("output", "match"),
    [
        ("donor", "donor: holds files that this program did not write"),
        ("donor/out", "inside the donor .*, or around it; choose a folder next to it"),
        ("checkpoint-pooled", "checkpoint-pooled: is the donor itself; choose another folder"),
    ],
)
def test_a_destination_at_or_in_the_donor_is_rejected(output, match, place, earlier):
    refused(place, match, output=output, pooler_from=place / output.split("/")[0], overwrite=True)


# --- What is at the destination --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a folder", "a file", "a dead link", "a circle", "a link to a folder"])
def test_a_destination_that_exists_is_rejected_and_overwrite_replaces_folders_alone(kind, place):
    out = place / "out"
    {
        "a folder": out.mkdir,
        "a file": out.touch,
        "a dead link": lambda: out.symlink_to("absent"),
        "a circle": lambda: out.symlink_to("out"),
        "a link to a folder": lambda: out.symlink_to("donor"),
    }[kind]()
    refused(place, "out: exists already; choose another with -o, or replace it with --overwrite")
    if kind != "a folder":
        refused(place, "out: expected a folder, found something else; choose another with -o", overwrite=True)


def test_overwrite_replaces_the_whole_folder(lost, donor, tmp_path):
    other = save_donor(tmp_path / "other", seed=3)
    graft(save_lost(tmp_path / "first", other), other, tmp_path / "x" / "out", format="pooled")
    graft(lost, donor, tmp_path / "x" / "out", format="bert", overwrite=True)
    graft(lost, donor, tmp_path / "y" / "out", format="bert")
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


def write(name: str):
    return lambda out: (out / name).write_text("mine")


def manifest(value: object):
    """Replaces what the weights' header holds of the other files."""

    def change(out: Path) -> None:
        header, body = split((out / "model.safetensors").read_bytes())
        header["__metadata__"][conversion.staging.MANIFEST] = value
        text = json.dumps(header).encode()
        (out / "model.safetensors").write_bytes(join(text + b" " * (-len(text) % 8), body))

    return change


OTHERS = {
    "thesis.tex": write("thesis.tex"),
    "checkpoint-500": lambda out: shutil.copytree(out, out / "checkpoint-500"),
    "plots": lambda out: (out / "plots").mkdir(),
    ".gitattributes": write(".gitattributes"),
    "link": lambda out: (out / "link").symlink_to("/"),
    "2_Dense/notes": write("2_Dense/notes"),
    "README.md": write("README.md"),
    "a save of the trained model": lambda out: BertPooledMLMForMaskedLM.from_pretrained(out).save_pretrained(out),
    "a second model": lambda out: shutil.copy(
        out / "2_Dense" / "model.safetensors", out / "model-00001-of-00001.safetensors"
    ),
    "a manifest of nothing": manifest("{}"),
    "a manifest that is none": manifest("[1]"),
    "a manifest that is deep": manifest("[" * 100_000),
    "no weights": lambda out: (out / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_overwrite_names_what_is_in_the_way_and_replaces_nothing(kind, place):
    for overwrite in (False, True):
        graft(place / "checkpoint", place / "donor", place / "out", overwrite=overwrite)
    OTHERS[kind](place / "out")
    match = r"out: holds files that this program did not write, or that have changed since: "
    named = rejected(place, overwrite=True)
    assert re.search(match, str(named))
    assert (kind if " " not in kind else "README.md") in named.reason


def test_the_home_folder_is_left_alone(place, call, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    (place / "home" / "documents").mkdir(parents=True)
    (place / "home" / "documents" / "thesis.tex").write_text("mine")
    before = snapshot(place)
    for output in ("~", "~/", str(place / "home"), "~/documents/.."):
        code, printed = call("checkpoint", "-o", output, "--overwrite")
        assert code == 1
        assert "holds files that this program did not write" in printed
        assert "documents" in printed
    assert snapshot(place) == before


@pytest.mark.parametrize("unrelated", [True, False], ids=["an error", "converted"])
def test_what_a_dead_run_left_is_removed_and_folders_that_only_look_like_that_stay(unrelated, place, stranger):
    ours, dead = conversion.staging._prefix(place / "out"), 4194305  # above the largest number of a process
    stale = [place / f"{ours}{dead}-0123abcd", place / f"{ours}{os.getpid()}-0123abcd"]  # of an earlier container
    others = [".out.replaced", ".out", ".out.tmp", f".out.tmp-elsewhere-{dead}-0123abcd", f"{ours}notes"]
    others += [f"{ours}{dead}", f"{ours}{dead}-0123abcd-mine", f"{ours}{dead}-mine"]
    for folder in (*stale, *(place / name for name in others)):
        folder.mkdir()
        (folder / "mine").write_text("mine")
    link = place / f"{ours}{dead}-0123abce"
    link.symlink_to("donor")
    if unrelated:
        with pytest.raises(conversion.errors.ConversionError, match="is not related"):
            graft(place / "checkpoint", stranger, place / "out")
    else:
        graft(place / "checkpoint", place / "donor", place / "out")
    assert not any(folder.exists() for folder in stale)
    assert link.is_symlink()
    assert all((place / name / "mine").read_text() == "mine" for name in others)
