"""Pushed from the model and loaded by id, by machines that have transformers alone; served by a loopback Hub."""

import pytest
from checkpoints import ROOT, answer
from hub_server import HubServer

CODE = {"configuration_bert_pooled_mlm.py", "modeling_bert_pooled_mlm.py"}

PUSH = """
import json, sys
from transformers import AutoModelForMaskedLM, AutoTokenizer
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True)
model.push_to_hub("user/pooled")
AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True).push_to_hub("user/pooled")
model.config.push_to_hub("user/pooled")
print(json.dumps(True))
"""
LOAD = """
import json, sys
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer
options = json.loads(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained("user/pooled", trust_remote_code=True, **options)
outputs = []
for _ in range(2):
    model = AutoModel.from_pretrained("user/pooled", trust_remote_code=True, **options).eval()
    outputs.append(model(**tokenizer("word1 word2", return_tensors="pt")).pooler_output)
masked = AutoModelForMaskedLM.from_pretrained("user/pooled", trust_remote_code=True, **options)
loss = masked(**tokenizer("word1 word2", return_tensors="pt"), labels=torch.tensor([[-100, 7, 8, -100]])).loss
loss.backward()
torch.optim.AdamW(masked.parameters(), lr=1e-3).step()
masked.save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
print(json.dumps([torch.equal(*outputs), model.bert.pooler.dense.weight.tolist()]))
"""
RELOAD = """
import json, sys
from transformers import AutoModel
model, info = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, output_loading_info=True)
print(json.dumps([sorted(info["missing_keys"]), model.bert.pooler.dense.weight.tolist()]))
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def pushed(hub, pooled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pusher")
    assert answer(PUSH, folder, pooled, **hub.environment(folder, hub.TOKEN)) is True
    return hub


@pytest.mark.versions
def test_what_the_model_pushes_holds_its_code_and_points_to_it(pushed):
    files = pushed.files("user/pooled")
    assert files.keys() >= {*CODE, "config.json", "model.safetensors", "tokenizer_config.json"}
    assert all(files[name] == (ROOT / name).read_bytes() for name in CODE)
    assert b"--" not in files["config.json"]


@pytest.mark.versions
def test_it_loads_by_id_trains_and_saves_a_folder_that_needs_the_repo_no_more(pushed, pooled, tmp_path):
    machine, elsewhere = tmp_path / "machine", tmp_path / "elsewhere"
    machine.mkdir()
    elsewhere.mkdir()
    environment = pushed.environment(machine)
    same, pooler = answer(LOAD, machine, "{}", machine / "trained", **environment)
    assert same
    assert {path.name for path in (machine / "trained").iterdir()} >= CODE
    config = (machine / "trained" / "config.json").read_text()
    assert "user/pooled" not in config.replace('"_name_or_path": "user/pooled"', "")  # which 4.x notes, and never runs
    # Another machine: an empty cache, offline.
    missing, reloaded = answer(RELOAD, elsewhere, machine / "trained")
    assert missing == []
    assert reloaded == pooler
    # The first machine, offline, from its cache; and pinned to the commit.
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    assert answer(LOAD, machine, "{}", machine / "again", **offline) == [True, pooler]


@pytest.mark.versions
def test_it_loads_by_id_with_revision_and_code_revision_pinned(pushed, tmp_path):
    commit = pushed.commits("user/pooled")[-1].sha
    options = f'{{"revision": "{commit}", "code_revision": "{commit}"}}'
    same, _ = answer(LOAD, tmp_path, options, tmp_path / "trained", **pushed.environment(tmp_path))
    assert same
