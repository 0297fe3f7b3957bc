"""A Hub that fails in every way that a network has: one line each, bounded in time and memory, and the cause first."""

import json
import re
import shutil
from pathlib import Path

import hub_faults as faults
import pytest
from bert_pooled_mlm import ConversionError, conversion
from checkpoints import edit_json, save_weights, state, stored
from hub_faults import Converter

TABLE = tuple(f"table/bert-{number}" for number in range(12))
LISTING, WEIGHTS, CONFIG = "/api/models/user/donor", "/model.safetensors", "/config.json"
QUICK = {"HF_HUB_DOWNLOAD_TIMEOUT": "1"}  # seconds


@pytest.fixture(scope="module")
def converter(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converter")
    with Converter(folder, TABLE, **server.environment(folder)) as converter:
        yield converter


@pytest.fixture
def hub(hub, donor):
    """Holds a donor, and has no fault yet."""
    hub.add_repo("user/donor", donor)
    return hub


@pytest.fixture
def place(lost, tmp_path) -> Path:
    """The user's working folder, with a checkpoint in it that names no donor."""
    shutil.copytree(lost, tmp_path / "place" / "checkpoint")
    edit_json(tmp_path / "place" / "checkpoint" / "config.json", "_name_or_path")
    return tmp_path / "place"


@pytest.fixture
def run(converter, place):
    return lambda *argv, **env: converter.run(*argv, cwd=place, **env)


@pytest.fixture
def refusal(run, place):
    """The line in which a donor that the command line names is refused; nothing is written, and nobody waits long."""

    def of(*argv, **env) -> str:
        before = state(place)
        done = run("checkpoint", "--dry-run", *(argv or ("--pooler-from", "user/donor")), **(env or QUICK))
        assert state(place) == before
        assert done.seconds < 15, "a client of two cores with much else to do; a hang lasts for ever"
        assert done.peak < 400, "MB: an endless answer is not read to its end"
        return done.refusal

    return of


# --- What a server can do to a request -------------------------------------------------------------------------------

FAULTS = {
    "silence": (faults.silent, r"the Hub can't be reached at {url} \(no answer within 1 s\)"),
    "a byte now and then": (
        faults.drips,  # before 1.0 the client gives nothing until it has 16 kB
        r"the Hub can't be reached at {url} \((\d+ bytes|no answer) within 1 s\)",
    ),
    "headers, a byte now and then": (faults.drips_headers, r"can't be reached at {url} \(no answer within 1 s\)"),
    "a reset": (faults.reset, r"can't be reached at {url} \(.+\)"),
    "an endless body": (
        faults.endless,
        r"the Hub failed \(it sent more than \d+ bytes\) at {url}; try again",
    ),
    "an endless error": (faults.endless_error, r"the Hub at {url} answered 403 \(Forbidden\)"),
    "redirects in a circle": (
        faults.redirects,
        r"can't be reached at {url} \((Exceeded (maximum|30).* redirects\.?|no answer within 1 s)\)",
    ),
    "a truncated body": (faults.truncated, r"the Hub failed \(.+\) at {url}; try again"),
    "500": (faults.status(500), r"the Hub at {url} answered 500 \(Internal Server Error\); try again later"),
    "503": (faults.status(503), r"the Hub at {url} answered 503 \(Service Unavailable\); try again later"),
    "404 of something else": (faults.status(404), r"the Hub at {url} answered 404 \(Not Found\)"),
    "a file that is gone": (
        faults.status(404, X_Error_Code="EntryNotFound"),
        "a file is missing on the Hub: /.*donor",
    ),
    "a disabled repository": (
        faults.status(403, X_Error_Message="Access to this resource is disabled."),
        r"answered 403 \(Access to this resource is disabled\.\)",
    ),
    "a bad token": (
        faults.status(401, X_Error_Message="Invalid credentials in Authorization header"),
        "the Hub does not know this token; renew HF_TOKEN",
    ),
    "429 for an hour": (
        faults.status(429, Retry_After="3600"),
        r"can't be reached at {url} \(429 Too Many Requests; wait 3600 s\)",
    ),
    "429 without end": (faults.status(429), r"can't be reached at {url} \(429 Too Many Requests\)"),
}


@pytest.mark.versions
@pytest.mark.parametrize("path", [LISTING, WEIGHTS])
@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_of_a_server_is_one_line(kind, path, hub, refusal):
    fault, text = FAULTS[kind]
    hub.fault = faults.only(path, fault)
    line = refusal()
    assert line.startswith("user/donor: ")
    assert re.search(text.format(url=re.escape(hub.url)), line), line
    assert len(line) < 400


ANSWERS = {
    "HTML": (b"<html>Please log in</html>", "is not JSON; is it the Hub, or does a proxy want a login?"),
    "nothing": (b"", "is not JSON"),
    "half of it": (b'{"id": "user/donor", "sha', "is not JSON"),
    "nested too deeply": (b"[" * 100_000, "is not JSON"),
    "a list": (b"[]", "is not the listing of a repository; is it the Hub?"),
    "another thing": (b'{"models": []}', "is not the listing of a repository"),
    "a file of no name": (b'{"id": "user/donor", "sha": "0123456789", "siblings": [{}]}', "lists the file None"),
    "an id that is a path": (b'{"id": "../../x", "sha": "0123456789", "siblings": []}', "is not the listing"),
    "a commit that is a path": (b'{"id": "user/donor", "sha": "../../x", "siblings": []}', "is not the listing"),
    "a size that is none": (
        b'{"id": "user/donor", "sha": "0123456789", "siblings": [{"rfilename": "config.json", "size": "9"}]}',
        "is not the listing",
    ),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_no_listing_is_told_from_one(kind, hub, refusal):
    body, text = ANSWERS[kind]
    hub.fault = faults.only(LISTING, faults.status(200, body))
    assert text in refusal()


@pytest.mark.parametrize("name", ["../config.json", "a/../../config.json", "/etc/passwd", "..\\config.json", 7])
@pytest.mark.parametrize("as_checkpoint", [True, False])
def test_a_listing_that_leads_out_of_the_repository_is_refused(as_checkpoint, name, hub, run, place):
    siblings = [{"rfilename": "config.json", "size": 9}, {"rfilename": name, "size": 9}]
    body = json.dumps({"id": "user/donor", "sha": "0123456789abcdef", "siblings": siblings}).encode()
    hub.fault = faults.only(LISTING, faults.status(200, body))
    done = run("user/donor") if as_checkpoint else run("checkpoint", "--pooler-from", "user/donor")
    assert f"lists the file {name!r}, which lies outside the repository" in done.refusal
    assert [request.path for request in hub.log] == [LISTING]


@pytest.mark.versions
@pytest.mark.parametrize("fault", [faults.ignores_ranges, faults.shifts_ranges])
def test_a_proxy_that_does_not_read_ranges_is_named(fault, hub, refusal, donor):
    hub.fault = fault
    line = refusal()
    assert f"ignores byte ranges) at {hub.url}; try again, or run `hf download user/donor` and pass the folder" in line
    assert "it sent the whole file" in line or "it sent bytes " in line


@pytest.mark.versions
@pytest.mark.parametrize("path", [LISTING, CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", ["503", "a truncated body", "a reset"])
def test_a_fault_that_passes_is_got_over(kind, path, hub, run):
    hub.fault = faults.only(path, faults.times(1, FAULTS[kind][0]))
    assert run("checkpoint", "--dry-run", "--json", "--pooler-from", "user/donor").report["donor"] == "user/donor"


def test_a_listing_without_sizes_will_do(hub, run):
    """As of a mirror that does not know the question."""
    repo = hub.repos["user/donor"]
    names = [{"rfilename": name} for name in repo.at("main").files]
    body = json.dumps({"id": "user/donor", "sha": repo.at("main").sha, "siblings": names}).encode()
    hub.fault = faults.only(LISTING, faults.status(200, body))
    assert run("checkpoint", "--dry-run", "--json", "--pooler-from", "user/donor").report["donor"] == "user/donor"


# --- What is said meanwhile ------------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize("option", [None, "-q", "--json"])
def test_a_long_wait_is_told(option, hub, run):
    hub.fault = faults.only(LISTING, faults.silent)
    options = ["--dry-run", *([option] if option else [])]
    done = run("checkpoint", "--pooler-from", "user/donor", *options, HF_HUB_ETAG_TIMEOUT="3")
    told = [f"waiting for {hub.url}: the files of user/donor (for 1 s more at most)"] if option is None else []
    assert done.err.splitlines()[:-1] == told
    assert "no answer within 3 s" in done.refusal


def test_a_wait_that_the_hub_asks_for_is_told(hub, run):
    hub.fault = faults.only(LISTING, faults.times(1, faults.status(429, Retry_After="2")))
    done = run("checkpoint", "--pooler-from", "user/donor", "--dry-run")
    assert done.code == 0
    assert done.err == f"waiting 2 s, as {hub.url} asks for: the files of user/donor\n"


# --- A Hub that is not there -----------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["silence", "a reset", "429 for an hour"])
def test_a_hub_that_cannot_be_reached_is_asked_once_for_all(kind, hub, run, place):
    """By all candidates and all checkpoints of a call; the next call asks anew."""
    shutil.copytree(place / "checkpoint", place / "second")
    asked = []
    fault, text = FAULTS[kind]
    hub.fault = lambda handler: asked.append(handler.path) or fault(handler)
    done = run("checkpoint", "second", "--dry-run", **QUICK)
    assert done.code == 1
    assert len(set(asked)) == 1
    assert len(asked) <= 3, "attempts"
    cause = re.search(text.format(url=re.escape(hub.url)), done.err)[0]
    first, second = (line for line in done.err.splitlines() if line.startswith("error: "))
    assert first.startswith("error: checkpoint: ")
    assert first.count(cause) == 1
    assert first.endswith("--pooler-from FOLDER. Not looked at: " + ", ".join(TABLE))
    assert second == "error: second: refused for the same reason as checkpoint"
    hub.fault = None
    assert run("checkpoint", "--dry-run", "--pooler-from", "user/donor").code == 0


@pytest.mark.parametrize("mirror", [None, "https://mirror.invalid"])
def test_a_mirror_is_named_the_one_that_is_set_or_the_variable_that_sets_it(mirror, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setattr(conversion.wire, "endpoint", lambda: mirror or "https://huggingface.co")
    if mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror)
    with pytest.raises(ConversionError) as refused, conversion.hub.hub_errors("user/x"):
        raise conversion.wire.Unreachable("no answer within 20 s")
    said = "" if mirror else "; HF_ENDPOINT can name a mirror"
    address = mirror or "https://huggingface.co"
    why = f"the Hub can't be reached at {address} (no answer within 20 s{said})"
    assert str(refused.value) == f"user/x: {why}; try again, or pass a folder"


GONE = {
    "offline": (
        {"HF_HUB_OFFLINE": "1"},
        r"not in the local cache, and the Hub is not asked \(HF_HUB_OFFLINE is set\)",
    ),
    "no such host": (
        {"HF_ENDPOINT": "http://hub.invalid"},
        r"the Hub can't be reached at http://hub.invalid \((.*[Nn]ame.*|.*known.*|.*resol.*)\)",
    ),
    "no TLS there": ({"HF_ENDPOINT": "https"}, r"the Hub can't be reached at https://127.0.0.1:\d+ \(.*SSL.*\)"),
    "no Hub there": (
        {"HF_ENDPOINT": "http://127.0.0.1:9"},
        r"the Hub can't be reached at http://127.0.0.1:9 \(.*refused.*\)",
    ),
    "no address": ({"HF_ENDPOINT": "hub.example"}, r"the Hub can't be reached at hub.example \(.+\)"),
}


@pytest.mark.versions
@pytest.mark.parametrize("kind", GONE)
def test_a_hub_that_is_not_there_is_told_once_with_its_address(kind, hub, place, tmp_path):
    env, cause = GONE[kind]
    if env.get("HF_ENDPOINT") == "https":
        env = {"HF_ENDPOINT": hub.url.replace("http:", "https:")}
    with Converter(place, TABLE, **hub.environment(tmp_path) | env) as converter:
        explicit = converter.run("checkpoint", "--pooler-from", "user/donor", "--dry-run").refusal
        assert re.match(f"user/donor: no such folder, and {cause}; ", explicit), explicit
        guessed = converter.run("checkpoint", "--dry-run").refusal
        assert re.fullmatch(
            f"checkpoint: {cause}; no donor found for its pooler: name a folder with the model that its training "
            f"started from, --pooler-from FOLDER. Not looked at: {', '.join(TABLE)}", guessed), guessed  # fmt: skip
        edit_json(place / "checkpoint" / "config.json", _name_or_path="bert-base-uncased")
        named = converter.run("checkpoint", "--dry-run").refusal
        assert named.endswith("Not looked at: bert-base-uncased"), "as the config spells it"
    assert hub.log == []


# --- A checkpoint on the Hub -----------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["silence", "429 for an hour"])
def test_a_download_that_does_not_come_is_one_line(kind, hub, run, place):
    hub.add_repo("user/checkpoint", place / "checkpoint")
    hub.fault = faults.only(WEIGHTS, FAULTS[kind][0])
    done = run("user/checkpoint", "--pooler-from", "user/donor", "--dry-run", **QUICK)
    assert done.refusal.startswith("user/checkpoint: the Hub ")
    assert done.seconds < 25


PAGES = {
    "{url}/user/checkpoint": "main",
    "{url}/user/checkpoint/": "main",
    "{url}/user/checkpoint/tree/main": "main",
    "{url}/user/checkpoint/tree/v1": "v1",
    "{url}/user/checkpoint/blob/v1/config.json": "v1",
    "https://huggingface.co/user/checkpoint/resolve/v1/config.json?download=true": "v1",
    "huggingface.co/user/checkpoint/discussions": "main",
    "https://hf.co/user/checkpoint#usage": "main",
    "hf://user/checkpoint": "main",
}


@pytest.mark.parametrize("page", PAGES)
def test_a_pasted_page_is_its_repository(page, hub, run, place, lost):
    first = hub.add_repo("user/checkpoint", place / "checkpoint")
    hub.add_tag("user/checkpoint", "v1")
    second = hub.add_repo("user/checkpoint", place / "checkpoint")
    assert first != second, "premise"
    report = run(page.format(url=hub.url), "--pooler-from", f"{hub.url}/user/donor", "--dry-run", "--json").report
    assert (report["checkpoint"], report["donor"]) == ("user/checkpoint", "user/donor")
    assert report["checkpoint_commit"] == {"main": second, "v1": first}[PAGES[page]]
    assert report["output"] == "checkpoint-pooled"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("https://huggingface.co/datasets/user/texts", "not the page of a model on the Hub; pass the model's id"),
        ("https://huggingface.co/", "not the page of a model on the Hub"),
        ("https://example.com/user/checkpoint", "no such folder"),
        ("https://huggingface.co/user/checkpoint/tree/v1", "shows the revision v1, and v2 was asked for"),
    ],
)
def test_a_page_of_something_else_is_told(page, text, hub, run):
    line = run(page, "--revision", "v2", "--dry-run").refusal if "tree" in page else run(page, "--dry-run").refusal
    assert line.startswith(f"{page}: ")
    assert text in line
    assert hub.log == []


def test_only_pooler_from_downloads_a_whole_model(hub, run, place, donor, tmp_path):
    bins = Path(shutil.copytree(donor, tmp_path / "bins"))
    save_weights(bins, stored(donor), kind="bin")
    hub.add_repo("user/bins", bins)
    edit_json(place / "checkpoint" / "config.json", _name_or_path="user/bins")
    line = run("checkpoint", "--dry-run").refusal
    assert "if it is the donor: --pooler-from user/bins" in line
    assert hub.bytes_sent(".bin") == 0
    done = run("checkpoint", "--dry-run", "--json", "--pooler-from", "user/bins")
    assert done.report["found_by"] == "--pooler-from"
    assert hub.bytes_sent(".bin") > 0
