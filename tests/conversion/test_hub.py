"""The converter and the Hub, against a loopback server: what comes over the wire, and how each failure reads.

The client reads its settings while it is imported: conversions run in forks of a process that imported it with them.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import ConversionError, conversion, convert
from checkpoints import POOLER, contents, edit_json, save_lost, save_weights, state, stored, took
from grafting import Conversions, config_of, graft, unprefixed, write_sparse
from hub_server import HubServer
from programs import answer


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the client keeps its cache; each test starts without one."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(server, home):
    with Conversions(**server.environment(home)) as conversions:
        yield conversions


@pytest.fixture
def client(hub, online, place, home):
    """Runs the converter in `place`; other settings of the client than the token take a process of their own."""
    shutil.rmtree(home / "hf-home", ignore_errors=True)

    def run(*args, table=(), token: str | None = None, **settings: str) -> dict:
        order = {
            "cwd": str(place),
            "env": {"HF_TOKEN": token} if token else {},
            "table": [entry if isinstance(entry, list) else [entry, 128, 32, 2] for entry in table],
        }
        if not settings:
            return online.run(*args, "--json", **order)
        with Conversions(**hub.environment(home) | settings) as fresh:
            return fresh.run(*args, "--json", **order)

    return run


@pytest.fixture
def converted(client):
    """A conversion that succeeds; gives its report."""

    def run(*args, **options) -> dict:
        done = client(*args, **options)
        assert done["code"] == 0, done["err"]
        return json.loads(done["out"])

    return run


@pytest.fixture
def refused(client, place):
    """A conversion that is refused in one line, with nothing written; gives the line."""

    def run(*args, **options) -> str:
        before = state(place)
        done = client(*args, **options)
        assert done["code"] == 1, done["err"]
        assert done["err"].count("\n") == 1, done["err"]
        assert state(place) == before
        return done["err"].removeprefix("error: ").rstrip("\n")

    return run


@pytest.fixture(params=["checkpoint", "donor"])
def part(request) -> str:
    """What lies on the Hub."""
    return request.param


@pytest.fixture
def arguments(part):
    """The command line that names a repository as `part`, and a folder as the other one."""

    def of(repo: str = "user/repo", revision: str | None = None) -> list[str]:
        if part == "checkpoint":
            return [repo, "--pooler-from", "donor", *(["--revision", revision] if revision else [])]
        return ["checkpoint", "--pooler-from", repo, *(["--pooler-revision", revision] if revision else [])]

    return of


# --- A donor by byte range -------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_a_donor_is_read_by_byte_range(hub, converted, place, donor):
    """Of its weights: the header's length, the header, two tensors of the pooler, one for the lineage."""
    sha = hub.add_repo("user/donor", donor)
    report = converted("checkpoint", "--pooler-from", "user/donor")
    assert took(place / "checkpoint-pooled", donor)
    assert (report["donor"], report["donor_commit"], report["found_by"]) == ("user/donor", sha, "--pooler-from")
    header = int.from_bytes((donor / "model.safetensors").read_bytes()[:8], "little")
    needed = 8 + header + 4 * (2 * 32 * 32 + 32)
    sent = hub.bytes_sent("model.safetensors")
    assert needed <= sent <= needed + 4 * 32, "the bias may be read once more"
    whole = (donor / "model.safetensors").stat().st_size
    assert sent < whole / 2, "premise: the rest is not needed"


