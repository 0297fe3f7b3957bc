"""No output meets what the call reads or writes besides; nothing is replaced or cleared that is not this program's."""

import errno
import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
from bert_pooled_mlm import BertPooledMLMForMaskedLM, conversion
from bert_pooled_mlm.convert import main
from checkpoints import edit_json, snapshot, state
from grafting import graft, join, refused, split


@pytest.fixture
def call(place, monkeypatch, capsys):
    """The command line in `place`; gives the exit code and what it says on stderr."""
    monkeypatch.chdir(place)

    def run(*argv: str, donor: bool = True) -> tuple[int, str]:
        code = main([*argv, "--no-verify", *(["--pooler-from", "donor"] if donor else [])])
        return code, capsys.readouterr().err

    return run


# --- Several names in one call ---------------------------------------------------------------------------------------


def test_an_input_is_not_replaced_by_the_output_of_another(place, call):
    """`convert.py run/*` takes both; the second one's optimizer, too, would have been gone."""
    graft(place / "checkpoint", place / "donor", place / "checkpoint-pooled")
    before = state(place / "checkpoint-pooled")
    code, said = call("checkpoint", "checkpoint-pooled", "--overwrite")
    assert (code, said) == (
        1, "error: checkpoint-pooled: is another checkpoint of this call itself; choose another folder with -o\n"
    )  # fmt: skip
    assert state(place / "checkpoint-pooled") == before


def test_the_texts_are_not_replaced_by_the_output(place, call):
    graft(place / "checkpoint", place / "donor", place / "out")
    (place / "out" / "texts.txt").write_text("a\nb\n")
    before = state(place / "out")
    code, said = call("checkpoint", "--calibrate", "out/texts.txt", "-o", "out", "--overwrite")
    assert code == 1
    assert "out: is inside the texts out/texts.txt, or around it; choose a folder next to it with -o" in said
    assert state(place / "out") == before


@pytest.mark.parametrize("where", [("-o", "out"), ()], ids=["-o", "beside, through a link"])
def test_two_outputs_of_one_place_are_one_and_a_refusal(where, place, call):
    """Of one name, or of one folder that is named in two ways; --overwrite is for what stood there before."""
    shutil.copytree(place / "checkpoint", place / "x" / "checkpoint")
    if where:
        shutil.copytree(place / "checkpoint", place / "y" / "checkpoint")
    else:
        (place / "y").symlink_to("x")
    code, said = call("x/checkpoint", "y/checkpoint", "--overwrite", *where)
    assert code == 1
    assert said.count("\n") == 1
    assert re.search(r"checkpoint(-pooled)?: is the output of an earlier checkpoint of this call itself", said)
    assert (place / ("out/checkpoint" if where else "x/checkpoint-pooled") / "config.json").is_file()


def test_two_outputs_of_one_place_on_a_file_system_without_cases(place, call, monkeypatch):
    shutil.copytree(place / "checkpoint", place / "x" / "Model")
    shutil.copytree(place / "checkpoint", place / "y" / "model")
    monkeypatch.setattr(os.path, "samefile", lambda one, other: str(one).lower() == str(other).lower())
    (place / "out" / "model").mkdir(parents=True)  # where os.path.exists finds `Model`
    (place / "out" / "model").rmdir()
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: exists(path) or str(path) == os.path.join("out", "model"))
    code, said = call("x/Model", "y/model", "--overwrite", "-o", "out")
    assert (code, said) == (
        1, "error: out/model: the output of an earlier checkpoint of this call, the same folder under another path\n"
    )  # fmt: skip


def test_the_donor_of_a_later_checkpoint_is_not_replaced(place, call):
    """By the output of an earlier one, which stood there before: the later would get another pooler in silence."""
    graft(place / "checkpoint", place / "donor", place / "checkpoint-pooled")
    shutil.copytree(place / "checkpoint", place / "later")
    edit_json(place / "later" / "config.json", _name_or_path=str(place / "checkpoint-pooled"))
    edit_json(place / "checkpoint" / "config.json", _name_or_path=str(place / "donor"))
    before = state(place / "checkpoint-pooled")
    code, said = call("checkpoint", "later", "--overwrite", donor=False)
    assert code == 1
    assert said == "error: checkpoint-pooled: is a donor of later itself; choose another folder with -o\n"
    assert state(place / "checkpoint-pooled") == before
    assert (place / "later-pooled").is_dir()


# --- What stands at the destination ----------------------------------------------------------------------------------


def trained_on(out: Path) -> None:
    BertPooledMLMForMaskedLM.from_pretrained(out).save_pretrained(out)


def edited_readme(out: Path) -> None:
    (out / "README.md").write_text((out / "README.md").read_text() + "\nMy notes.\n")


def manifest(value: object):
    def change(out: Path) -> None:
        header, body = split((out / "model.safetensors").read_bytes())
        header["__metadata__"][conversion.staging.MANIFEST] = value
        text = json.dumps(header).replace('"@deep"', json.dumps("[" * 100_000)).encode()
        (out / "model.safetensors").write_bytes(join(text + b" " * (-len(text) % 8), body))

    return change


