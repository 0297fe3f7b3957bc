"""The destination: what may be replaced, and when it gets its name. Kills: test_kills.py."""

import os
from pathlib import Path

import pytest
from checkpoints import contents, save_donor, save_lost
from grafting import graft, refused


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], ids=oct)
def test_modes_follow_the_umask(umask, checkpoint, donor, out):
    (checkpoint / "model.safetensors").chmod(0o600)  # as transformers 5.x leaves it
    (checkpoint / "vocab.txt").chmod(0o755)
    before = os.umask(umask)
    try:
        graft(checkpoint, donor)
    finally:
        os.umask(before)
    paths = [out, *out.rglob("*")]
    modes = {path: path.stat().st_mode & 0o777 for path in paths}
    assert modes == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in paths}


def test_overwrite_replaces_the_whole_folder(lost, donor, tmp_path):
    other = save_donor(tmp_path / "other", seed=3)
    graft(save_lost(tmp_path / "first", other), other, tmp_path / "x" / "out", format="pooled")
    graft(lost, donor, tmp_path / "x" / "out", format="bert", overwrite=True)
    graft(lost, donor, tmp_path / "y" / "out", format="bert")
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


def test_all_is_on_disk_before_it_gets_its_name(lost, donor, tmp_path, monkeypatch):
    """Every file and every folder's list of files are flushed, then the folder is renamed, then the rename is."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("what a descriptor stands for is read from /proc")
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: (done.append("rename"), rename(path, target))[1])
    out = tmp_path / "deep" / "out"
    graft(lost, donor, out)
    renamed = done.index("rename")
    building = next(path.parent for path in done if path.name == "config.json" and out.parent in path.parents)
    flushed = {path.relative_to(building).as_posix() for path in done[:renamed]}
    expected = {path.relative_to(out).as_posix() for path in out.rglob("*")} | {"."}
    assert flushed == expected
    assert out.parent in done[renamed:]


@pytest.mark.parametrize("output", ["checkpoint", "checkpoint/out", "checkpoint/a/b", ".", "..", "link/out"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_destination_in_or_around_the_input_is_refused(output, overwrite, place):
    (place / "link").symlink_to("checkpoint")
    match = r"inside the checkpoint .*, or around it; choose a folder next to it|checkpoint: is the checkpoint itself"
    refused(place, match, output=output, overwrite=overwrite)


@pytest.mark.parametrize(
    ("output", "match"),
    [
        ("donor", r"donor: holds files that this program did not write"),
        ("donor/out", r"inside the donor .*, or around it; choose a folder next to it"),
        ("written", r"written: is the donor itself; choose another folder with -o"),
    ],
)
def test_a_destination_at_or_in_the_donor_is_refused(output, match, place):
    graft(place / "checkpoint", place / "donor", place / "written")
    donor = place / ("written" if output == "written" else "donor")
    refused(place, match, output=output, pooler_from=donor, overwrite=True)


@pytest.mark.parametrize("kind", ["folder", "file", "dead link", "circle"])
def test_a_destination_that_exists_is_refused(kind, place):
    out = place / "out"
    make = {
        "folder": out.mkdir,
        "file": lambda: out.write_text("x"),
        "dead link": lambda: out.symlink_to("absent"),
        "circle": lambda: out.symlink_to("out"),
    }
    make[kind]()
    refused(place, r"out: exists already; choose another with -o, or replace it with --overwrite")


@pytest.mark.parametrize("kind", ["a file", "a link to a checkpoint"])
def test_overwrite_leaves_alone_what_is_no_folder(kind, place):
    if kind == "a file":
        (place / "out").write_text("mine")
    else:
        (place / "out").symlink_to("donor")
    match = r"out: expected a folder, found something else; choose another with -o"
    refused(place, match, overwrite=True)


FAILING = {"mkdir": PermissionError(13, "Permission denied"), "fsync": OSError(28, "No space left on device"),
           "rename": OSError(30, "Read-only file system")}  # fmt: skip


@pytest.mark.parametrize("call", FAILING)
@pytest.mark.parametrize("deep", [True, False])
def test_a_destination_that_cannot_be_written_is_refused(call, deep, place, monkeypatch):
    """Tests may run as root, whom no mode stops: the system's refusals are simulated."""

    def fail(path, *args, **kwargs):
        error = FAILING[call]
        raise type(error)(error.errno, error.strerror, None if call == "fsync" else str(path))

    monkeypatch.setattr(os, call, fail)
    output = "a/b/out" if deep and call != "mkdir" else "out"
    text = refused(place, f"{FAILING[call].strerror}; nothing was written", output=output)
    assert "out" in text, "the message names the destination"
