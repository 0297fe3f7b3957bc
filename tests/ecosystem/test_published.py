"""Pushed from the model and loaded by id, by machines that have transformers alone; served by a loopback Hub."""

import json
import shutil

import pytest
from checkpoints import CODE_FILES, FORMATS, ROOT
from hub_server import HubServer
from programs import answer, run_python


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def pushed(hub, pooled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pusher")
    assert answer("published_push", folder, pooled, **hub.environment(folder, hub.TOKEN)) is True
    hub.add_repo("user/private", pooled, private=True)
    return hub


@pytest.fixture(scope="module")
def machine(pushed, tmp_path_factory):
    """A machine whose user has a token: its folder, its environment, and what a process that loads by id sees."""
    folder = tmp_path_factory.mktemp("machine")
    environment = pushed.environment(folder, pushed.TOKEN)
    seen = answer("published_load", folder, "{}", folder / "trained", "user/trained", **environment)
    return folder, environment, seen


@pytest.fixture(scope="module")
def stranger(pushed, tmp_path_factory):
    """What a process sees on a machine without a token, with both revisions pinned."""
    folder = tmp_path_factory.mktemp("stranger")
    options = dict.fromkeys(("revision", "code_revision"), pushed.commits("user/pooled")[-1].sha)
    return answer("published_load", folder, json.dumps(options), folder / "trained", **pushed.environment(folder))


@pytest.mark.versions
def test_what_the_model_pushes_holds_its_code_and_points_to_it(pushed):
    files = pushed.files("user/pooled")
    assert files.keys() >= {*CODE_FILES, "config.json", "model.safetensors", "tokenizer_config.json"}
    assert all(files[name] == (ROOT / name).read_bytes() for name in CODE_FILES)
    assert b"--" not in files["config.json"]


@pytest.mark.versions
def test_it_loads_by_id_trains_and_saves_a_folder_that_needs_the_repo_no_more(pushed, machine, tmp_path):
    folder, environment, seen = machine
    assert seen["same"]
    files = pushed.files("user/trained")
    assert files.keys() >= {*CODE_FILES}
    assert all(b"user/pooled" not in files[name] for name in CODE_FILES)
    assert b"user/pooled--" not in files["config.json"]
    assert {path.name for path in (folder / "trained").iterdir()} >= {*CODE_FILES}
    config = (folder / "trained" / "config.json").read_text()
    assert "user/pooled" not in config.replace('"_name_or_path": "user/pooled"', "")  # which 4.x notes, and never runs
    # Another machine: an empty cache, offline.
    found, installed = answer("every_door", tmp_path, folder / "trained")
    assert not installed
    name, problems, pooler = found["AutoModel"]
    assert (name, problems) == ("BertPooledMLMModel", {})
    assert pooler["dense.weight"] == seen["pooler"]
    # The first machine, offline, from its cache.
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    assert answer("published_load", folder, "{}", folder / "again", **offline) == seen


@pytest.mark.versions
def test_it_loads_by_id_with_revision_and_code_revision_pinned(stranger, machine):
    assert stranger["same"]
    assert stranger["pooler"] == machine[2]["pooler"]


@pytest.mark.versions
def test_a_private_repo_loads_with_a_token_and_says_what_is_missing_without(machine, stranger):
    assert machine[2]["private"] == "BertPooledMLMModel"
    message = "OSError: user/private is not a local folder and is not a valid model identifier"
    assert stranger["private"].startswith(message)
    assert "token" in stranger["private"]


# The model card, as the Hub's own client reads it.

CARD = """---
license: apache-2.0
language: [en, de]
datasets: [user/letters]
tags: [letters]
model-index:
- name: mine
  results:
  - task: {type: fill-mask}
    dataset: {name: letters, type: user/letters}
    metrics: [{type: perplexity, value: 4.5}]
---
# Letters

Trained on letters.
"""


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_the_card_of_a_pushed_conversion_is_read_whole_by_model_card(format, hub, lost, donor, tmp_path):
    """From the folder, and from the Hub by id; what ModelCard writes of it, it reads the same again."""
    hub.add_repo("base/donor", donor)
    shutil.copytree(lost, tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text(CARD, encoding="utf-8")
    arguments = ["mine", "--pooler-from", "base/donor", "--format", format, "--no-verify"]
    environment = hub.environment(tmp_path, hub.TOKEN)
    done = run_python(ROOT / "convert.py", tmp_path, *arguments, "--push-to-hub", f"user/card-{format}", **environment)
    assert done.returncode == 0, done.stderr
    for data, library, license, language, base, task, tags, metric, text in answer(
        "published_read_card", tmp_path, "mine-pooled/README.md", f"user/card-{format}", **environment
    ):
        assert (library, license, language, base) == ("transformers", "apache-2.0", ["en", "de"], "base/donor")
        assert data["base_model_relation"] == "finetune"
        assert data["datasets"] == ["user/letters"]
        assert task == "feature-extraction"
        assert tags == ["letters", "bert", "bert-pooled-mlm", "sentence-transformers"]
        assert metric == 4.5
        assert text.count("Trained on letters.") == text.count("## The pooler") == 1
        assert ("BertModel.from_pretrained" in text) is (format == "pooled"), "without remote code"
