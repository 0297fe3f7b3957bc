"""The loopback Hub beside the real client: what the tests rely on must be true of the client in use."""

from pathlib import Path

import huggingface_hub
import pytest
from hub_server import HubServer
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

pytestmark = pytest.mark.versions

WEIGHTS = bytes(range(256)) * 4000
FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": WEIGHTS, "1_Pooling/config.json": b"{}"}


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def writer(hub, monkeypatch):
    """Makes a client that writes: that of 0.x compares the address that the Hub answers with this constant."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    return lambda token: HfApi(hub.url, token=token or False)


def test_reading_gives_the_files_of_a_revision_and_by_range_exactly_the_bytes_asked_for(hub, tmp_path):
    first = hub.add_repo("user/repo", {"config.json": b"1"})
    hub.add_tag("user/repo", "v1")
    second = hub.add_repo("user/repo", FILES)
    where = {"endpoint": hub.url, "cache_dir": tmp_path}
    folder = snapshot_download("user/repo", **where)
    assert {name: (tmp_path / folder / name).read_bytes() for name in FILES} == FILES
    for revision in (first, "v1"):
        assert Path(hf_hub_download("user/repo", "config.json", revision=revision, **where)).read_bytes() == b"1"
    info = HfApi(hub.url).model_info("user/repo")
    assert info.sha == second
    assert {file.rfilename for file in info.siblings} == {*FILES}
    hub.log.clear()
    files = HfFileSystem(endpoint=hub.url, skip_instance_cache=True)
    with files.open("user/repo/model.safetensors", cache_type="none") as file:
        file.seek(1000)
        assert file.read(300) == WEIGHTS[1000:1300]
        hub.cut_after = 1000  # a connection that breaks is noticed, and what is missing asked for again
        file.seek(0)
        assert file.read(5000) == WEIGHTS[:5000]
    sent = [(request.range, request.sent) for request in hub.log if request.path.endswith("model.safetensors")]
    assert sent == [("bytes=1000-1299", 300), ("bytes=0-4999", 1000), ("bytes=0-4999", 5000)]


def test_access_ends_in_the_exceptions_that_users_of_the_hub_know(hub, tmp_path):
    hub.add_repo("user/private", {"config.json": b"{}"}, private=True)
    hub.add_repo("user/gated", {"config.json": b"{}"}, gated=True)

    def outcome(repo_id, token, name="config.json", revision=None):
        where = {"endpoint": hub.url, "cache_dir": tmp_path / str(token), "token": token or False}
        try:
            hf_hub_download(repo_id, name, revision=revision, **where)
        except HfHubHTTPError as error:
            return type(error)

    for token in (None, HubServer.STRANGER):
        assert outcome("user/private", token) is RepositoryNotFoundError
        assert outcome("user/gated", token) is GatedRepoError
        assert outcome("user/none", token) is RepositoryNotFoundError
    assert outcome("user/private", HubServer.TOKEN) is None
    assert outcome("user/gated", HubServer.TOKEN) is None
    assert outcome("user/gated", "hf_expired") is HfHubHTTPError
    assert outcome("user/private", HubServer.TOKEN, revision="none") is RevisionNotFoundError
    assert issubclass(outcome("user/private", HubServer.TOKEN, "none"), EntryNotFoundError)


@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")  # its own
def test_an_upload_is_one_commit_of_large_and_small_files(hub, writer, tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    api = writer(HubServer.TOKEN)
    for _ in range(2):
        api.create_repo("user/new", private=True, exist_ok=True)
    api.upload_folder(repo_id="user/new", folder_path=tmp_path, commit_message="Pooled")
    assert hub.repos["user/new"].private
    assert [commit.title for commit in hub.commits("user/new")] == ["initial commit", "Pooled"]
    files = hub.files("user/new")
    assert {name: files[name] for name in files.keys() - {".gitattributes"}} == FILES


@pytest.mark.parametrize("token", [HubServer.STRANGER, None])
def test_who_may_not_write_changes_nothing_but_may_open_a_pull_request(token, hub, writer):
    hub.add_repo("user/repo", FILES)
    api = writer(token)
    for call in (
        lambda: api.create_repo("user/new"),
        lambda: api.upload_file(path_or_fileobj=b"1", path_in_repo="config.json", repo_id="user/repo"),
    ):
        with pytest.raises((HfHubHTTPError, huggingface_hub.errors.LocalTokenNotFoundError)):
            call()
    if token:
        api.upload_file(path_or_fileobj=b"1", path_in_repo="config.json", repo_id="user/repo", create_pr=True)
        assert hub.files("user/repo", "refs/pr/1")["config.json"] == b"1"
    assert hub.files("user/repo") == FILES
    assert "user/new" not in hub.repos