@pytest.mark.parametrize("kind", ["sharded", "saved from BertModel", "float16"])
def test_every_layout_of_a_donor_is_read(kind, hub, converted, place, donor, giver, home):
    tensors = stored(donor)
    if kind == "saved from BertModel":
        tensors = unprefixed(tensors)
    if kind == "float16":
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    save_weights(giver, tensors, shards=3 if kind == "sharded" else 1)
    hub.add_repo("user/donor", giver)
    report = converted("checkpoint", "--pooler-from", "user/donor")
    output = stored(place / "checkpoint-pooled")
    for name in POOLER:
        wanted = stored(donor)[name].half().float() if kind == "float16" else stored(donor)[name]
        assert torch.equal(output[name], wanted)
    assert (report["cast"] is not None) == (kind == "float16")
    assert not list((home / "hf-home").rglob("*.safetensors")), "nothing is downloaded"


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
def test_a_bert_base_donor_costs_less_than_6_megabytes(found, hub, converted, berts):
    """Of 440, everything counted: listings, config, header, lineage, pooler."""
    hub.add_repo("user/donor", berts / "donor")
    named = ["--pooler-from", "user/donor"] if found == "--pooler-from" else []
    report = converted(berts / "lost", "--dry-run", *named, table=[["user/donor", *BERT_BASE]])
    assert (report["donor"], report["lineage_cosine"]) == ("user/donor", 1.0)
    assert hub.bytes_sent() < 6e6
    assert hub.bytes_sent("model.safetensors") > 4.7e6, "premise: two tensors of 2.4 MB were read"


@pytest.mark.parametrize("other", ["stranger", "relative"])
def test_a_further_candidate_costs_less_than_3_megabytes(other, hub, converted, berts, tmp_path):
    """Also one that is related, and only less close."""
    hub.add_repo("user/donor", berts / "donor")
    folder = berts / "stranger"
    if other == "relative":
        folder = tmp_path / "relative"
        write_sparse(folder, conversion.bert.SIZES, pooler=5, lineage=1)
        with (folder / "model.safetensors").open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[conversion.bert.lineage_key(conversion.bert.SIZES)]
            file.seek(8 + length + entry["data_offsets"][0])
            file.write(b"\0" * 400_000)
    hub.add_repo("user/other", folder)
    report = converted(berts / "lost", "--dry-run", table=[["user/other", *BERT_BASE], ["user/donor", *BERT_BASE]])
    assert report["donor"] == "user/donor"
    of_other = sum(request.sent for request in hub.log if "user/other" in request.path)
    assert 2.3e6 < of_other < 3e6
    assert sum(request.sent for request in hub.log if "user/donor" in request.path) < 6e6


@pytest.mark.versions
@pytest.mark.parametrize("found", ["--pooler-from", "table"])
def test_a_cached_donor_costs_nothing(found, hub, converted, berts, home):
    sha = hub.add_repo("user/donor", berts / "donor")
    repo = home / "hf-home" / "hub" / "models--user--donor"
    (repo / "snapshots" / sha).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(sha)
    for file in (berts / "donor").iterdir():
        os.link(file, repo / "snapshots" / sha / file.name)
    named = ["--pooler-from", "user/donor"] if found == "--pooler-from" else []
    report = converted(berts / "lost", "--dry-run", *named, table=[["user/donor", *BERT_BASE]])
    assert (report["donor"], report["donor_commit"]) == ("user/donor", sha)
    assert hub.log == []


def test_several_checkpoints_read_the_donor_once(hub, converted, place, donor):
    hub.add_repo("user/donor", donor)
    converted("checkpoint", "--pooler-from", "user/donor", "--dry-run")
    once = hub.bytes_sent()
    hub.log.clear()
    shutil.copytree(place / "checkpoint", place / "second")
    results = converted("checkpoint", "second", "--pooler-from", "user/donor", "--dry-run")["results"]
    assert [result["status"] for result in results] == ["planned", "planned"]
    pooler = 4 * (32 * 32 + 32)
    assert hub.bytes_sent() <= once + pooler + 4 * 32, "the pooler may be read for each"


# --- Finding on the Hub ----------------------------------------------------------------------------------------------


def test_only_fitting_entries_of_the_table_are_asked_for(hub, converted, place, donor):
    for name in ("right", "larger", "wide"):
        hub.add_repo(f"user/{name}", donor)
    table = ["user/right", ["user/larger", 129, 32, 2], ["user/wide", 128, 64, 2]]
    report = converted("checkpoint", table=table)
    assert took(place / "checkpoint-pooled", donor)
    assert (report["donor"], report["found_by"]) == ("user/right", "the table of well-known BERTs")
    assert not [request.path for request in hub.log if "larger" in request.path or "wide" in request.path]


