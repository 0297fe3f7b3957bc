"""Uploads: what is looked at first, what goes in one commit, pull requests, and what a refused upload says."""

import os
import shlex
import shutil
from pathlib import Path

import hub_faults as faults
import pytest
from checkpoints import contents, save_weights, stored
from hub_faults import Converter
from hub_server import HubServer

OWNER, STRANGER = {"HF_TOKEN": HubServer.TOKEN}, {"HF_TOKEN": HubServer.STRANGER}
REPO = "user/rescued"


@pytest.fixture(scope="module")
def converter(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converter")
    with Converter(folder, **server.environment(folder)) as converter:
        yield converter


@pytest.fixture
def place(lost, tmp_path) -> Path:
    """The user's working folder, under a name that a shell splits, with a checkpoint in it."""
    shutil.copytree(lost, tmp_path / "my place" / "old ckpt")
    return tmp_path / "my place"


@pytest.fixture
def push(hub, converter, place, donor):
    """Converts and uploads; the checkpoint is `place`'s."""

    def run(*options, env=OWNER, repo: str = REPO):
        command = ("old ckpt", "--pooler-from", donor, "--no-verify", "--json", "--push-to-hub", repo, *options)
        return converter.run(*command, cwd=place, **env)

    return run


def output(place: Path) -> dict[str, bytes]:
    return contents(place / "old ckpt-pooled")


@pytest.mark.versions
def test_private_to_a_public_repository_publishes_nothing(hub, push, place):
    hub.add_repo(REPO, {"notes.txt": b"mine"})
    line = push("--private").refusal
    assert line == (
        f"{REPO}: is public, and --private would publish the output; make it private in its settings, choose another "
        "REPO_ID, or leave out --private. old ckpt-pooled is complete"
    ), "and no command: `hf upload --private` publishes there"
    assert hub.files(REPO) == {"notes.txt": b"mine"}
    assert output(place)


@pytest.mark.parametrize("options", [[], ["--private"]])
def test_a_private_repository_stays_private_and_that_is_said(options, hub, push):
    hub.add_repo(REPO, {}, private=True)
    report = push(*options).report
    assert hub.repos[REPO].private
    assert report["push_notes"] == ([] if options else ["the repository is private, and stays so"])


OLDER = ("model.safetensors", "pytorch_model.bin")
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
BIN_SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
KEPT = (".gitattributes", "notes.txt", "model.onnx", "tf_model.h5", "model.fp16.safetensors", "sub/model.safetensors",
        "adapter_model.safetensors", "index.json", "other.index.json")  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("shards", [1, 3])
def test_older_weights_go_in_the_same_commit_and_nothing_else(shards, hub, push, place):
    folder = place / "old ckpt"
    save_weights(folder, stored(folder), shards)
    older = [*OLDER, *SHARDS, "model.safetensors.index.json", *BIN_SHARDS, "model-00001-of-00002.safetensors"]
    hub.add_repo(REPO, dict.fromkeys((*older, *KEPT), b"older"))
    report = push().report
    written = output(place)
    assert hub.files(REPO) == dict.fromkeys(KEPT, b"older") | written
    assert len(hub.commits(REPO)) == 2, "the older one, and ours"
    stale = sorted(set(older) - set(written))
    assert report["push_notes"] == [f"deleted there, as older weights: {', '.join(stale)}"]
    assert ("model.safetensors" in stale) == (shards == 3), "premise: it would be loaded first"


@pytest.mark.versions
@pytest.mark.parametrize("env", [OWNER, STRANGER])
def test_a_pull_request_gives_somebody_elses_repository_its_pooler_back(env, hub, push, place):
    before = {"pytorch_model.bin": b"older", "notes.txt": b"theirs"}
    hub.add_repo("somebody/bert", before)
    report = push("--create-pr", env=env, repo="somebody/bert").report
    assert report["pushed"] == f"{hub.url}/somebody/bert/discussions/1"
    assert report["push_notes"] == ["deleted there, as older weights: pytorch_model.bin"]
    assert hub.files("somebody/bert") == before
    assert hub.files("somebody/bert", "refs/pr/1") == {"notes.txt": b"theirs"} | output(place)


@pytest.mark.versions
def test_a_pull_request_creates_no_repository(hub, push):
    line = push("--create-pr").refusal
    assert line.startswith(f"{REPO}: no such repository on the Hub")
    assert line.endswith(f"to try the upload again: hf upload {REPO} 'old ckpt-pooled' . --create-pr")
    assert hub.repos == {}


@pytest.mark.parametrize("option", ["--private", "--create-pr"])
def test_upload_options_need_an_upload(option, converter, place):
    done = converter.run("old ckpt", option, cwd=place)
    assert done.code == 2
    assert f"{option} needs --push-to-hub REPO_ID" in done.err


COMMIT = f"/api/models/{REPO}/commit/main"
REFUSALS = {
    "no token": ({}, None, "the Hub wants a token that may write there; set HF_TOKEN or run `hf auth login`"),
    "a bad token": ({"HF_TOKEN": "hf_bad"}, None, "the Hub wants a token that may write there; set HF_TOKEN"),
    "no right": (STRANGER, None, "the token may not write there (You don't have the rights to create a model under"),
    "a protected branch": (
        OWNER,
        faults.status(403, X_Error_Message="The branch is protected"),
        "the token may not write there (The branch is protected); use one that may (HF_TOKEN), or offer the output as "
        "a pull request: --create-pr",
    ),
    "no room": (OWNER, faults.status(413), "the Hub has no room for it (Request Entity Too Large)"),
    "over its quota": (
        OWNER,
        faults.status(507, X_Error_Message="Storage limit reached"),
        "the Hub has no room for it (Storage limit reached); free some storage there, or push elsewhere",
    ),
    "a commit meanwhile": (
        OWNER,
        faults.status(412, X_Error_Message="A commit has happened since"),
        "was changed while it was written (A commit has happened since)",
    ),
    "a request that it does not understand": (
        OWNER,
        faults.status(400, X_Error_Message="Bad README"),
        "answered 400 (Bad README)",
    ),
    "silence": (OWNER | {"HF_HUB_DOWNLOAD_TIMEOUT": "1"}, faults.silent, "the Hub failed (timed out) at {url}"),
    "a byte now and then": (
        OWNER | {"HF_HUB_DOWNLOAD_TIMEOUT": "1"},
        faults.drips,
        "the Hub failed (no answer within ",
    ),
    "429 for an hour": (
        OWNER,
        faults.status(429, Retry_After="3600"),
        "(Too Many Requests",
    ),
}


@pytest.mark.versions
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_upload_is_one_line_and_leaves_the_folder(kind, hub, push, place):
    """The cause first, and a command for the shell at the end that uploads the same."""
    env, fault, text = REFUSALS[kind]
    hub.add_repo(REPO, {"pytorch_model.bin": b"older"}, private=True)
    if fault is not None:
        hub.fault = faults.only(COMMIT, fault)
    done = push("--private", env=env)
    cause, command = done.refusal.split(". old ckpt-pooled is complete; to try the upload again: ")
    assert cause.startswith(f"{REPO}: ")
    assert text.format(url=hub.url) in cause.replace("Content Too Large", "Request Entity Too Large")
    assert shlex.split(command)[:6] == ["hf", "upload", REPO, "old ckpt-pooled", ".", "--private"]
    assert ("--delete=pytorch_model.bin" in command) == (kind not in ("no token", "a bad token", "no right"))
    assert hub.files(REPO) == {"pytorch_model.bin": b"older"}
    assert output(place)
    assert done.seconds < 60


@pytest.mark.versions
def test_a_refused_upload_of_one_file_says_why(hub, push):
    hub.fault = lambda handler: handler.command == "PUT" and faults.status(403)(handler)
    assert "the token may not write there (" in push().refusal


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_a_folder_that_looks_like_an_option_is_uploaded_by_the_printed_command(hub, converter, place, donor):
    command = ["old ckpt", "-o=-x", "--pooler-from", donor, "--no-verify", "--push-to-hub", REPO]
    assert f"hf upload {REPO} ./-x ." in converter.run(*command, cwd=place).refusal
