"""Pushed from the model and loaded by id, by machines that have transformers alone; served by a loopback Hub."""

import shutil

import pytest
from checkpoints import ROOT, answer, run_python
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
if len(sys.argv) > 3:
    masked.push_to_hub(sys.argv[3])
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
    environment = pushed.environment(machine, pushed.TOKEN)
    same, pooler = answer(LOAD, machine, "{}", machine / "trained", "user/trained", **environment)
    assert same
    files = pushed.files("user/trained")
    assert files.keys() >= CODE
    assert all(b"user/pooled" not in files[name] for name in CODE)
    assert b"user/pooled--" not in files["config.json"]
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


PRIVATE = """
import json
from transformers import AutoModel
model = AutoModel.from_pretrained("user/private", trust_remote_code=True)
print(json.dumps(type(model).__name__))
"""


@pytest.mark.versions
def test_a_private_repo_loads_with_a_token_and_says_what_is_missing_without(hub, pooled, tmp_path):
    hub.add_repo("user/private", pooled, private=True)
    assert answer(PRIVATE, tmp_path, **hub.environment(tmp_path, hub.TOKEN)) == "BertPooledMLMModel"
    (tmp_path / "stranger").mkdir()
    done = run_python(PRIVATE, tmp_path / "stranger", **hub.environment(tmp_path / "stranger"))
    assert done.returncode == 1
    assert "OSError: user/private is not a local folder and is not a valid model identifier" in done.stderr
    assert "token" in done.stderr


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
READ_CARD = """
import json, sys
from huggingface_hub import ModelCard
cards = [ModelCard.load(where) for where in sys.argv[1:]]
again = ModelCard(str(cards[0]))
print(json.dumps([
    [card.data.to_dict(), card.data.library_name, card.data.license, card.data.language, card.data.base_model,
     card.data.pipeline_tag, card.data.tags, card.data.eval_results[0].metric_value, card.text]
    for card in (*cards, again)
], default=str))
"""


@pytest.mark.versions
@pytest.mark.parametrize("format", ["pooled", "bert"])
def test_the_card_of_a_pushed_conversion_is_read_whole_by_model_card(format, hub, lost, donor, tmp_path):
    """From the folder, and from the Hub by id; what ModelCard writes of it, it reads the same again."""
    hub.add_repo("base/donor", donor)
    shutil.copytree(lost, tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text(CARD, encoding="utf-8")
    arguments = ["mine", "--pooler-from", "base/donor", "--format", format, "--no-verify"]
    environment = hub.environment(tmp_path, hub.TOKEN)
    program = "import sys; from bert_pooled_mlm.convert import main; sys.exit(main(sys.argv[1:]))"
    done = run_python(program, tmp_path, *arguments, "--push-to-hub", f"user/card-{format}", **environment)
    assert done.returncode == 0, done.stderr
    for data, library, license, language, base, task, tags, metric, text in answer(
        READ_CARD, tmp_path, "mine-pooled/README.md", f"user/card-{format}", **environment
    ):
        assert (library, license, language, base) == ("transformers", "apache-2.0", ["en", "de"], "base/donor")
        assert data["base_model_relation"] == "finetune"
        assert data["datasets"] == ["user/letters"]
        assert task == "feature-extraction"
        assert tags == ["letters", "bert", "bert-pooled-mlm", "sentence-transformers"]
        assert metric == 4.5
        assert text.count("Trained on letters.") == text.count("## The pooler") == 1
        assert ("BertModel.from_pretrained" in text) is (format == "pooled"), "without remote code"