@pytest.mark.parametrize(
    "name", ["bert-base-chinese", "/data/models/bert-base-chinese", "google-bert/bert-base-chinese"]
)
def test_a_model_is_found_under_its_old_name(name, hub, converted, place, donor):
    """On the Hub the name from before organisations is a redirect; the report and the card give today's."""
    hub.add_repo("google-bert/bert-base-chinese", donor)
    edit_json(place / "checkpoint" / "config.json", _name_or_path=name)
    table = [["google-bert/bert-base-chinese", 21128, 768, 12]]
    report = converted("checkpoint", table=table)
    assert (report["donor"], report["found_by"]) == ("google-bert/bert-base-chinese", "config.json's _name_or_path")
    assert took(place / "checkpoint-pooled", donor)
    card = (place / "checkpoint-pooled" / "README.md").read_text("utf-8")
    assert "base_model: google-bert/bert-base-chinese\n" in card
    assert f"- donor: `google-bert/bert-base-chinese` at commit `{report['donor_commit']}`" in card


def test_a_guess_that_the_hub_does_not_have_is_passed_over(hub, converted, place, donor):
    hub.add_repo("user/right", donor)
    report = converted("checkpoint", table=["user/gone", "user/right"])
    assert report["donor"] == "user/right"
    (note,) = report["notes"]
    assert note.startswith("user/gone: ")


@pytest.mark.versions
def test_a_named_donor_that_has_only_bins_is_downloaded(hub, converted, place, donor, giver):
    save_weights(giver, stored(donor), 3, "bin")
    hub.add_repo("user/bins", giver)
    report = converted("checkpoint", "--pooler-from", "user/bins")
    assert report["donor"] == "user/bins"
    assert took(place / "checkpoint-pooled", donor)
    assert "pytorch_model-00003-of-00003.bin" in {Path(request.path).name for request in hub.log}


def test_a_guess_never_downloads_a_bin(hub, refused, giver):
    save_weights(giver, stored(giver), kind="bin")
    hub.add_repo("user/bins", giver)
    text = refused("checkpoint", table=["user/bins"])
    assert "has only pytorch_model.bin, which is downloaded whole or not at all; if it is the donor: --pooler" in text
    assert not [request.path for request in hub.log if request.path.endswith("pytorch_model.bin")]


@pytest.mark.versions
def test_a_donors_revision_is_taken_and_recorded_as_a_commit(hub, converted, place, donor, stranger):
    sha = hub.add_repo("user/donor", donor)
    hub.add_tag("user/donor", "v1")
    newest = hub.add_repo("user/donor", stranger)
    assert sha != newest, "premise"
    for revision in ("v1", sha):
        report = converted("checkpoint", "--pooler-from", "user/donor", "--pooler-revision", revision, "--overwrite")
        assert report["donor_commit"] == sha
        assert took(place / "checkpoint-pooled", donor)
    source = config_of(place / "checkpoint-pooled")["pooler_source"]
    assert (source["donor"], source["revision"]) == ("user/donor", sha)


# --- A checkpoint on the Hub -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [(1, "safetensors"), (3, "safetensors"), (3, "bin")])
def test_a_checkpoint_on_the_hub_is_converted_as_a_folder_is(layout, hub, converted, place, donor):
    folder = place / "checkpoint"
    save_weights(folder, stored(folder), *layout)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (folder / "optimizer.pt").write_bytes(b"secret")
    sha = hub.add_repo("user/checkpoint", folder)
    report = converted("user/checkpoint", "--pooler-from", donor)
    assert (report["checkpoint"], report["checkpoint_commit"]) == ("user/checkpoint", sha)
    assert report["output"] == "checkpoint-pooled"
    remote = contents(place / "checkpoint-pooled")
    (place / "checkpoint-pooled").rename(place / "remote")
    converted("checkpoint", "--pooler-from", donor)
    assert remote == contents(place / "checkpoint-pooled")
    assert not [request for request in hub.log if request.path.endswith("optimizer.pt")], "it is not fetched either"


