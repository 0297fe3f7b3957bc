"""A Hub that fails: each kind of failure is one line, it is not asked again, and nobody waits for long."""

import re
import shutil

import hub_faults as faults
import pytest
from bert_pooled_mlm import ConversionError, conversion
from checkpoints import edit_json
from grafting import Conversions
from hub_faults import User

TABLE = tuple(f"table/bert-{number}" for number in range(12))
LISTING, WEIGHTS = "/api/models/user/donor", "/model.safetensors"
TIME_LIMITS = {"HF_HUB_ETAG_TIMEOUT": "3", "HF_HUB_DOWNLOAD_TIMEOUT": "3"}  # seconds; more than PATIENCE


@pytest.fixture(autouse=True)
def donor_repo(hub, donor) -> None:
    hub.add_repo("user/donor", donor)


NAMED = ("checkpoint", "--pooler-from", "user/donor", "--dry-run")
SILENT = r"the Hub is unreachable at {url} \(no answer within 3 s\)"
FAULTS = {
    "silence": (faults.silent, SILENT),
    "a login's page": (faults.status(200, b"<html>Log in</html>"), r"the Hub failed at {url} \(|sent 19 bytes"),
    "a reset": (faults.reset, r"the Hub failed at {url} \(.+\); try again, or run `hf download user/donor`"),
    "redirects in a circle": (
        lambda handler: faults.status(307, Location=handler.path)(handler),
        r"the Hub failed at {url} \(Exceeded .* redirects\.?\)",
    ),
    "503": (faults.status(503), r"the Hub at {url} answered 503 \(Service Unavailable\); try again later"),
    "404 of something else": (
        faults.status(404),
        r"the Hub at {url} answered 404 \(Not Found\)|is missing on the Hub",
    ),
    "a file that is gone": (faults.status(404, X_Error_Code="EntryNotFound"), r"is missing on the Hub: \S*user/donor"),
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
        r"the Hub is unreachable at {url} \(429 Too Many Requests; wait 3600 s\)",
    ),
    "429 without end": (faults.status(429), r"answered 429 \(Too Many Requests\)"),
}


@pytest.mark.versions
@pytest.mark.parametrize("path", [LISTING, WEIGHTS])
@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_of_a_server_is_one_line(kind, path, hub, user):
    fault, text = FAULTS[kind]
    hub.fault = faults.only(path, fault)
    line = user.error(*NAMED)
    assert line.startswith("user/donor")
    assert re.search(text.format(url=re.escape(hub.url)), line), line
    assert len(line) < 400


@pytest.mark.versions
def test_a_proxy_that_ignores_ranges_is_named(hub, user, donor):
    hub.fault = faults.ignores_ranges
    size = (donor / "model.safetensors").stat().st_size
    line = user.error(*NAMED)
    assert line.startswith(f"user/donor/model.safetensors (on the Hub): sent {size} bytes for a range of 8")


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["503", "a reset", 0, 3000])
def test_a_fault_that_passes_is_overcome(kind, hub, user):
    """A number: the connection is cut after so many bytes."""
    if kind in FAULTS:
        hub.fault = faults.only(WEIGHTS, faults.times(1, FAULTS[kind][0]))
    else:
        hub.cut_after = kind
    assert user.report(*NAMED)["donor"] == "user/donor"
    assert hub.cut_after is None, "premise: it was cut"


@pytest.mark.versions
@pytest.mark.parametrize("found", ["--pooler-from", "table", "the checkpoint"])
def test_a_connection_that_is_cut_for_good_is_one_line(found, hub, user, place):
    hub.add_repo("user/checkpoint", place / "checkpoint")
    hub.cut_after, hub.cut_times = 0, 1000
    named = {"--pooler-from": NAMED, "table": ["checkpoint"], "the checkpoint": ["user/checkpoint", *NAMED[1:]]}
    text = user.error(*named[found], table=["user/donor"] if found == "table" else [])
    assert hub.cut_times < 1000, "premise: it was cut"
    assert "the Hub failed at" in text


# --- A Hub that does not answer --------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["silence", "429 for an hour"])
def test_a_hub_that_is_unreachable_is_asked_once_for_all(kind, hub, user, place):
    """By all candidates and all checkpoints of a call; the next call asks anew."""
    shutil.copytree(place / "checkpoint", place / "second")
    asked = []
    fault, text = FAULTS[kind]
    hub.fault = lambda handler: asked.append(handler.path) or fault(handler)
    done = user.run("checkpoint", "second", "--dry-run", table=TABLE)
    assert (done["code"], len(asked)) == (1, 1)
    cause = re.search(text.format(url=re.escape(hub.url)), done["err"])[0]
    first, second = (line for line in done["err"].splitlines() if line.startswith("error: "))
    assert first.startswith("error: checkpoint: ")
    assert first.count(cause) == 1
    assert f"not looked at: {', '.join(TABLE)}" in first
    assert second == "error: second: not converted for the same reason as checkpoint"
    assert done["seconds"] < 20, "a client of two cores with much else to do"
    hub.fault = None
    assert user.run(*NAMED)["code"] == 0


@pytest.mark.parametrize("option", [None, "-q", "--json"])
def test_a_long_wait_is_told(option, hub, user):
    hub.fault = faults.only(LISTING, faults.silent)
    done = user.run(*NAMED, *([option] if option else []))
    told = [f"waiting for {hub.url}: the files of user/donor"] if option is None else []
    assert done["err"].splitlines()[:-1] == told


@pytest.mark.parametrize("mirror", [None, "https://mirror.invalid"])
def test_the_mirror_is_named_or_the_variable_that_sets_one(mirror, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror)
    monkeypatch.setattr(conversion.hub, "endpoint", lambda: mirror or "https://huggingface.co")
    with pytest.raises(ConversionError) as error, conversion.hub.hub_errors("user/x"):
        raise conversion.hub.Unreachable("no answer within 20 s")
    assert ("HF_ENDPOINT can name a mirror" in str(error.value)) == (mirror is None)


GONE = {
    "no such host": (
        "http://hub.invalid",
        r"the Hub is unreachable at http://hub.invalid \((.*[Nn]ame.*|.*resol.*)\)",
    ),
    "no TLS there": ("https", r"the Hub is unreachable at https://127.0.0.1:\d+ \(.*SSL.*\)"),
    "no Hub there": ("http://127.0.0.1:9", r"the Hub is unreachable at http://127.0.0.1:9 \(.*refused.*\)"),
    "no address": ("hub.example", r"the Hub failed at hub.example \(.+\)"),
}


@pytest.mark.versions
@pytest.mark.parametrize("kind", GONE)
def test_a_hub_that_is_not_there_is_told_once_with_its_address(kind, hub, place, home):
    url, cause = GONE[kind]
    url = hub.url.replace("http:", "https:") if url == "https" else url
    with Conversions(**hub.environment(home) | {"HF_ENDPOINT": url}) as conversions:
        user = User(conversions, place, home)
        explicit = user.error(*NAMED)
        assert re.match(f"user/donor: no such folder, and {cause}; ", explicit), explicit
        guessed = user.error("checkpoint", table=TABLE)
        assert len(re.findall(cause, guessed)) == 1, guessed
        edit_json(place / "checkpoint" / "config.json", _name_or_path="user/named")
        named = user.error("checkpoint", table=TABLE)
        assert "user/named" in named
        assert TABLE[0] not in named, "no guess where the checkpoint names its origin"
