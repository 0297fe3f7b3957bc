"""Whenever a run ends, by a kill, an interrupt or a full disk: the input whole, the output complete or absent."""

import shutil
import signal
from pathlib import Path

import pytest
from checkpoints import save_donor, save_lost, snapshot
from grafting import Conversions, graft
from safetensors.torch import load_file

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Conversions(HF_HOME=str(tmp_path_factory.mktemp("home"))) as conversions:
        yield conversions


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """A donor and what was trained from it; and what stood at the destination before."""
    place = tmp_path_factory.mktemp("originals")
    save_donor(place / "donor", **TINY)
    save_lost(place / "lost", place / "donor")
    save_lost(place / "other", place / "donor", seed=7)
    graft(place / "other", place / "donor", place / "old" / "out")
    graft(place / "lost", place / "donor", place / "new" / "out")
    return place


class Scene:
    """A folder with a checkpoint and its donor, and the states in which its destination may be."""

    def __init__(self, originals: Path, place: Path, server: Conversions, old: bool):
        self.originals, self.place, self.out, self.server, self.old = originals, place, place / "out", server, old
        for name in ("donor", "lost"):
            shutil.copytree(originals / name, place / name)
        self.states = {name: snapshot(originals / name / "out") for name in ("old", "new")}
        self.before = snapshot(place)
        self.argv = (place / "lost", "--pooler-from", place / "donor", "-o", self.out, *(["--overwrite"] * old))
        self.renew()

    def renew(self) -> None:
        """Puts the destination back to where it was."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.old:
            shutil.copytree(self.originals / "old" / "out", self.out)

    def run(self, **order) -> dict:
        return self.server.run(*self.argv, **order)

    def steps(self) -> list[str]:
        """Of a run that nothing ends."""
        done = self.run()
        assert (done["code"], self.state(), self.leftovers()) == (0, "new", [])
        self.renew()
        return done["steps"].split()

    def chosen(self) -> list[int]:
        """The numbers of all steps but those in the midst of the pieces, which are alike."""
        steps = ["", *self.steps(), ""]
        return [at for at in range(1, len(steps) - 1) if {*steps[at - 1 : at + 2]} != {"piece"}]

    def naming(self) -> int:
        """The step at which the complete output gets its name."""
        return max(number for number, step in enumerate(self.steps(), 1) if step == "os.rename")

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
def scene(request, originals, tmp_path, server) -> Scene:
    return Scene(originals, tmp_path, server, old=request.param)


def assert_one_line(text: str) -> None:
    assert text.startswith("error: ")
    assert text.count("\n") == 1


def test_a_kill_at_any_step_leaves_a_complete_output_or_none_and_the_next_run_cleans_up(scene):
    assert {"open", "piece", "os.mkdir", "os.rename"} <= set(scene.steps())
    states = []
    for at in scene.chosen():
        assert scene.run(at=at, signal=signal.SIGKILL)["code"] == -signal.SIGKILL
        states.append(scene.state())
        if states[-1] == "none" and scene.old:
            (staging,) = scene.leftovers()
            assert scene.state_of(f"{staging}/replaced") == "old"
            states[-1] = "replaced"
        again = scene.run()
        if states[-1] == "new" and not scene.old:
            assert again["code"] == 1
            assert "exists already" in again["err"]
        else:
            assert (again["code"], again["err"]) == (0, "")
        assert (scene.state(), scene.leftovers()) == ("new", [])
        assert load_file(scene.out / "model.safetensors")
        scene.renew()
    # In this order: as it was, for an instant aside, the new one.
    order = ["old", "replaced", "new"] if scene.old else ["none", "new"]
    assert states == sorted(states, key=order.index)
    assert {"old", "replaced", "new"} & set(states) == {"old", "replaced", "new"} if scene.old else "none" in states


def test_what_a_kill_put_aside_is_restored_by_a_run_without_overwrite(originals, server, tmp_path):
    scene = Scene(originals, tmp_path, server, old=True)
    scene.run(at=scene.naming(), signal=signal.SIGKILL)
    assert scene.state() == "none"
    again = server.run(*(argument for argument in scene.argv if argument != "--overwrite"))
    assert again["code"] == 1
    assert "exists already" in again["err"]
    assert scene.state() == "old"


@pytest.mark.parametrize(("scene", "number"), [(False, signal.SIGINT), (True, signal.SIGTERM)], indirect=["scene"])
def test_a_signal_at_any_step_leaves_nothing_behind(number, scene):
    states = set()
    for at in scene.chosen():
        run = scene.run(at=at, signal=number)
        state = scene.state()
        states.add(state)
        if state == "new":  # while the staging folder was removed
            assert run["code"] in (0, 128 + number)
            assert scene.run()["code"] == (0 if scene.old else 1)
        else:
            assert run["code"] == 128 + number, run["err"]
            assert_one_line(run["err"])
            assert state == ("old" if scene.old else "none"), at
        assert scene.leftovers() == [], at
        scene.renew()
    assert states == {"old" if scene.old else "none", "new"}


def test_a_second_run_to_the_same_place_leaves_the_first_ones_folder_alone(originals, server, tmp_path):
    scene = Scene(originals, tmp_path, server, old=False)
    first = scene.run(at=scene.naming(), signal=signal.SIGSTOP)
    assert "code" not in first, "it has ended, instead of being stopped"
    (building,) = scene.leftovers()
    held = snapshot(scene.place / building)
    assert len(held) > 5
    second = scene.run()
    assert (second["code"], second["err"]) == (0, "")
    assert scene.leftovers() == [building]
    assert snapshot(scene.place / building) == held
    written = {path: path.stat().st_mtime_ns for path in scene.out.iterdir()}
    resumed = scene.run(resume=first["pid"])
    assert resumed["code"] == 1
    assert_one_line(resumed["err"])
    assert (scene.state(), scene.leftovers()) == ("new", [])
    assert {path: path.stat().st_mtime_ns for path in scene.out.iterdir()} == written, "replaced without --overwrite"


# --- What a file system refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1000, -1])
def test_a_limit_on_file_sizes_is_one_line(limit, scene, originals):
    """Negative: short of the largest file's size. Python ignores SIGXFSZ, so that a write fails with EFBIG."""
    size = (originals / "new" / "out" / "model.safetensors").stat().st_size
    assert size > 2000
    run = scene.run(file_limit=limit if limit >= 0 else size + limit)
    assert run["code"] == 1
    assert_one_line(run["err"])
    assert "File too large" in run["err"]
    assert str(scene.out) in run["err"]
    assert (scene.state(), scene.leftovers()) == ("old" if scene.old else "none", [])


def test_a_destination_with_a_name_that_the_file_system_does_not_take_is_one_line(originals, server, tmp_path):
    """A name of 255 bytes is fine, and one of 256 is not; the temporary folder's is longer than its destination's."""
    for length in (200, 240, 255, 256):
        out = tmp_path / "deep" / ("x" * length)
        run = server.run(originals / "lost", "--pooler-from", originals / "donor", "-o", out)
        if run["code"]:
            assert length > 200
            assert_one_line(run["err"])
            assert list(tmp_path.iterdir()) == [], length
        else:
            assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x" * length]
            shutil.rmtree(tmp_path / "deep")
