"""Where a checkpoint's files lie: names of folders, and files that are none or lead elsewhere."""

import os
import shutil

import pytest
from bert_pooled_mlm import ConversionError, convert
from grafting import graft, refused


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint/", "./checkpoint", "../here/checkpoint", "~/checkpoint"])
def test_the_default_output_lies_beside_the_input(name, lost, donor, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    shutil.copytree(lost, tmp_path / "here" / "checkpoint")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    convert(name, pooler_from=donor, verify=False)
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"checkpoint", "checkpoint-pooled"}


def test_the_default_output_of_the_working_folder_lies_beside_it(checkpoint, donor, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoint)
    convert(".", pooler_from=donor, verify=False)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "checkpoint-pooled"}


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("empty", r"empty: no config.json; pass the folder that save_pretrained wrote"),
        ("absent", r"place/absent: no such folder$"),
        ("checkpoint/config.json", r"config.json: a file; pass the folder that holds it: .*checkpoint$"),
        ("../place", r"place: holds checkpoint, donor; pass one of them: .*place/donor$"),
    ],
)
def test_an_input_that_is_no_checkpoint_is_refused(name, match, place):
    (place / "empty").mkdir()
    refused(place, match, checkpoint=name)


def test_a_root_is_refused():
    with pytest.raises(ConversionError, match=r"^/: "):
        convert("/", verify=False)


# --- Links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt", "README.md"])
def test_a_link_out_of_the_folder_is_not_followed(name, place):
    """Else a downloaded folder could copy any file of its reader into an output that is then pushed."""
    secret = place / "secret"
    secret.write_text("# Secret\n")
    file = place / "checkpoint" / name
    if file.exists():
        shutil.move(file, secret)
    file.symlink_to("../secret")
    refused(place, rf"{name}: a link that leads out of the folder, to {secret}; copy the file in")


@pytest.mark.parametrize("kind", ["dead link", "circle", "folder", "pipe"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_what_is_not_a_file_is_refused(name, kind, place):
    file = place / "checkpoint" / name
    file.unlink()
    make = {
        "dead link": lambda: file.symlink_to("absent"),
        "circle": lambda: file.symlink_to(name),
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
    }
    make[kind]()
    found = (
        "a folder, as zero_to_fp32.py writes one" if kind == "folder" else "something else or a dead link; copy the"
    )
    refused(place, rf"{name}: expected a file, found {found}")


def test_a_link_within_the_folder_is_fine(place):
    folder = place / "checkpoint"
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    assert graft(folder, place / "donor").status == "converted"
    assert not (place / "out" / "model.safetensors").is_symlink()