def test_a_checkpoints_revision_is_taken(hub, converted, place, donor):
    first = hub.add_repo("user/checkpoint", place / "checkpoint")
    hub.add_tag("user/checkpoint", "v1")
    hub.add_repo("user/checkpoint", {"README.md": b"# Emptied\n"})
    report = converted("user/checkpoint", "--revision", "v1", "--pooler-from", donor)
    assert report["checkpoint_commit"] == first
    assert took(place / "checkpoint-pooled", donor)


@pytest.mark.versions
def test_newer_weights_on_the_hub_are_not_missed(hub, converted, place, donor, tmp_path):
    """The usual order: convert, train on, upload again, convert again."""
    hub.add_repo("user/checkpoint", place / "checkpoint")
    converted("user/checkpoint", "--pooler-from", donor)
    newer = save_lost(tmp_path / "newer", donor, seed=5)
    sha = hub.add_repo("user/checkpoint", newer)
    report = converted("user/checkpoint", "--pooler-from", donor, "--overwrite")
    assert report["checkpoint_commit"] == sha


def test_files_that_a_cache_lacks_are_fetched(hub, converted, place, donor, home):
    """`from_pretrained` leaves a snapshot of config and weights alone: the tokenizer is still on the Hub."""
    hub.add_repo("user/checkpoint", place / "checkpoint")
    client = hub.environment(home)
    answer("hub_client", place, "download", "user/checkpoint", "config.json", "model.safetensors", **client)
    report = converted("user/checkpoint", "--pooler-from", donor)
    assert "vocab.txt" in report["copied"]
    weights = [request for request in hub.log if request.path.endswith("model.safetensors")]
    size = (place / "checkpoint" / "model.safetensors").stat().st_size
    assert sum(request.sent for request in weights) == size, "fetched once"


def test_a_checkpoint_in_the_cache_is_converted_offline(hub, converted, place, donor):
    hub.add_repo("user/checkpoint", place / "checkpoint")
    converted("user/checkpoint", "--pooler-from", donor)
    seen = len(hub.log)
    report = converted("user/checkpoint", "--pooler-from", donor, "--overwrite", HF_HUB_OFFLINE="1")
    assert took(place / "checkpoint-pooled", donor)
    assert "vocab.txt" in report["copied"]
    assert len(hub.log) == seen


# --- Failures --------------------------------------------------------------------------------------------------------


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
def test_access_is_as_the_hub_gives_it(access, part, arguments, hub, converted, refused, place):
    rights, token, message = ACCESS[access]
    hub.add_repo("user/repo", place / part, **rights)
    if message is None:
        assert converted(*arguments(), "--dry-run", token=token)["status"] == "planned"
    else:
        assert refused(*arguments(), token=token) == message.format(repo="user/repo")


def test_a_gated_guess_is_named_and_not_taken(hub, refused, donor):
    hub.add_repo("user/gated", donor, gated=True)
    text = refused("checkpoint", table=["user/gated"])
    assert "no donor found for its pooler" in text
    assert GATED.format(repo="user/gated").removeprefix("user/gated: ") in text


def test_a_gated_donor_that_the_checkpoint_names_is_not_replaced_by_a_guess(hub, refused, place, donor):
    hub.add_repo("user/gated", donor, gated=True)
    hub.add_repo("user/guess", donor)
    edit_json(place / "checkpoint" / "config.json", _name_or_path="user/gated")
    text = refused("checkpoint", table=["user/guess"])
    assert text == GATED.format(repo="user/gated") + (
        " (named by config.json's _name_or_path; to take another: --pooler-from)"
    )


@pytest.mark.parametrize("revision", ["v9", "0" * 40])
def test_a_revision_that_is_not_there_is_refused(revision, arguments, hub, refused, donor):
    hub.add_repo("user/repo", donor)
    assert refused(*arguments(revision=revision)) == "user/repo: the repository on the Hub has no such revision"


