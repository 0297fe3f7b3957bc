"""Pushed from the model and loaded by id, by a machine that has transformers alone; served by a loopback Hub."""

import pytest
from checkpoints import CODE_FILES, MODULES, ROOT, contents
from hub_server import HubServer
from programs import answer

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


def test_pushed_it_loads_by_id_trains_and_saves_a_folder_that_needs_the_repository_no_more(hub, pooled, tmp_path):
    hub.add_repo("user/private", pooled, private=True)
    (tmp_path / "elsewhere").mkdir()
    arguments = (pooled, tmp_path / "moved", tmp_path / "trained", hub.TOKEN)
    seen = answer("published", tmp_path, *arguments, **hub.environment(tmp_path))
    files = hub.files("user/pooled")
    assert files.keys() >= {*CODE_FILES, "config.json", "model.safetensors", "tokenizer_config.json", "modules.json"}
    assert all(files[name] == (ROOT / name).read_bytes() for name in CODE_FILES)
    assert b"--" not in files["config.json"], "it refers to no other repository"
    # transformers uploads what is new in a folder while it saves there, before `save_pretrained` has returned.
    moved, last = hub.files("user/moved"), contents(tmp_path / "moved")
    assert moved.keys() >= MODULES
    assert all(moved[name] == last[name] for name in ("model.safetensors", *MODULES)), "the second time as well"

    assert seen["same"]
    assert seen["private"] == "BertPooledMLMModel"
    assert seen["private, no token"].startswith("OSError: user/private is not a local folder")
    config = (tmp_path / "trained" / "config.json").read_text()
    assert "user/pooled" not in config.replace('"_name_or_path": "user/pooled"', "")  # which 4.x notes, and never runs
    # Another machine: an empty cache, offline.
    found, installed = answer("every_door", tmp_path / "elsewhere", tmp_path / "trained")
    assert not installed
    name, problems, pooler = found["AutoModel"]
    assert (name, problems) == ("BertPooledMLMModel", {})
    assert pooler["dense.weight"] == seen["pooler"]
