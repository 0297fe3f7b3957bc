"""The converter and a Hub that works, against a loopback server: what is found there, and how much is downloaded."""

import os
from pathlib import Path

import pytest
from bert_pooled_mlm import conversion
from checkpoints import contents, edit_json, save_lost, save_weights, stored, took
from grafting import Conversions, config_of, write_sparse
from hub_faults import User
from hub_server import HubServer
from programs import run_python


@pytest.fixture(params=["checkpoint", "donor"])
def arguments(request):
    """The command line that names a repository as the checkpoint or the donor, and a folder as the other one."""

    def of(repo: str = "user/repo", revision: str | None = None) -> list[str]:
        if request.param == "checkpoint":
            return [repo, "--pooler-from", "donor", *(["--revision", revision] if revision else [])]
        return ["checkpoint", "--pooler-from", repo, *(["--pooler-revision", revision] if revision else [])]

    return of


# --- A donor by byte range -------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_a_donor_is_read_by_byte_range(hub, user, place, donor):
    """Of its weights: the header's length, the header, two tensors of the pooler, one for the lineage."""
    sha = hub.add_repo("user/donor", donor)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (place / "checkpoint" / name).unlink()
    report = user.report("checkpoint", "--pooler-from", "user/donor")
    assert took(place / "checkpoint-pooled", donor)
    assert (report["donor"], report["donor_commit"], report["found_by"]) == ("user/donor", sha, "--pooler-from")
    header = int.from_bytes((donor / "model.safetensors").read_bytes()[:8], "little")
    needed = 8 + header + 4 * (2 * 32 * 32 + 32)
    sent = hub.bytes_sent("model.safetensors")
    assert needed <= sent <= needed + 4 * 32, "the bias may be read once more"
    assert sent < (donor / "model.safetensors").stat().st_size / 2, "premise: the rest is not needed"
    assert 0 < hub.bytes_sent("vocab.txt") < 4096, "the checkpoint has no tokenizer"
    assert (place / "checkpoint-pooled" / "vocab.txt").read_bytes() == (donor / "vocab.txt").read_bytes()


@pytest.mark.versions
def test_of_a_donor_in_shards_the_headers_and_three_tensors_are_downloaded(hub, user, place, donor, giver):
    save_weights(giver, stored(donor), 5)
    hub.add_repo("user/donor", giver)
    assert user.report("checkpoint", "--pooler-from", "user/donor")["donor"] == "user/donor"
    assert took(place / "checkpoint-pooled", donor)
    heads = [8 + int.from_bytes(file.read_bytes()[:8], "little") for file in giver.glob("*.safetensors")]
    needed = sum(heads) + 4 * (2 * 32 * 32 + 32)
    assert needed <= hub.bytes_sent(".safetensors") <= needed + 4 * 32, "as above"


BERT_BASE = (30522, 768, 12)


@pytest.fixture(scope="module")
def berts(tmp_path_factory) -> Path:
    """Three checkpoints of 440 MB: one without its pooler, the donor of it, and a stranger of the same shape."""
    folder = tmp_path_factory.mktemp("bert-base")
    write_sparse(folder / "lost", conversion.bert.SIZES, pooler=None, lineage=1)
    write_sparse(folder / "donor", conversion.bert.SIZES, pooler=2, lineage=1)
    write_sparse(folder / "stranger", conversion.bert.SIZES, pooler=3, lineage=4)
    assert (folder / "donor" / "model.safetensors").stat().st_size > 437e6, "premise: bert-base's size"
    assert (folder / "donor" / "model.safetensors").stat().st_blocks * 512 < 20e6, "premise: most of it are holes"
    return folder


@pytest.mark.versions
@pytest.mark.parametrize("found", ["--pooler-from", "table"])
def test_a_bert_base_donor_costs_less_than_6_megabytes(found, hub, user, berts):
    """Of 440, everything counted: listings, config, header, lineage, pooler."""
    hub.add_repo("user/donor", berts / "donor")
    named = ["--pooler-from", "user/donor"] if found == "--pooler-from" else []
    report = user.report(berts / "lost", "--dry-run", *named, table=[["user/donor", *BERT_BASE]])
    assert (report["donor"], report["lineage_cosine"]) == ("user/donor", 1.0)
    assert hub.bytes_sent() < 6e6
    assert hub.bytes_sent("model.safetensors") > 4.7e6, "premise: two tensors of 2.4 MB were read"


def test_a_further_candidate_costs_less_than_3_megabytes(hub, user, berts):
    hub.add_repo("user/donor", berts / "donor")
    hub.add_repo("user/other", berts / "stranger")
    report = user.report(berts / "lost", "--dry-run", table=[["user/other", *BERT_BASE], ["user/donor", *BERT_BASE]])
    assert report["donor"] == "user/donor"
    assert 2.3e6 < sum(request.sent for request in hub.log if "user/other" in request.path) < 3e6
    assert sum(request.sent for request in hub.log if "user/donor" in request.path) < 6e6


