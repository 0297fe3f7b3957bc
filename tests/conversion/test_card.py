"""The model card: metadata in, section out."""

import re
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import __version__
from grafting import graft, refused
from huggingface_hub import ModelCard, metadata_load


def card_of(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text("utf-8"))


def test_the_card_states_where_the_pooler_came_from(rescued, report, donor):
    card = card_of(rescued)
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["bert", "bert-pooled-mlm", "sentence-transformers"],
    }
    assert f"- donor: `{donor.name}`" in card.text
    for name, digest in report.grafted.items():
        assert f"- sha256 of `{name}`: `{digest}`" in card.text
    assert f"bert-pooled-mlm {__version__}" in card.text
    assert "\n\n\n" not in card.text
    remote = rescued.name == "pooled"
    assert (f'AutoModel.from_pretrained("{rescued.name}", trust_remote_code=True)' in card.text) == remote
    assert ("Apache-2.0" in card.text) == remote, "the licence of the code files"


@pytest.mark.versions
def test_the_cards_lines_run(rescued, donor, monkeypatch):
    """Vectors, filled masks, and the model to train on, whose pooler is frozen."""
    monkeypatch.chdir(rescued.parent)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", card_of(rescued).text, re.DOTALL)
    assert len(blocks) == (1 if rescued.name == "encoder" else 3)
    for block in blocks:
        exec(block, names)
    assert torch.isfinite(names["vector"]).all()
    if rescued.name != "encoder":
        assert len(names["fill"]("word3 [MASK]")) == 5
        assert not names["model"].bert.pooler.dense.weight.requires_grad


README = "# My model\n\nTrained on *my* texts — 2026.\n\n---\n\nEnd.\n"
HEADS = {
    "none": ("", {}),
    "usual": ("---\nlicense: mit\n---\n", {"license": "mit"}),
    "unknown fields": ("---\nlicense: mit\nco2: 3.5\nmine: {a: [1]}\n---\n", {"license": "mit", "co2": 3.5}),
    "tags of its own": ("---\ntags: [bert, mine]\n---\n", {}),
    "a task of its own": ("---\npipeline_tag: fill-mask\n---\n", {"pipeline_tag": "fill-mask"}),
    "Windows": ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
    "an empty line first": ("\n---\nlicense: mit\n---\n", {"license": "mit"}),
    "keys that are not text": ("---\nlicense: mit\n1: a\ntrue: b\n---\n", {"license": "mit"}),
    "results in no known form": ("---\nmodel-index: [1]\nlicense: mit\n---\n", {"license": "mit"}),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_readme_is_kept_and_its_metadata_completed(head, checkpoint, donor, out):
    text, fields = HEADS[head]
    (checkpoint / "README.md").write_bytes((text + README).encode())
    graft(checkpoint, donor)
    written = (out / "README.md").read_text("utf-8")
    assert written.count(README.strip()) == 1
    assert written.count("\n---\n") == 2, "the end of the metadata, and the rule in the text"
    data = metadata_load(out / "README.md")
    wanted = {"library_name": "transformers", "pipeline_tag": "feature-extraction"} | fields
    assert {key: data.get(key) for key in wanted} == wanted
    own = ["bert", "mine"] if head == "tags of its own" else ["bert"]
    assert data["tags"] == [*own, "bert-pooled-mlm", "sentence-transformers"]


def test_the_section_is_there_once_whatever_is_converted(checkpoint, donor, tmp_path):
    (checkpoint / "README.md").write_text(README, encoding="utf-8")
    graft(checkpoint, donor, tmp_path / "first")
    graft(tmp_path / "first", None, tmp_path / "second", format="bert")
    text = (tmp_path / "second" / "README.md").read_text("utf-8")
    assert text.count(README.strip()) == 1
    assert text.count("## The pooler") == 1
    assert card_of(tmp_path / "second").data.tags == ["bert", "bert-pooled-mlm", "sentence-transformers"]


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
"""


@pytest.mark.versions
def test_the_hubs_client_reads_all_of_a_card_and_writes_what_it_reads_again(checkpoint, donor, out, shelve):
    shelve("base/donor", donor)
    (checkpoint / "README.md").write_text(CARD, encoding="utf-8")
    graft(checkpoint, "base/donor")
    for card in (card_of(out), ModelCard(str(card_of(out)))):
        assert card.data.to_dict().items() >= {
            "library_name": "transformers", "license": "apache-2.0", "language": ["en", "de"],
            "base_model": "base/donor", "base_model_relation": "finetune", "datasets": ["user/letters"],
            "pipeline_tag": "feature-extraction",
            "tags": ["letters", "bert", "bert-pooled-mlm", "sentence-transformers"],
        }.items()  # fmt: skip
        assert card.data.eval_results[0].metric_value == 4.5
        assert card.text.count("# Letters") == card.text.count("## The pooler") == 1


NO_YAML = "README.md: its metadata is not valid YAML"
READMES = {
    "YAML": (b"---\na: [\n---\n# T\n", NO_YAML),
    "code": (b"---\na: !!python/object/apply:os.system [x]\n---\n", NO_YAML),
    "a list": (b"---\n- a\n---\n", NO_YAML),
    "Latin-1": ("---\na: \xe9\n---\n".encode("latin-1"), "README.md: not UTF-8"),
    "what PyYAML raises something else for": (b'---\na: !!int ""\n---\n', NO_YAML),
}


@pytest.mark.parametrize("kind", READMES)
def test_a_readme_that_is_not_read_is_an_error(kind, place):
    data, match = READMES[kind]
    (place / "checkpoint" / "README.md").write_bytes(data)
    refused(place, match)
