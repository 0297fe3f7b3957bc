"""A checkpoint's files: next to which folder the output is written, and files that are none or lead elsewhere."""

import os
import shutil

import pytest
from bert_pooled_mlm import convert
from grafting import graft, refused, rejected


@pytest.mark.parametrize("name", [".", "../checkpoint", "../checkpoint/", "./../checkpoint", "~/checkpoint"])
def test_the_default_output_is_next_to_the_input(name, place, monkeypatch):
    monkeypatch.chdir(place / "checkpoint")
    monkeypatch.setenv("HOME", str(place))
    convert(name, pooler_from=place / "donor", verify=False)
    assert {path.name for path in place.iterdir()} == {"checkpoint", "donor", "checkpoint-pooled"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt", "README.md"])
def test_a_link_out_of_the_folder_is_not_followed(name, place):
    """Else a downloaded folder could copy any file of its reader into an output that is then pushed."""
    secret, file = place / "secret", place / "checkpoint" / name
    secret.write_text("# Secret\n")
    if file.exists():
        shutil.move(file, secret)
    file.symlink_to("../secret")
    refused(place, rf"{name}: a link that leads out of the folder, to {secret}; copy the file in")


@pytest.mark.parametrize("kind", ["dead link", "circle", "folder", "pipe"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_what_is_not_a_file_is_rejected(name, kind, place):
    file = place / "checkpoint" / name
    file.unlink()
    make = {
        "dead link": lambda: file.symlink_to("absent"),
        "circle": lambda: file.symlink_to(name),
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
    }
    make[kind]()
    error = rejected(place)
    assert (error.subject, error.reason.partition(",")[0]) == (str(file), "expected a file")
    assert ("zero_to_fp32.py" in error.reason) == (kind == "folder")


def test_a_link_within_the_folder_is_followed(place):
    folder = place / "checkpoint"
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    assert graft(folder, place / "donor").status == "converted"
    assert not (place / "out" / "model.safetensors").is_symlink()


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 438000000\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_recognised(name, place):
    if name == "pytorch_model.bin":
        (place / "checkpoint" / "model.safetensors").unlink()
    (place / "checkpoint" / name).write_text(POINTER)
    refused(place, f"checkpoint/{name}: a Git LFS pointer.*`git lfs pull`")
