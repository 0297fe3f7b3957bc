"""Whenever a run ends, by a kill, an interrupt or a full disk: the input whole, the output complete or absent."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bert_pooled_mlm.convert import convert
from checkpoints import ROOT, save_donor, save_lost
from safetensors.torch import load_file

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
# Imports the converter once and runs each order in a forked process of its own. The child counts its changes of the
# file system and the pieces of tensors that it wrote, and sends itself a signal before the one that is asked for.
# Without fsync: a kill loses nothing that was written; `test_all_is_on_disk_before_it_gets_its_name` watches it.
SERVER = """
import json, os, resource, signal, sys, time
sys.path.insert(0, sys.argv[1])
import convert
os.fsync = lambda descriptor: None
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}

def child(order, pipe, stderr):
    count = 0
    def step(name):
        nonlocal count
        count += 1
        os.write(pipe, name.encode() + b"\\n")
        if count == order.get("at"):
            os.kill(os.getpid(), order["signal"])
    def hook(event, args):
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            step(event)
    os.dup2(stderr, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if "file_limit" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], resource.RLIM_INFINITY))
    update = convert.tqdm.update
    convert.tqdm.update = lambda bar, n=1: (step("piece"), update(bar, n))[1]
    sys.addaudithook(hook)
    try:
        code = convert.main(order["argv"])
    except BaseException:
        import traceback
        traceback.print_exc()
        code = 99
    sys.stderr.flush()
    os._exit(code)

stopped = {}
for line in sys.stdin:
    order = json.loads(line)
    began = time.monotonic()
    if "resume" in order:
        pid = order["resume"]
        steps, errors = stopped.pop(pid)
        os.kill(pid, signal.SIGCONT)
    else:
        (steps, pipe), (errors, stderr) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            child(order, pipe, stderr)
        os.close(pipe)
        os.close(stderr)
        if "after" in order:
            time.sleep(order["after"])
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, os.WUNTRACED)
    answer = {"pid": pid, "seconds": time.monotonic() - began}
    if os.WIFSTOPPED(status):
        stopped[pid] = steps, errors
    else:
        with open(steps) as file, open(errors) as stderr:  # both fit into a pipe
            answer |= {"steps": file.read().split(), "stderr": stderr.read()}
        answer["code"] = os.waitstatus_to_exitcode(status)
    print(json.dumps(answer), flush=True)
