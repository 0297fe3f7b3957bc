"""The file system under an output: its modes, flushes, and what it rejects."""

import errno
import os
import stat
from pathlib import Path

import pytest
from bert_pooled_mlm import conversion
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
    modes = {path: path.stat().st_mode & 0o777 for path in [out, *out.rglob("*")]}
    assert modes == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in modes}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the path of a descriptor is read from /proc")
def test_all_is_on_disk_before_it_gets_its_name(lost, donor, tmp_path, monkeypatch):
    """Every file and every folder's list of files are flushed, then the folder is renamed, then the rename is."""
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: (done.append("rename"), rename(path, target))[1])
    out = tmp_path / "deep" / "out"
    graft(lost, donor, out)
    renamed = done.index("rename")
    building = next(path.parent for path in done if path.name == "config.json" and out.parent in path.parents)
    flushed = {path.relative_to(building).as_posix() for path in done[:renamed]}
    assert flushed == {path.relative_to(out).as_posix() for path in out.rglob("*")} | {"."}
    assert out.parent in done[renamed:]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF], ids=errno.errorcode.get)
def test_a_file_system_that_cannot_flush_a_folder_is_fine(code, place, monkeypatch):
    flush, failed = os.fsync, []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            failed.append(code)
            raise OSError(code, "no")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert graft(place / "checkpoint", place / "donor", place / "out").status == "converted"
    assert len(failed) == 4, "three folders, and that of the output"


def test_what_fails_once_it_has_its_name_is_no_failure(place, monkeypatch):
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if (place / "out").exists():
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert graft(place / "checkpoint", place / "donor", place / "out").status == "converted"
    assert sorted(path.name for path in place.iterdir()) == ["checkpoint", "donor", "out"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("output", ["out", "a/b/out"])
def test_a_read_only_destination_is_found_before_the_work(dry_run, output, place, monkeypatch):
    """And before a donor is looked for. Tests may run as root, whom no mode stops: the answer is simulated."""
    monkeypatch.setattr(os, "access", lambda path, mode: not os.path.samefile(path, place))
    monkeypatch.setattr(conversion.donors.Donors, "find", None)
    refused(place, r"place: can't be written into; choose another folder with -o", output=output, dry_run=dry_run)


def test_a_destination_below_a_file_is_found_too(place):
    (place / "file").touch()
    refused(place, "file: can't be written into; choose another folder with -o", output="file/deep/out")


@pytest.mark.parametrize(
    ("name", "number", "output"),
    [
        ("mkdir", errno.EACCES, "out"),
        ("fsync", errno.ENOSPC, "a/b/out"),
        ("rename", errno.EROFS, "out"),
        ("rename", errno.EROFS, "a/b/out"),
    ],
)
def test_what_the_system_rejects_while_it_is_written_is_one_line(name, number, output, place, monkeypatch):
    def fail(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), None if name == "fsync" else str(path))

    monkeypatch.setattr(os, name, fail)
    assert "out" in refused(place, f"{os.strerror(number)}; nothing was written", output=output), "where"