@pytest.mark.versions
def test_a_cached_donor_costs_nothing(hub, user, berts, home):
    sha = hub.add_repo("user/donor", berts / "donor")
    repo = home / "hf-home" / "hub" / "models--user--donor"
    (repo / "snapshots" / sha).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(sha)
    for file in (berts / "donor").iterdir():
        os.link(file, repo / "snapshots" / sha / file.name)
    report = user.report(berts / "lost", "--dry-run", table=[["user/donor", *BERT_BASE]])
    assert (report["donor"], report["donor_commit"]) == ("user/donor", sha)
    assert hub.log == []


# --- Finding on the Hub ----------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_only_pooler_from_downloads_a_whole_model(hub, user, place, donor, giver):
    save_weights(giver, stored(donor), 3, "bin")
    hub.add_repo("user/bins", giver)
    text = user.error("checkpoint", table=["user/bins"])
    assert "has only pytorch_model.bin.index.json, which can't be downloaded in part" in text
    assert hub.bytes_sent(".bin") == 0
    report = user.report("checkpoint", "--pooler-from", "user/bins")
    assert report["donor"] == "user/bins"
    assert took(place / "checkpoint-pooled", donor)


@pytest.mark.versions
def test_a_donors_revision_is_taken_and_recorded_as_a_commit(hub, user, place, donor, stranger):
    sha = hub.add_repo("user/donor", donor)
    hub.add_tag("user/donor", "v1")
    assert sha != hub.add_repo("user/donor", stranger), "premise"
    for revision in ("v1", sha):
        report = user.report("checkpoint", "--pooler-from", "user/donor", "--pooler-revision", revision, "--overwrite")
        assert report["donor_commit"] == sha
        assert took(place / "checkpoint-pooled", donor)
    source = config_of(place / "checkpoint-pooled")["pooler_source"]
    assert (source["donor"], source["revision"]) == ("user/donor", sha)


# --- A checkpoint on the Hub -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [(1, "safetensors"), (3, "safetensors"), (3, "bin")])
def test_a_checkpoint_on_the_hub_is_converted_as_a_folder_is(layout, hub, user, place, donor):
    folder = place / "checkpoint"
    save_weights(folder, stored(folder), *layout)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (folder / "optimizer.pt").write_bytes(b"secret")
    sha = hub.add_repo("user/checkpoint", folder)
    report = user.report("user/checkpoint", "--pooler-from", donor)
    assert (report["checkpoint"], report["checkpoint_commit"]) == ("user/checkpoint", sha)
    assert report["output"] == "checkpoint-pooled"
    remote = contents(place / "checkpoint-pooled")
    (place / "checkpoint-pooled").rename(place / "remote")
    user.report("checkpoint", "--pooler-from", donor)
    assert remote == contents(place / "checkpoint-pooled")
    assert not [request for request in hub.log if request.path.endswith("optimizer.pt")]


@pytest.mark.versions
def test_the_revision_and_newer_weights_of_a_checkpoint_are_not_missed(hub, user, place, donor, tmp_path):
    """The usual order: convert, train on, upload again, convert again."""
    first = hub.add_repo("user/checkpoint", place / "checkpoint")
    hub.add_tag("user/checkpoint", "v1")
    assert user.report("user/checkpoint", "--pooler-from", donor)["checkpoint_commit"] == first
    sha = hub.add_repo("user/checkpoint", save_lost(tmp_path / "newer", donor, seed=5))
    for revision, commit in (([], sha), (["--revision", "v1"], first)):
        report = user.report("user/checkpoint", *revision, "--pooler-from", donor, "--overwrite")
        assert report["checkpoint_commit"] == commit


def test_files_that_a_cache_lacks_are_downloaded(hub, user, place, donor, home):
    """`from_pretrained` leaves a snapshot of config and weights alone: the tokenizer is still on the Hub."""
    hub.add_repo("user/checkpoint", place / "checkpoint")
    code = "from huggingface_hub import snapshot_download as get; get('user/checkpoint', allow_patterns=['[cm]o*'])"
    assert run_python(code, place, **hub.environment(home)).returncode == 0
    size = (place / "checkpoint" / "model.safetensors").stat().st_size
    assert (hub.bytes_sent("model.safetensors"), hub.bytes_sent("vocab.txt")) == (size, 0), "premise"
    assert "vocab.txt" in user.report("user/checkpoint", "--pooler-from", donor)["copied"]
    assert hub.bytes_sent("model.safetensors") == size, "downloaded once"