"""


class Server:
    """Converters in forked processes."""

    def __init__(self, place: Path):
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf"), "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def run(self, *argv, **order) -> dict:
        order |= {"argv": [*map(str, argv), "--no-verify"]}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    with server.process as process:
        process.stdin.close()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """A donor and what was trained from it; and what stood at the destination before."""
    place = tmp_path_factory.mktemp("originals")
    save_donor(place / "donor", **TINY)
    save_lost(place / "lost", place / "donor")
    save_lost(place / "other", place / "donor", seed=7)
    convert(place / "other", place / "old" / "out", pooler_from=place / "donor", verify=False)
    convert(place / "lost", place / "new" / "out", pooler_from=place / "donor", verify=False)
    return place


class Scene:
    """A folder with a checkpoint and its donor, and the states in which its destination may be."""

    def __init__(self, originals: Path, place: Path, old: bool):
        self.place, self.out = place, place / "out"
        shutil.copytree(originals / "donor", place / "donor")
        shutil.copytree(originals / "lost", place / "lost")
        self.states = {"old": snapshot(originals / "old" / "out"), "new": snapshot(originals / "new" / "out")}
        self.before = snapshot(place)
        self.old = old
        if old:
            shutil.copytree(originals / "old" / "out", self.out)
        self.argv = (place / "lost", "--pooler-from", place / "donor", "-o", self.out, *(["--overwrite"] * old))

    def state(self) -> str:
        """Of the destination, once it is certain that the inputs are untouched."""
        now = snapshot(self.place)
        assert {name: held for name, held in now.items() if not name.startswith(("out", ".out."))} == self.before
        return self.state_of("out")

    def state_of(self, name: str) -> str:
        if not (self.place / name).exists():
            return "none"
        held = snapshot(self.place / name)
        return next((state for state, expected in self.states.items() if held == expected), "incomplete")

    def leftovers(self) -> list[str]:
        return sorted({path.name for path in self.place.iterdir()} - {"lost", "donor", "out"})


@pytest.fixture(params=[False, True], ids=["new", "overwrite"])
def scene(request, originals, tmp_path) -> Scene:
    return Scene(originals, tmp_path, request.param)


def snapshot(folder: Path) -> dict[str, object]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def assert_one_line(text: str) -> None:
    assert text.startswith("error: ")
    assert text.count("\n") == 1


def steps_of(server: Server, originals: Path, place: Path, old: bool) -> list[str]:
    place.mkdir()
    scene = Scene(originals, place, old)
    done = server.run(*scene.argv)
    assert (done["code"], scene.state(), scene.leftovers()) == (0, "new", [])
    shutil.rmtree(place)
    return done["steps"]


def renewed(scene: Scene, originals: Path) -> None:
    """Puts the destination back to where it was."""
    shutil.rmtree(scene.out, ignore_errors=True)
    if scene.old:
        shutil.copytree(originals / "old" / "out", scene.out)


def test_a_kill_at_any_step_leaves_a_complete_output_or_none_and_the_next_run_cleans_up(scene, server, originals):
    steps = steps_of(server, originals, scene.place.parent / f"{scene.place.name}-steps", scene.old)
    assert {"open", "piece", "os.mkdir", "os.rename"} <= set(steps)
    states = []
    for at in range(1, len(steps) + 1):
        killed = server.run(*scene.argv, at=at, signal=signal.SIGKILL)
        assert killed["code"] == -signal.SIGKILL
        states.append(scene.state())
        if states[-1] == "none" and scene.old:
            assert scene.state_of(".out.replaced") == "old"
            states[-1] = "replaced"
        again = server.run(*scene.argv)
        if states[-1] == "new" and not scene.old:
            assert again["code"] == 1
            assert "exists already" in again["stderr"]
        else:
            assert (again["code"], again["stderr"]) == (0, "")
        assert (scene.state(), scene.leftovers()) == ("new", [])
        assert load_file(scene.out / "model.safetensors")
        renewed(scene, originals)
    # In this order: as it was, for an instant aside, the new one.
    order = ["old", "replaced", "new"] if scene.old else ["none", "new"]
    assert states == sorted(states, key=order.index)
    assert {"old", "replaced", "new"} & set(states) == {"old", "replaced", "new"} if scene.old else "none" in states


def test_what_a_kill_put_aside_is_restored_by_a_run_without_overwrite(originals, server, tmp_path):
    scene = Scene(originals, tmp_path, old=True)
    steps = steps_of(server, originals, tmp_path.parent / f"{tmp_path.name}-steps", True)
    second_rename = [number for number, step in enumerate(steps, 1) if step == "os.rename"][1]
    server.run(*scene.argv, at=second_rename, signal=signal.SIGKILL)
    assert scene.state() == "none"
    again = server.run(*(argument for argument in scene.argv if argument != "--overwrite"))
    assert again["code"] == 1
    assert "exists already" in again["stderr"]
    assert scene.state() == "old"


def test_a_kill_at_a_random_moment_leaves_a_complete_output_or_none(scene, server, originals):
    whole = server.run(*scene.argv)
    assert whole["code"] == 0
    renewed(scene, originals)
    moments = random.Random(0)
    killed = 0
    for _ in range(30):
        run = server.run(*scene.argv, after=moments.uniform(0, whole["seconds"]))
        killed += run["code"] == -signal.SIGKILL
        assert run["code"] in (0, -signal.SIGKILL)
        state = scene.state()
        assert state in ("new", "old" if scene.old else "none") or scene.state_of(".out.replaced") == "old"
        again = server.run(*scene.argv)
        assert again["code"] == (1 if state == "new" and not scene.old else 0)
        assert (scene.state(), scene.leftovers()) == ("new", [])
        renewed(scene, originals)
    assert killed > 10


def test_an_interrupt_at_any_step_leaves_nothing_behind(scene, server, originals):
    steps = steps_of(server, originals, scene.place.parent / f"{scene.place.name}-steps", scene.old)
    states = set()
    for at in range(1, len(steps) + 1):
        run = server.run(*scene.argv, at=at, signal=signal.SIGINT)
        state = scene.state()
        states.add(state)
        assert run["code"] not in (0, 99), run["stderr"]
        assert_one_line(run["stderr"])
        if state == "new":  # interrupted while what it replaced was removed
            assert scene.old
            assert "not converted" not in run["stderr"]
            assert set(scene.leftovers()) <= {".out.replaced"}
            assert server.run(*scene.argv)["code"] == 0
        else:
            assert state == ("old" if scene.old else "none"), (at, steps[at - 1])
        assert scene.leftovers() == [], (at, steps[at - 1])
        renewed(scene, originals)
    assert states == ({"old", "new"} if scene.old else {"none"})


def test_an_interrupted_program_says_so_in_one_line(originals, tmp_path):
    """The real program, from a terminal: SIGINT while it waits for its verification."""
    scene = Scene(originals, tmp_path, old=False)
    argv = [sys.executable, str(ROOT / "convert.py"), *map(str, scene.argv)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not [name for name in scene.leftovers() if (tmp_path / name / "README.md").exists()]:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode not in (0, -signal.SIGINT)
    assert_one_line(stderr)
    assert (scene.state(), scene.leftovers()) == ("none", [])


def test_a_second_run_to_the_same_place_leaves_the_first_ones_folder_alone(originals, server, tmp_path):
    scene = Scene(originals, tmp_path, old=False)
    steps = steps_of(server, originals, tmp_path.parent / f"{tmp_path.name}-steps", False)
    first = server.run(*scene.argv, at=len(steps) - 4, signal=signal.SIGSTOP)
    assert "code" not in first, "it has ended, instead of being stopped"
    building = scene.leftovers()
    assert len(building) == 1
    held = snapshot(tmp_path / building[0])
    assert len(held) > 5
    second = server.run(*scene.argv)
    assert (second["code"], second["stderr"]) == (0, "")
    assert scene.leftovers() == building
    assert snapshot(tmp_path / building[0]) == held
    written = {path: path.stat().st_mtime_ns for path in scene.out.iterdir()}
    resumed = server.run(resume=first["pid"])
    assert resumed["code"] == 1
    assert_one_line(resumed["stderr"])
    assert (scene.state(), scene.leftovers()) == ("new", [])
    assert {path: path.stat().st_mtime_ns for path in scene.out.iterdir()} == written, "replaced without --overwrite"


def test_a_folder_of_a_dead_run_with_our_own_number_is_stale(originals, server, tmp_path):
    """As in a container, where each run is process 1 of the same host."""
    scene = Scene(originals, tmp_path, old=False)
    steps = steps_of(server, originals, tmp_path.parent / f"{tmp_path.name}-steps", False)
    killed = server.run(*scene.argv, at=len(steps), signal=signal.SIGKILL)
    (stale,) = scene.leftovers()
    assert str(killed["pid"]) in stale
    (tmp_path / stale).rename(tmp_path / stale.replace(str(killed["pid"]), str(os.getpid())))
    convert(tmp_path / "lost", scene.out, pooler_from=tmp_path / "donor", verify=False)
    assert (scene.state(), scene.leftovers()) == ("new", [])


@pytest.mark.parametrize("limit", [0, 10, 1000, -1000, -1])
def test_a_limit_on_file_sizes_is_one_line(limit, scene, server, originals):
    """Negative: short of the largest file's size. Python ignores SIGXFSZ, so that a write fails with EFBIG."""
    size = (originals / "new" / "out" / "model.safetensors").stat().st_size
    assert size > 2000
    run = server.run(*scene.argv, file_limit=limit if limit >= 0 else size + limit)
    assert run["code"] == 1
    assert_one_line(run["stderr"])
    assert "File too large" in run["stderr"]
    assert str(scene.out) in run["stderr"]
    assert (scene.state(), scene.leftovers()) == ("old" if scene.old else "none", [])


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a small file system of its own; root only, and a skip that says so elsewhere."""
    places = []

    def mount(options: str) -> Path:
        place = tmp_path / f"mounted{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            pytest.skip(f"no mount command: {error}")
        if done.returncode:
            pytest.skip(f"mounting a tmpfs needs root: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line(originals, server, mounted):
    """In pages of 4 KiB: from too small for the tensors, which the plan sees, to one page short of all files."""
    files = [path for path in (originals / "new" / "out").rglob("*") if path.is_file()]
    weights = (originals / "new" / "out" / "model.safetensors").stat().st_size
    pages = sum(-(-path.stat().st_size // 4096) for path in files)
    small = mounted(f"size={4 * (pages + 64)}k")
    planned = 0
    for free in (1, -(-weights // 4096) - 1, -(-weights // 4096) + 1, pages - 6, pages - 1):
        filler = small / "filler"
        filler.write_bytes(b"x" * 4096 * (pages + 64 - free))
        run = server.run(originals / "lost", "--pooler-from", originals / "donor", "-o", small / "deep" / "out")
        assert run["code"] == 1
        assert_one_line(run["stderr"])
        assert str(small) in run["stderr"]
        planned += "make room" in run["stderr"]
        assert "make room" in run["stderr"] or "No space left" in run["stderr"]
        assert list(small.iterdir()) == [filler]
        filler.unlink()
    assert 0 < planned < 5
    assert server.run(originals / "lost", "--pooler-from", originals / "donor", "-o", small / "out")["code"] == 0
    assert snapshot(small / "out") == snapshot(originals / "new" / "out")


def test_a_read_only_destination_is_one_line(originals, server, mounted):
    readonly = mounted("size=1m,ro")
    run = server.run(originals / "lost", "--pooler-from", originals / "donor", "-o", readonly / "deep" / "out")
    assert run["code"] == 1
    assert "Read-only file system" in run["stderr"]
    assert_one_line(run["stderr"])
    assert list(readonly.iterdir()) == []


def test_a_destination_below_a_file_is_one_line(originals, server, tmp_path):
    (tmp_path / "file").write_text("mine")
    run = server.run(
        originals / "lost", "--pooler-from", originals / "donor", "-o", tmp_path / "file" / "deep" / "out"
    )
    assert run["code"] == 1
    assert_one_line(run["stderr"])
    assert snapshot(tmp_path) == {"file": b"mine"}


def test_a_destination_with_a_name_that_the_file_system_does_not_take_is_one_line(originals, server, tmp_path):
    """A name of 255 bytes is fine, and one of 256 is not; the temporary folder's is longer than its destination's."""
    for length in (200, 240, 255, 256):
        out = tmp_path / "deep" / ("x" * length)
        run = server.run(originals / "lost", "--pooler-from", originals / "donor", "-o", out)
        if run["code"]:
            assert length > 200
            assert_one_line(run["stderr"])
            assert list(tmp_path.iterdir()) == [], length
        else:
            assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x" * length]
            shutil.rmtree(tmp_path / "deep")


def test_all_is_on_disk_before_it_gets_its_name(originals, tmp_path, monkeypatch):
    """Every file and every folder's list of files are flushed, then the folder is renamed, then the rename is."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("what a descriptor stands for is read from /proc")
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: (done.append("rename"), rename(path, target))[1])
    out = tmp_path / "deep" / "out"
    convert(originals / "lost", out, pooler_from=originals / "donor", verify=False)
    renamed = done.index("rename")
    building = next(
        path for path in done if path.name == "config.json" and path.parent.parent == tmp_path / "deep"
    ).parent
    flushed = {path.relative_to(building).as_posix() for path in done[:renamed]}
    expected = {path.relative_to(out).as_posix() for path in out.rglob("*")} | {"."}
    assert flushed == expected
    assert out.parent in done[renamed:]
