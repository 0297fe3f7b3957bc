"""Fixtures of the conversions: folders to convert, an empty Hub cache, no Hub, and an empty table of known donors."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from bert_pooled_mlm import ConversionReport, conversion
from checkpoints import FORMATS, edit_json, save_donor, save_lost
from grafting import COMMIT, Conversions, graft, sentences
from hub_faults import User
from hub_server import HubServer
from huggingface_hub.errors import OfflineModeIsEnabled


@pytest.fixture(autouse=True)
def asked(tmp_path, monkeypatch) -> list[str]:
    """The repositories that the Hub was asked for, which can't be reached; its cache and the table are empty."""
    names = []

    def unreachable(self, repo_id, revision):
        names.append(repo_id)
        raise OfflineModeIsEnabled("off")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(conversion.hub.HubRepo, "__init__", unreachable)
    monkeypatch.setattr(conversion.origins, "KNOWN_DONORS", ())
    return names


@pytest.fixture
def shelve(tmp_path):
    """Puts a folder into the Hub's cache, under a repository's name."""

    def put(repo_id: str, folder: Path) -> None:
        repo = tmp_path / "hub-cache" / f"models--{repo_id.replace('/', '--')}"
        shutil.copytree(folder, repo / "snapshots" / COMMIT)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(COMMIT)

    return put


@pytest.fixture
def table(monkeypatch, shelve):
    """Replaces the table of known donors; of those that come with a folder, the Hub's cache holds it."""

    def use(entries: dict[str, Path | None], vocab_size: int = 128, **shape) -> None:
        shape = {"hidden_size": 32, "num_hidden_layers": 2} | shape
        known = [conversion.known_donors.KnownDonor(repo_id, vocab_size, **shape) for repo_id in entries]
        monkeypatch.setattr(conversion.origins, "KNOWN_DONORS", (*conversion.origins.KNOWN_DONORS, *known))
        for repo_id, folder in entries.items():
            if folder is not None:
                shelve(repo_id, folder)

    return use


@pytest.fixture
def place(lost, donor, tmp_path) -> Path:
    """A folder that holds a checkpoint, which names no donor, and its donor, and nothing else."""
    shutil.copytree(lost, tmp_path / "place" / "checkpoint")
    edit_json(tmp_path / "place" / "checkpoint" / "config.json", "_name_or_path")
    shutil.copytree(donor, tmp_path / "place" / "donor")
    return tmp_path / "place"


@pytest.fixture
def checkpoint(lost, tmp_path) -> Path:
    """A copy of the checkpoint that lost its pooler, which names no donor, for tests that change it."""
    folder = Path(shutil.copytree(lost, tmp_path / "checkpoint"))
    edit_json(folder / "config.json", "_name_or_path")
    return folder


@pytest.fixture
def giver(donor, tmp_path) -> Path:
    """A copy of the donor, for tests that change it."""
    return Path(shutil.copytree(donor, tmp_path / "giver"))


@pytest.fixture
def stranger(tmp_path) -> Path:
    """A donor that the checkpoint was not trained from."""
    return save_donor(tmp_path / "stranger", seed=9)


@pytest.fixture(scope="session")
def rescues(lost, donor, tmp_path_factory) -> dict[str, ConversionReport]:
    """What the conversion into each format reports; test_verify.py compares it with the default, which verifies."""
    folder = tmp_path_factory.mktemp("rescues")
    return {format: graft(lost, donor, folder / format, format=format) for format in FORMATS}


@pytest.fixture(params=FORMATS)
def report(request, rescues) -> ConversionReport:
    return rescues[request.param]


@pytest.fixture
def rescued(report) -> Path:
    """The output in each format."""
    return Path(report.output)


@pytest.fixture(scope="session")
def verifier():
    """A verification process for many calls: its imports take seconds."""

    class Shared(conversion.verify.Verifier):
        def close(self) -> None:  # at the end of a call
            pass

    verifier = Shared()
    yield verifier
    conversion.verify.Verifier.close(verifier)


@pytest.fixture
def forked(monkeypatch, verifier) -> None:
    """All conversions of the test verify in that process."""
    monkeypatch.setattr(conversion.pipeline, "Verifier", lambda: verifier)


@pytest.fixture(scope="session")
def far(tmp_path_factory, donor) -> Path:
    """An MLM checkpoint that its training moved far, so that a fit improves its pooler."""
    return save_lost(tmp_path_factory.mktemp("far") / "far", donor, drift=0.02)


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(sentences(300)))
    return file


@pytest.fixture(scope="session")
def fit(donor, texts):
    """A conversion with `--calibrate`, from the donor and on the texts unless others are named."""

    def run(checkpoint: Path, output: Path, pooler_from=donor, calibrate=texts, **options) -> ConversionReport:
        return graft(checkpoint, pooler_from, output, calibrate=calibrate, calibrate_length=32, **options)

    return run


@pytest.fixture(scope="session")
def fitted(far, fit, tmp_path_factory) -> ConversionReport:
    """What the calibrated conversion of `far` reports."""
    return fit(far, tmp_path_factory.mktemp("fitted") / "out")


@pytest.fixture(scope="module")
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(server) -> HubServer:
    """A Hub of the test's own: empty, at the address that the module's processes know."""
    server.clear()
    return server


@pytest.fixture
def out(tmp_path) -> Path:
    """Where `graft` writes by default."""
    return tmp_path / "out"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(request, server, home):
    """Conversions that reach the server; a module's TIME_LIMITS are variables of the Hub's client."""
    with Conversions(**server.environment(home), **getattr(request.module, "TIME_LIMITS", {})) as conversions:
        yield conversions


@pytest.fixture
def user(hub, online, place, home) -> User:
    return User(online, place, home)
