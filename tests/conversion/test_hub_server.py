"""The loopback Hub, held against the real client: what its users rely on must be true of the client in use."""

import http.client

import huggingface_hub
import pytest
from hub_server import HubServer
from programs import answer

pytestmark = pytest.mark.versions

OLD_HUB = huggingface_hub.__version__.startswith("0.23.")
WEIGHTS = bytes(range(256)) * 4000
FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": WEIGHTS, "1_Pooling/config.json": b"{}"}


@pytest.fixture
def client(hub, tmp_path):
    """Runs a function of tests/children/hub_client.py in a fresh process; gives what it tells."""

    def run(*args, token: str | None = None, **env: str):
        return answer("hub_client", tmp_path, *args, **hub.environment(tmp_path, token) | env)

    return run


def test_a_snapshot_is_the_repository_and_stays_readable_offline(hub, client, tmp_path):
    hub.add_repo("user/repo", FILES)
    (folder,) = client("snapshot", "user/repo")
    found = {name: (tmp_path / folder / name).read_bytes() for name in FILES}
    assert found == FILES
    seen = len(hub.log)
    offline, config = client("snapshot", "user/repo", "config.json", HF_HUB_OFFLINE="1")
    assert offline == folder
    assert config == f"{folder}/config.json"
    assert len(hub.log) == seen


def test_older_commits_and_tags_stay_readable(hub, client):
    first = hub.add_repo("user/repo", {"config.json": b"1"})
    hub.add_tag("user/repo", "v1")
    second = hub.add_repo("user/repo", {"config.json": b"2"})
    assert client("revisions", "main", "v1", first, second) == ["2", "1", "1", "2"]


def test_a_folder_is_served_from_disk(hub, client, tmp_path):
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "model.safetensors").write_bytes(WEIGHTS)
    hub.add_repo("user/repo", tmp_path / "model")
    _, size = client("whole", "user/repo", "sub/model.safetensors")
    assert size == len(WEIGHTS)
    assert hub.files("user/repo") == {"sub/model.safetensors": WEIGHTS}


def test_model_info_and_listings_tell_what_is_there(hub, client):
    sha = hub.add_repo("user/repo", FILES, gated=True)
    hub.add_tag("user/repo", "v1")
    info, sizes, top, files, paths, refs = client("listings", "user/repo")
    assert info == ["user/repo", sha, False, "auto"]
    assert sizes == {name: len(data) for name, data in FILES.items()}
    assert top == ["1_Pooling", "config.json", "model.safetensors"]
    assert files == sorted(FILES)
    assert paths == [["config.json", None], ["model.safetensors", len(WEIGHTS)]]
    assert refs == [["main", sha], ["v1", sha]]


def test_reading_by_range_transfers_exactly_the_bytes_asked_for(hub, client):
    hub.add_repo("user/repo", FILES)
    head, middle = client("ranges", "0+8", "1000+300")
    assert bytes(head + middle) == WEIGHTS[:8] + WEIGHTS[1000:1300]
    reads = [(request.range, request.sent) for request in hub.log if request.path.endswith("model.safetensors")]
    assert reads == [("bytes=0-7", 8), ("bytes=1000-1299", 300)]
    assert hub.bytes_sent("model.safetensors") == 308
    assert hub.bytes_sent() < 308 + 2000, "the listings are small"


def test_an_upload_is_one_commit_of_large_and_small_files(hub, client, tmp_path):
    for name, data in (FILES | {"README.md": b"---\nlicense: mit\n---\n"}).items():
        path = tmp_path / "upload" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    name, urls, again = client("upload", "user/new", "upload", token=hub.TOKEN)
    assert name == "user"
    assert again == "HfHubHTTPError"
    initial, upload, *unchanged, deletion = hub.commits("user/new")  # 0.23 commits what has not changed, too
    assert all(commit.files.keys() == upload.files.keys() for commit in unchanged)
    assert hub.repos["user/new"].private
    assert (initial.title, upload.title) == ("initial commit", "Pooled")
    # Nothing had changed the second time; 0.x gives the folder's address instead of the commit's in both cases.
    commits = {f"{hub.url}/user/new/commit/{commit.sha}" for commit in (upload, *unchanged)}
    assert set(urls) <= commits | {f"{hub.url}/user/new/tree/main/"}
    assert bool(unchanged) == OLD_HUB
    assert [path for path, blob in upload.files.items() if blob.lfs] == ["model.safetensors"]
    files = hub.files("user/new")
    assert files.keys() - {".gitattributes"} == FILES.keys() | {"README.md"}
    assert files["model.safetensors"] == WEIGHTS
    assert hub.files("user/new", "v1") == files
    assert hub.files("user/new", "next").keys() == files.keys() - {"README.md"}
    assert deletion.sha == hub.repos["user/new"].branches["next"]