@pytest.mark.versions
def test_a_repository_that_is_not_there_is_refused(arguments, refused):
    assert refused(*arguments("user/none")) == PRIVATE.format(repo="user/none")


@pytest.mark.parametrize("name", ["user/--none", "user/a..b", "user/x.git", "user/" + "x" * 100])
def test_what_cannot_be_a_repository_is_refused(name, refused):
    assert (
        refused("checkpoint", "--pooler-from", name) == f"{name}: no such folder, and not a repository id of the Hub"
    )


FILES = {
    "no config": ({"model.safetensors": b"x"}, "user/repo/ (on the Hub): no config.json; copy that of the model"),
    "nothing": ({}, "no config.json"),
    "no weights": ({"config.json": None}, "no weights; expected one of model.safetensors"),
    "truncated": (
        {"config.json": None, "model.safetensors": b"\x10" + b"\0" * 7 + b"{"},
        "truncated, or not safetensors",
    ),
    "another kind": ({"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"x"}, "model_type is 'gpt2'"),
    "an adapter": ({"adapter_config.json": b"{}"}, "a PEFT adapter, not a model; merge it first"),
    "a missing shard": (
        {"config.json": None, "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors"}}'},
        "names the shard model-1.safetensors, which is missing",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_repository_of_something_else_is_refused(kind, arguments, hub, refused, place):
    files, message = FILES[kind]
    config = (place / "checkpoint" / "config.json").read_bytes()
    hub.add_repo("user/repo", {name: config if data is None else data for name, data in files.items()})
    text = refused(*arguments())
    assert text.startswith("user/repo")
    assert message.removeprefix("user/repo/ (on the Hub): ") in text


OFFLINE = (
    "{repo}: no such folder, and not in the local cache, and the Hub is not asked (HF_HUB_OFFLINE is set); unset it, "
    "or run `hf download {repo}` elsewhere and pass the folder"
)


@pytest.mark.versions
def test_offline_and_not_cached_is_refused(arguments, hub, refused, donor):
    hub.add_repo("user/repo", donor)
    assert refused(*arguments(), HF_HUB_OFFLINE="1") == OFFLINE.format(repo="user/repo")
    assert hub.log == []


@pytest.mark.versions
def test_a_hub_that_is_not_there_is_refused(arguments, refused):
    """Its port refuses connections."""
    with HubServer() as gone:
        url = gone.url
    text = refused(*arguments(), HF_ENDPOINT=url)
    assert text.startswith("user/repo: no such folder, ")
    assert "can't be reached" in text or "the Hub failed" in text


@pytest.mark.versions
@pytest.mark.parametrize("after", [0, 1000, 3000])
def test_a_connection_that_is_cut_once_is_taken_up_again(after, hub, converted, place, donor):
    hub.add_repo("user/donor", donor)
    hub.cut_after = after
    converted("checkpoint", "--pooler-from", "user/donor")
    assert hub.cut_after is None, "premise: it was cut"
    assert took(place / "checkpoint-pooled", donor)


@pytest.mark.versions
@pytest.mark.parametrize("after", [0, 3000])
@pytest.mark.parametrize("found", ["--pooler-from", "table", "the checkpoint"])
def test_a_connection_that_is_cut_for_good_is_refused(found, after, hub, refused, place, donor):
    hub.add_repo("user/donor", donor if found != "the checkpoint" else place / "checkpoint")
    hub.cut_after, hub.cut_times = after, 1000
    named = {
        "--pooler-from": ["checkpoint", "--pooler-from", "user/donor"],
        "table": ["checkpoint"],
        "the checkpoint": ["user/donor", "--pooler-from", donor],
    }
    text = refused(*named[found], table=["user/donor"] if found == "table" else [])
    assert hub.cut_times < 1000, "premise: it was cut"
    assert "user/donor: " in text
    assert "the Hub failed (" in text or "can't be reached" in text


# --- Upload ----------------------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_push_uploads_the_output_in_one_commit(hub, converted, place, donor):
    hub.add_repo("base/donor", donor)
    arguments = ["checkpoint", "--pooler-from", "base/donor", "--push-to-hub", "user/rescued"]
    report = converted(*arguments, token=HubServer.TOKEN)
    files = hub.files("user/rescued")
    files.pop(".gitattributes")
    assert files == contents(place / "checkpoint-pooled")
    assert len(hub.commits("user/rescued")) == 2, "the Hub's own first one, and ours"
    last = hub.commits("user/rescued")[-1]
    assert last.title == "BERT with its pooler (base/donor), in the pooled format of bert-pooled-mlm"
    assert report["pushed"] == f"{hub.url}/user/rescued/commit/{last.sha}"
    assert not hub.repos["user/rescued"].private
    card = files["README.md"].decode()
    assert 'AutoModel.from_pretrained("user/rescued", trust_remote_code=True)' in card
    assert "base_model: base/donor\nbase_model_relation: finetune\n" in card


def test_private_makes_the_repository_private(hub, converted, donor):
    arguments = ["checkpoint", "--pooler-from", donor, "--push-to-hub", "user/rescued", "--private"]
    converted(*arguments, token=HubServer.TOKEN)
    assert hub.repos["user/rescued"].private


def test_a_repository_that_exists_gets_one_more_commit(hub, converted, place, donor):
    hub.add_repo("user/rescued", {"notes.txt": b"mine"})
    converted("checkpoint", "--pooler-from", donor, "--push-to-hub", "user/rescued", token=HubServer.TOKEN)
    assert hub.files("user/rescued") == {"notes.txt": b"mine"} | contents(place / "checkpoint-pooled")
    assert len(hub.commits("user/rescued")) == 2


def test_a_name_without_a_user_is_the_users_own(hub, converted, donor):
    report = converted("checkpoint", "--pooler-from", donor, "--push-to-hub", "rescued", token=HubServer.TOKEN)
    assert report["pushed"].startswith(f"{hub.url}/user/rescued/commit/")


@pytest.mark.versions
@pytest.mark.parametrize("why", ["no token", "no right", "the Hub fails"])
def test_an_upload_that_fails_leaves_the_folder_and_says_how_to_go_on(why, hub, client, place, donor):
    hub.refuse_commits = why == "the Hub fails"
    token = {"no token": None, "no right": HubServer.STRANGER, "the Hub fails": HubServer.TOKEN}[why]
    done = client("checkpoint", "--pooler-from", donor, "--push-to-hub", "user/rescued", token=token)
    assert done["code"] == 1
    assert done["err"].count("\n") == 1
    assert done["err"].startswith("error: user/rescued: ")
    again = "checkpoint-pooled is complete; to try the upload again: hf upload user/rescued checkpoint-pooled ."
    assert again in done["err"]
    assert took(place / "checkpoint-pooled", donor)


def test_a_dry_run_uploads_nothing(hub, converted, place, donor):
    report = converted(
        "checkpoint", "--pooler-from", donor, "--push-to-hub", "user/x", "--dry-run", token=HubServer.TOKEN
    )
    assert report["pushed"] is None
    assert hub.log == []


@pytest.mark.versions
def test_what_was_pushed_loads_from_the_hub(hub, converted, place, donor, tmp_path):
    converted("checkpoint", "--pooler-from", donor, "--push-to-hub", "user/rescued", token=HubServer.TOKEN)
    (tmp_path / "elsewhere").mkdir()
    environment = hub.environment(tmp_path / "elsewhere")
    options = json.dumps({"trust_remote_code": True})
    name, missing, pooler, _ = answer("load", tmp_path / "elsewhere", "user/rescued", options, **environment)
    assert (name, missing) == ("BertPooledMLMModel", [])
    assert pooler == [stored(donor)[key].tolist() for key in POOLER]


def test_a_pooled_checkpoint_is_not_pushed_in_silence(lost, donor, tmp_path):
    graft(lost, donor, tmp_path / "out")
    with pytest.raises(ConversionError, match=r"pooled already, nothing was pushed; .*hf upload user/repo "):
        convert(tmp_path / "out", push_to_hub="user/repo", verify=False)
