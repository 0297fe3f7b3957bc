"""Heads that users put on a converted checkpoint, fine-tuned, saved and opened again, where nothing is installed.

All loads are in two fresh processes: one that trains and saves, one that opens what it saved.
"""

import json

import pytest
import torch
from checkpoints import FORMATS, POOLER, stored
from programs import answer

pytestmark = pytest.mark.versions

# The stock class, its Auto class, what of it is new, and whether it reads the pooler.
HEADS = {
    "sequence": ("BertForSequenceClassification", "AutoModelForSequenceClassification", "classifier.", True),
    "tokens": ("BertForTokenClassification", "AutoModelForTokenClassification", "classifier.", False),
}
LABELS = {"sequence": {"labels": [1]}, "tokens": {"labels": [[-100, 1, 0, 1, -100]]}}
CLASSIFIERS = ("pooled sequence Auto", "bert sequence Auto")
JOBS = {f"{format} {head} Auto": (head, format, auto) for format in FORMATS for head, (_, auto, *_) in HEADS.items()}
JOBS |= {f"pooled {head}": (head, "pooled", cls) for head, (cls, *_) in HEADS.items()}  # by the stock class's name


def is_ours(name: str) -> bool:
    return name.startswith("pooled") and name.endswith("Auto")


def class_of(name: str) -> str:
    stock = HEADS[JOBS[name][0]][0]
    return stock.replace("Bert", "BertPooledMLM") if is_ours(name) else stock


@pytest.fixture(scope="module")
def trained(converted, tmp_path_factory):
    """The folder of what was trained, and what the process that trained it saw."""
    out = tmp_path_factory.mktemp("trained")
    return out, answer("heads_train", out, converted, out, *map(json.dumps, (JOBS, LABELS)))


@pytest.fixture(scope="module")
def opened(trained, tmp_path_factory):
    todo = {name: (HEADS[head][1], HEADS[head][0], is_ours(name)) for name, (head, *_) in JOBS.items()}
    return answer(
        "heads_open", tmp_path_factory.mktemp("elsewhere"), trained[0], json.dumps(todo), json.dumps(CLASSIFIERS)
    )


@pytest.mark.parametrize("name", JOBS)
def test_only_the_head_is_new_it_trains_and_opens_complete(name, trained, opened):
    found, head = trained[1][0][name], JOBS[name][0]
    assert found["class"] == class_of(name)
    assert found["missing"]
    assert all(key.startswith(HEADS[head][2]) for key in found["missing"])
    assert found["losses"][2] < found["losses"][1] < found["losses"][0]
    assert trained[1][1] is False, "premise: the package had no part in it"
    assert opened[0][name] == [[class_of(name), []], [HEADS[head][0], []]]


@pytest.mark.parametrize("name", JOBS)
def test_a_head_that_reads_the_pooler_trains_the_checkpoints_own(name, trained, converted):
    """Saved with it, and moved a little: three steps of AdamW at 1e-2 are at most 0.03, and some weight decay."""
    head, format, _ = JOBS[name]
    before, after = stored(converted / format), stored(trained[0] / name)
    if HEADS[head][3]:
        assert all(0 < (before[key] - after[key]).abs().max() < 0.04 for key in POOLER)
    else:
        kept = {key for key in {*POOLER} & after.keys() if torch.equal(after[key], before[key])}
        assert kept == ({*POOLER} if is_ours(name) else set()), "stock makes this head without a pooler"


def test_the_text_classification_pipeline_gives_the_models_probabilities_the_same_from_either_format(opened):
    """The same weights, the same seed of the head, the same training: only the class differs."""
    found = [opened[1][name] for name in CLASSIFIERS]
    assert [cls for cls, *_ in found] == [class_of(name) for name in CLASSIFIERS]
    assert all(difference < 1e-6 for _, difference, _ in found)  # the pipeline takes the texts one by one
    ours, stock = (scores for *_, scores in found)
    assert ours[0] != ours[1]
    assert ours == pytest.approx([pytest.approx(row, abs=1e-5) for row in stock])


def test_a_stock_head_saved_from_a_pooled_folder_opens_without_trust_remote_code_only(trained, opened):
    """It has our auto_map without our code. `opened` loaded it without trust, by Auto class too."""
    assert not [file for file in trained[1][0]["pooled tokens"]["files"] if file.endswith(".py")]
    config = json.loads((trained[0] / "pooled tokens" / "config.json").read_text("utf-8"))
    assert config["model_type"] == "bert"
    assert "AutoConfig" in config["auto_map"]
    assert "configuration_bert_pooled_mlm.py" in opened[2]