def test_a_refused_commit_leaves_the_repository_as_it_was(hub, client, tmp_path):
    hub.refuse_commits = True
    (tmp_path / "config.json").write_bytes(b"{}")
    assert client("create_and_upload", "user/new", "config.json", token=hub.TOKEN) == "HfHubHTTPError"
    assert [commit.title for commit in hub.commits("user/new")] == ["initial commit"]


LOST = ["RepositoryNotFoundError", "RepositoryNotFoundError", "FileNotFoundError"]
CLOSED = ["user/gated", "GatedRepoError", "GatedRepoError"]


@pytest.mark.parametrize(
    ("token", "private", "gated", "none"),
    [
        (None, LOST, CLOSED, LOST),
        (HubServer.STRANGER, LOST, CLOSED, LOST),
        (HubServer.TOKEN, ["user/private", "{}", "{}"], ["user/gated", "{}", "{}"], LOST),
        ("hf_expired", *[["HfHubHTTPError"] * 3] * 3),
    ],
    ids=["anonymous", "stranger", "owner", "expired"],
)
def test_access_ends_in_the_exceptions_that_users_of_the_hub_know(hub, client, token, private, gated, none):
    hub.add_repo("user/private", {"config.json": b"{}"}, private=True)
    hub.add_repo("user/gated", {"config.json": b"{}"}, gated=True)
    assert client("access", "user/private", "user/gated", "user/none", token=token) == [private, gated, none]


@pytest.mark.parametrize("token", [HubServer.STRANGER, None])
def test_strangers_cannot_write(token, hub, client):
    hub.add_repo("user/repo", FILES)
    assert client("write", "user/repo", "user/new", token=token) == ["HfHubHTTPError"] * 2
    assert hub.files("user/repo") == FILES
    assert "user/new" not in hub.repos


def test_unknown_revisions_and_files_are_told_apart(hub, client):
    hub.add_repo("user/repo", FILES)
    assert client("missing", "user/repo") == ["RevisionNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"]


def test_an_old_name_leads_to_the_new_one(hub, client):
    hub.add_repo("google-bert/bert-base-chinese", FILES)
    name, config, folder = client("renamed", "bert-base-chinese")
    assert name == "google-bert/bert-base-chinese"
    assert config == FILES["config.json"].decode()
    assert folder
    assert 307 in [request.status for request in hub.log]


def test_a_cut_connection_is_felt_by_the_client(hub, client):
    """Reads by range are asked for again; whole downloads only by the newer clients."""
    hub.add_repo("user/repo", FILES)
    hub.cut_after = 1000
    (read,) = client("ranges", "0+5000")
    assert len(read) == 5000
    assert [request.sent for request in hub.log if request.range] == [1000, 5000]
    hub.cut_after = 1000
    version, result = client("whole", "user/repo", "model.safetensors")
    assert result == ("ChunkedEncodingError" if version.startswith("0.") else len(WEIGHTS))
    assert hub.cut_after is None, "one cut was asked for"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=10-19", 10, 20),
        ("bytes=1023990-", 1023990, 1024000),
        ("bytes=-10", 1023990, 1024000),
        ("bytes=1023990-9999999", 1023990, 1024000),
    ],
)
def test_a_byte_range_is_answered_as_the_standard_says(hub, asked, start, stop):
    sha = hub.add_repo("user/repo", FILES)
    status, headers, body = get(hub, "/user/repo/resolve/main/model.safetensors", Range=asked)
    assert status == 206
    assert body == WEIGHTS[start:stop]
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(WEIGHTS)}"
    assert (headers["X-Repo-Commit"], headers["X-Linked-Size"]) == (sha, str(len(WEIGHTS)))


def test_a_byte_range_past_the_end_is_refused(hub):
    hub.add_repo("user/repo", FILES)
    status, headers, _ = get(hub, "/user/repo/resolve/main/model.safetensors", Range="bytes=1024000-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(WEIGHTS)}")


def test_what_the_server_does_not_speak_is_not_found(hub):
    assert get(hub, "/api/datasets/user/repo")[0] == 404


def get(hub: HubServer, path: str, **headers: str):
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body