@pytest.mark.versions
def test_offline_only_the_cache_is_used(hub, user, place, donor, home):
    hub.add_repo("user/checkpoint", place / "checkpoint")
    user.report("user/checkpoint", "--pooler-from", donor)
    seen = len(hub.log)
    with Conversions(**hub.environment(home) | {"HF_HUB_OFFLINE": "1"}) as conversions:
        offline = User(conversions, place)
        report = offline.report("user/checkpoint", "--pooler-from", donor, "--overwrite")
        assert "vocab.txt" in report["copied"]
        for argv in (["user/other"], ["checkpoint", "--pooler-from", "user/other", "-o", "out"]):
            line = offline.error(*argv)
            assert line.startswith("user/other: no such folder, and not in the local cache, and the Hub is not asked")
    assert len(hub.log) == seen


PAGES = {
    "{url}/user/checkpoint/": "main",
    "{url}/user/checkpoint/tree/v1": "v1",
    "https://huggingface.co/user/checkpoint/resolve/v1/config.json?download=true": "v1",
    "huggingface.co/user/checkpoint/discussions": "main",
    "https://hf.co/user/checkpoint#usage": "main",
    "hf://user/checkpoint": "main",
}


@pytest.mark.parametrize("page", PAGES)
def test_a_pasted_page_is_its_repository(page, hub, user, place, donor):
    hub.add_repo("user/donor", donor)
    first = hub.add_repo("user/checkpoint", place / "checkpoint")
    hub.add_tag("user/checkpoint", "v1")
    second = hub.add_repo("user/checkpoint", place / "checkpoint")
    assert first != second, "premise"
    report = user.report(page.format(url=hub.url), "--pooler-from", f"{hub.url}/user/donor", "--dry-run")
    assert (report["checkpoint"], report["donor"]) == ("user/checkpoint", "user/donor")
    assert report["checkpoint_commit"] == {"main": second, "v1": first}[PAGES[page]]
    assert report["output"] == "checkpoint-pooled"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("https://huggingface.co/datasets/user/texts", "not the page of a model on the Hub; pass the model's id"),
        ("https://example.com/user/checkpoint", "no such folder"),
        ("https://huggingface.co/user/checkpoint/tree/v1", "shows the revision v1, and v2 was asked for"),
    ],
)
def test_a_page_of_something_else_is_rejected(page, text, hub, user):
    line = user.error(page, *(["--revision", "v2"] if "tree" in page else []), "--dry-run")
    assert line.startswith(f"{page}: ")
    assert text in line
    assert hub.log == []


# --- What is not there, and what may not be read ---------------------------------------------------------------------


GATED = r"{repo}: gated on the Hub; accept its terms on its page, then set HF_TOKEN or run `hf auth login`"
PRIVATE = (
    r"{repo}: no such folder, and no such repository on the Hub (a private one needs HF_TOKEN or `hf auth login`)"
)
ACCESS = {
    "private, no token": ({"private": True}, None, PRIVATE),
    "private, a stranger's token": ({"private": True}, HubServer.STRANGER, PRIVATE),
    "gated, no token": ({"gated": True}, None, GATED),
    "gated, a stranger's token": ({"gated": True}, HubServer.STRANGER, GATED),
    "private, the owner's token": ({"private": True}, HubServer.TOKEN, None),
    "gated, the owner's token": ({"gated": True}, HubServer.TOKEN, None),
}


@pytest.mark.versions
@pytest.mark.parametrize("access", ACCESS)
def test_access_is_as_the_hub_gives_it(access, arguments, hub, user, place):
    rights, token, message = ACCESS[access]
    hub.add_repo("user/repo", place / ("checkpoint" if arguments()[0] == "user/repo" else "donor"), **rights)
    if message is None:
        assert user.report(*arguments(), "--dry-run", token=token)["status"] == "planned"
    else:
        assert user.error(*arguments(), token=token) == message.format(repo="user/repo")


def test_a_gated_donor_that_the_checkpoint_names_is_not_replaced_by_a_guess(hub, user, place, donor):
    hub.add_repo("user/gated", donor, gated=True)
    hub.add_repo("user/guess", donor)
    edit_json(place / "checkpoint" / "config.json", _name_or_path="user/gated")
    named = " (named by config.json's _name_or_path; to take another donor: --pooler-from)"
    assert user.error("checkpoint", table=["user/guess"]) == GATED.format(repo="user/gated") + named


@pytest.mark.versions
def test_a_repository_or_a_revision_that_is_not_there_is_one_line(arguments, hub, user, donor):
    hub.add_repo("user/repo", donor)
    assert user.error(*arguments("user/none")) == PRIVATE.format(repo="user/none")
    missing = "user/repo: the repository on the Hub has no such revision"
    assert user.error(*arguments(revision="v9")) == missing
    for name in ("user/--none", "user/x.git", "user/" + "x" * 100):
        assert user.error(*arguments(name)) == f"{name}: no such folder, and not a repository id of the Hub"
