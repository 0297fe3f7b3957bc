"""Uploads: what is looked at first, what is in the one commit, pull requests, and what a failed upload tells."""

import shlex
import shutil

import hub_faults as faults
import pytest
from bert_pooled_mlm import ConversionError, convert
from checkpoints import contents, save_weights, stored
from grafting import graft
from hub_faults import User
from hub_server import HubServer

REPO = "user/rescued"
TIME_LIMITS = {"HF_HUB_DOWNLOAD_TIMEOUT": "2"}


@pytest.fixture
def user(hub, online, lost, tmp_path, home) -> User:
    """In a folder under a name that a shell splits, with a checkpoint in it."""
    shutil.copytree(lost, tmp_path / "my place" / "old ckpt")
    return User(online, tmp_path / "my place", home)


@pytest.fixture
def push(user, donor):
    """Converts and uploads; gives the report."""

    def run(*options, token=HubServer.TOKEN, repo: str = REPO) -> dict:
        return user.report("old ckpt", "--pooler-from", donor, "--push-to-hub", repo, *options, token=token)

    return run


@pytest.fixture
def failed(user, donor):
    """Converts, and fails to upload; the output is complete. Gives the error's line."""

    def run(*options, token=HubServer.TOKEN) -> str:
        done = user.run("old ckpt", "--pooler-from", donor, "--push-to-hub", REPO, *options, token=token)
        assert done["code"] == 1
        *waits, line = done["err"].splitlines()
        assert waits in ([], [line for line in waits if line.startswith("waiting for ")])
        assert stored(user.place / "old ckpt-pooled")
        return line.removeprefix("error: ")

    return run


def output(user: User) -> dict[str, bytes]:
    return contents(user.place / "old ckpt-pooled")


@pytest.mark.versions
def test_push_uploads_the_output_in_one_commit(hub, user, push):
    """(That such a repository loads: test_published.py.)"""
    report = push()
    files = hub.files(REPO)
    files.pop(".gitattributes")
    assert files == output(user)
    assert len(hub.commits(REPO)) == 2, "the Hub's own first one, and ours"
    last = hub.commits(REPO)[-1]
    assert last.title.startswith("BERT with its pooler (")
    assert report["pushed"] == f"{hub.url}/{REPO}/commit/{last.sha}"
    assert not hub.repos[REPO].private
    assert f'AutoModel.from_pretrained("{REPO}", trust_remote_code=True)' in files["README.md"].decode()


def test_a_name_without_a_user_is_the_users_own_and_private_is_private(hub, push):
    assert push("--private", repo="rescued")["pushed"].startswith(f"{hub.url}/{REPO}/commit/")
    assert hub.repos[REPO].private


@pytest.mark.versions
def test_private_to_a_public_repository_publishes_nothing(hub, failed):
    hub.add_repo(REPO, {"notes.txt": b"mine"})
    line = failed("--private")
    assert line.startswith(f"{REPO}: is public, and --private would publish the output; ")
    assert line.endswith("old ckpt-pooled is complete"), "and no command: `hf upload --private` publishes there"
    assert hub.files(REPO) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("options", [[], ["--private"]])
def test_a_private_repository_stays_private_and_the_report_tells(options, hub, push):
    hub.add_repo(REPO, {}, private=True)
    report = push(*options)
    assert hub.repos[REPO].private
    assert report["push_notes"] == ([] if options else ["the repository is private, and stays so"])


OLDER = ("model.safetensors", "pytorch_model.bin")
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
BIN_SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
KEPT = (".gitattributes", "notes.txt", "model.onnx", "tf_model.h5", "model.fp16.safetensors", "sub/model.safetensors",
        "adapter_model.safetensors", "index.json", "other.index.json")  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("shards", [1, 3])
def test_older_weights_are_deleted_in_the_same_commit_and_nothing_else(shards, hub, user, push):
    folder = user.place / "old ckpt"
    save_weights(folder, stored(folder), shards)
    older = [*OLDER, *SHARDS, "model.safetensors.index.json", *BIN_SHARDS, "model-00001-of-00002.safetensors"]
    hub.add_repo(REPO, dict.fromkeys((*older, *KEPT), b"older"))
    report = push()
    written = output(user)
    assert hub.files(REPO) == dict.fromkeys(KEPT, b"older") | written
    assert len(hub.commits(REPO)) == 2, "the older one, and ours"
    stale = sorted(set(older) - set(written))
    assert report["push_notes"] == [f"deleted there, as older weights: {', '.join(stale)}"]
    assert ("model.safetensors" in stale) == (shards == 3), "premise: it would be loaded first"


