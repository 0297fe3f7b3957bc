"""Heads that users put on a converted checkpoint, fine-tuned, saved and opened again, where nothing is installed.

From the pooled format by the stock classes' names and by every Auto class, from the bert format by every Auto class.
All loads are in two fresh processes: one that trains and saves, one that opens what it saved.
"""

import json
import sys

import pytest
import torch
import transformers
from checkpoints import FORMATS, POOLER, stored
from programs import answer, run_python

pytestmark = pytest.mark.versions

# The head, the class by name, its Auto class, what of it is new, and whether it reads the pooler.
HEADS = {
    "sequence": ("BertForSequenceClassification", "AutoModelForSequenceClassification", "classifier.", True),
    "tokens": ("BertForTokenClassification", "AutoModelForTokenClassification", "classifier.", False),
    "answers": ("BertForQuestionAnswering", "AutoModelForQuestionAnswering", "qa_outputs.", False),
    "next sentence": ("BertForNextSentencePrediction", "AutoModelForNextSentencePrediction", "cls.seq_relat", True),
}
LABELS = {
    "sequence": {"labels": [1]},
    "tokens": {"labels": [[-100, 1, 0, 1, -100]]},
    "answers": {"start_positions": [1], "end_positions": [2]},
    "next sentence": {"labels": [1]},
}
CLASSIFIERS = ("pooled sequence Auto", "bert sequence Auto")


def jobs() -> dict[str, tuple[str, str, str]]:
    """Each head by its class's name from pooled, and by its Auto class from either format."""
    by_name = {f"pooled {head}": (head, "pooled", cls) for head, (cls, *_) in HEADS.items()}
    return by_name | {f"{f} {head} Auto": (head, f, auto) for f in FORMATS for head, (_, auto, *_) in HEADS.items()}


def is_ours(name: str) -> bool:
    return name.startswith("pooled") and name.endswith("Auto")


def class_of(name: str) -> str:
    stock = HEADS[jobs()[name][0]][0]
    return stock.replace("Bert", "BertPooledMLM") if is_ours(name) else stock


@pytest.fixture(scope="module")
def trained(converted, tmp_path_factory):
    """The folder of what was trained, and what the process that trained it saw."""
    out = tmp_path_factory.mktemp("trained")
    return out, answer("heads_train", out, converted, out, *map(json.dumps, (jobs(), LABELS)))


@pytest.fixture(scope="module")
def opened(trained, tmp_path_factory):
    todo = {name: (HEADS[head][1], HEADS[head][0], is_ours(name)) for name, (head, *_) in jobs().items()}
    return answer(
        "heads_open", tmp_path_factory.mktemp("elsewhere"), trained[0], json.dumps(todo), json.dumps(CLASSIFIERS)
    )


@pytest.mark.parametrize("name", jobs())
def test_only_the_head_is_new_and_it_trains(name, trained):
    found = trained[1][0][name]
    head = jobs()[name][0]
    assert found["class"] == class_of(name)
    assert found["missing"]
    assert all(key.startswith(HEADS[head][2]) for key in found["missing"])
    assert found["losses"][2] < found["losses"][1] < found["losses"][0]
    assert trained[1][1] is False, "premise: the package had no part in it"


@pytest.mark.parametrize("name", jobs())
def test_a_head_that_reads_the_pooler_trains_the_checkpoints_own(name, trained, converted):
    """Saved with it, and moved a little: three steps of AdamW at 1e-2 are at most 0.03, and some weight decay."""
    head, format, _ = jobs()[name]
    before, after = stored(converted / format), stored(trained[0] / name)
    if not HEADS[head][3]:
        kept = {key for key in {*POOLER} & after.keys() if torch.equal(after[key], before[key])}
        assert kept == ({*POOLER} if is_ours(name) else set()), "stock makes this head without a pooler"
        return
    for key in POOLER:
        assert 0 < (before[key] - after[key]).abs().max() < 0.04


@pytest.mark.parametrize("name", jobs())
def test_what_was_saved_opens_complete_by_name_and_by_auto_class(name, opened):
    by_auto, by_name = opened[0][name]
    assert by_auto == [class_of(name), []]
    assert by_name == [HEADS[jobs()[name][0]][0], []]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_text_classification_pipeline_gives_the_models_probabilities(name, opened):
    cls, difference, scores = opened[1][name]
    ours = name.startswith("pooled")
    assert cls == ("BertPooledMLMForSequenceClassification" if ours else "BertForSequenceClassification")
    assert difference < 1e-6  # the pipeline takes the texts one by one
    assert scores[0] != scores[1]


def test_the_pipeline_says_the_same_of_either_format(opened):
    """The same weights, the same seed of the head, the same training: only the class differs."""
    ours, stock = (opened[1][f"{format} sequence Auto"][2] for format in FORMATS)
    assert ours == pytest.approx([pytest.approx(row, abs=1e-5) for row in stock])


def test_a_stock_head_saved_from_a_pooled_folder_opens_without_trust_remote_code_only(trained, opened):
    """README: it carries our auto_map without our code. `opened` loaded it without trust, by Auto class too."""
    assert not [file for file in trained[1][0]["pooled tokens"]["files"] if file.endswith(".py")]
    config = json.loads((trained[0] / "pooled tokens" / "config.json").read_text("utf-8"))
    assert config["model_type"] == "bert"
    assert "AutoConfig" in config["auto_map"]
    assert "configuration_bert_pooled_mlm.py" in opened[2]


# The question that transformers asks of a folder with code.

QUESTION = "Do you wish to run the custom code? [y/N]"


@pytest.mark.skipif(sys.platform == "win32", reason="transformers asks where it can set an alarm")
def test_without_trust_remote_code_it_asks_and_with_false_it_refuses(converted, tmp_path):
    """The tokenizer has no code of ours: it loads whatever is said. transformers 5.x asks all the same."""
    asks_for_tokenizer = transformers.__version__.startswith("5.")
    answers = "n\n" * asks_for_tokenizer + "n\n" + "y\n" * 3
    done = run_python("heads_ask", tmp_path, converted / "pooled", stdin=answers)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.split("--next--")
    assert [QUESTION in part for part in printed] == [False, asks_for_tokenizer, False, True, True]
    tokenizer_with_false, tokenizer, with_false, with_no, with_yes = json.loads(last)
    assert tokenizer == tokenizer_with_false
    assert tokenizer in ("BertTokenizer", "BertTokenizerFast", "TokenizersBackend")
    assert "`trust_remote_code=True`" in with_false
    assert "`trust_remote_code=True`" in with_no
    assert with_yes == "BertPooledMLMModel"