OTHERS = {
    "a thesis": (lambda out: (out / "thesis.tex").write_text("mine"), "thesis.tex"),
    "a training's checkpoint": (lambda out: shutil.copytree(out, out / "checkpoint-500"), "checkpoint-500"),
    "an empty folder": (lambda out: (out / "plots").mkdir(), "plots"),
    "a hidden file": (lambda out: (out / ".gitattributes").write_text("x"), ".gitattributes"),
    "a link": (lambda out: (out / "link").symlink_to("/"), "link"),
    "a file in a folder of ours": (lambda out: (out / "2_Dense" / "notes").write_text("x"), "2_Dense/notes"),
    "an edited README": (edited_readme, "README.md"),
    "a save of the trained model": (trained_on, "model.safetensors"),
    "a second model": (lambda out: shutil.copy(out / "2_Dense" / "model.safetensors",
                                               out / "model-00001-of-00001.safetensors"), "model.safetensors"),
    "a manifest of nothing": (manifest("{}"), "vocab.txt"),
    "a manifest that is none": (manifest("[1]"), "vocab.txt"),
    "a manifest that is deep": (manifest("@deep"), "vocab.txt"),
    "no weights": (lambda out: (out / "model.safetensors").unlink(), "vocab.txt"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_overwrite_names_what_is_in_the_way_and_replaces_nothing(kind, place):
    change, name = OTHERS[kind]
    graft(place / "checkpoint", place / "donor", place / "out")
    assert graft(place / "checkpoint", place / "donor", place / "out", overwrite=True).status == "converted", "premise"
    change(place / "out")
    said = refused(
        place, r"out: holds files that this program did not write, or that have changed since: ", overwrite=True
    )
    assert re.search(rf"since: .*{re.escape(name)}.*; choose another folder with -o", said) or "more" in said


def test_the_home_folder_is_left_alone(place, call, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    (place / "home" / "documents").mkdir(parents=True)
    (place / "home" / "documents" / "thesis.tex").write_text("mine")
    before = snapshot(place)
    for output in ("~", "~/", str(place / "home"), "~/documents/.."):
        code, said = call("checkpoint", "-o", output, "--overwrite")
        assert code == 1
        assert "holds files that this program did not write" in said
        assert "documents" in said
    assert snapshot(place) == before


# --- What is removed, and what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["refused", "converted"])
def test_folders_that_only_look_like_ours_stay(ends, place):
    ours = conversion.staging._prefix(place / "out")
    names = [".out.replaced", ".out", ".out.tmp", ".out.tmp-elsewhere-4194305-0123abcd", f"{ours}notes"]
    names += [f"{ours}4194305", f"{ours}4194305-0123abcd-mine", f"{ours}4194305-mine"]
    for name in names:
        (place / name).mkdir()
        (place / name / "mine").write_text("mine")
    stale = place / f"{ours}4194305-0123abcd"  # above the largest number of a process: one that is dead
    stale.mkdir()
    link = place / f"{ours}4194305-0123abce"
    link.symlink_to("donor")
    if ends == "converted":
        graft(place / "checkpoint", place / "donor", place / "out")
    else:
        with pytest.raises(conversion.errors.ConversionError, match="is not related"):
            graft(place / "checkpoint", save_stranger(place), place / "out")
    assert not stale.exists(), "premise"
    assert link.is_symlink()
    assert all((place / name / "mine").read_text() == "mine" for name in names)


def save_stranger(place: Path) -> Path:
    tensors = split((place / "donor" / "model.safetensors").read_bytes())
    folder = shutil.copytree(place / "donor", place / "stranger")
    (folder / "model.safetensors").write_bytes(join(tensors[0], os.urandom(16) + b"\0" * (len(tensors[1]) - 16)))
    return folder


# --- What a file system can't do -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "ENOSYS", "EBADF"])
def test_a_file_system_that_cannot_flush_a_folder_is_fine(code, place, monkeypatch):
    flush, refusals = os.fsync, []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refusals.append(code)
            raise OSError(getattr(errno, code), "no")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert graft(place / "checkpoint", place / "donor", place / "out").status == "converted"
    assert len(refusals) == 4, "three folders, and that of the output"


def test_what_fails_once_it_has_its_name_is_no_failure(place, call, monkeypatch):
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if (place / "out").exists():
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert call("checkpoint", "-o", "out") == (0, "")
    assert sorted(path.name for path in place.iterdir()) == ["checkpoint", "donor", "out"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("output", ["out", "a/b/out"])
def test_a_read_only_destination_is_found_before_the_work(dry_run, output, place, monkeypatch):
    """And before a donor is looked for. Tests may run as root, whom no mode stops: the answer is simulated."""
    monkeypatch.setattr(os, "access", lambda path, mode: not os.path.samefile(path, place))
    monkeypatch.setattr(conversion.donors.Donors, "find", None)
    refused(place, r"place: can't be written into; choose another folder with -o", output=output, dry_run=dry_run)