@pytest.mark.versions
@pytest.mark.parametrize("token", [HubServer.TOKEN, HubServer.STRANGER])
def test_a_pull_request_gives_somebody_elses_repository_its_pooler_back(token, hub, user, push):
    before = {"pytorch_model.bin": b"older", "notes.txt": b"theirs"}
    hub.add_repo("somebody/bert", before)
    report = push("--create-pr", token=token, repo="somebody/bert")
    assert report["pushed"] == f"{hub.url}/somebody/bert/discussions/1"
    assert report["push_notes"] == ["deleted there, as older weights: pytorch_model.bin"]
    assert hub.files("somebody/bert") == before
    assert hub.files("somebody/bert", "refs/pr/1") == {"notes.txt": b"theirs"} | output(user)


def test_a_pull_request_creates_no_repository(hub, failed):
    line = failed("--create-pr")
    assert line.startswith(f"{REPO}: no such repository on the Hub")
    assert line.endswith(f"to try the upload again: hf upload {REPO} 'old ckpt-pooled' . --create-pr")
    assert hub.repos == {}


COMMIT = f"/api/models/{REPO}/commit/main"
OWNER = HubServer.TOKEN
NO_TOKEN = "the Hub wants a token that may write there; set HF_TOKEN or run `hf auth login`"
FAILURES = {
    "no token": (None, None, NO_TOKEN),
    "a bad token": ("hf_bad", None, NO_TOKEN),
    "no right": (HubServer.STRANGER, None, "the token may not write there (You don't have the rights"),
    "a protected branch": (OWNER, faults.status(403, X_Error_Message="No"), "(No); use one that may (HF_TOKEN), or"),
    "over its quota": (OWNER, faults.status(507, X_Error_Message="Full"), "the Hub has no room for it (Full); free"),
    "a commit meanwhile": (OWNER, faults.status(412), "was changed while it was written ("),
    "a Hub that fails": (OWNER, faults.status(500), "answered 500 (Internal Server Error)"),
    "silence": (OWNER, faults.silent, "the Hub is unreachable at {url} (no answer within "),
    "429 for an hour": (OWNER, faults.status(429, Retry_After="3600"), "429 Too Many Requests; wait 3600 s"),
}


@pytest.mark.versions
@pytest.mark.parametrize("kind", FAILURES)
def test_a_failed_upload_is_one_line_and_leaves_the_folder(kind, hub, failed):
    """The cause first, and a command for the shell at the end that uploads the same."""
    token, fault, text = FAILURES[kind]
    hub.add_repo(REPO, {"pytorch_model.bin": b"older"}, private=True)
    if fault is not None:
        hub.fault = faults.only(COMMIT, fault)
    cause, command = failed("--private", token=token).split("; old ckpt-pooled is complete; to try the upload again: ")
    assert cause.startswith(f"{REPO}: ")
    assert text.format(url=hub.url) in cause
    assert shlex.split(command)[:6] == ["hf", "upload", REPO, "old ckpt-pooled", ".", "--private"]
    assert ("--delete=pytorch_model.bin" in command) == (kind not in ("no token", "a bad token", "no right"))
    assert hub.files(REPO) == {"pytorch_model.bin": b"older"}


@pytest.mark.versions
def test_a_file_that_may_not_be_uploaded_is_named_with_its_cause(hub, failed):
    hub.fault = lambda handler: handler.command == "PUT" and faults.status(403)(handler)
    assert "the token may not write there (" in failed()


def test_a_dry_run_uploads_nothing(hub, push):
    assert push("--dry-run")["pushed"] is None
    assert hub.log == []


def test_a_pooled_checkpoint_is_not_pushed_in_silence(lost, donor, tmp_path):
    graft(lost, donor, tmp_path / "out")
    with pytest.raises(ConversionError, match=r"pooled already, so nothing was pushed; .*hf upload user/repo "):
        convert(tmp_path / "out", push_to_hub="user/repo", verify=False)
