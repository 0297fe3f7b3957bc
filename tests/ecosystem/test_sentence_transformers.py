"""Fine-tuning in sentence-transformers: which pooler counts afterwards, and how to make the two agree again.

That `encode` gives `pooler_output` before any training is tested with the converter, in tests/conversion.
"""

import json

import pytest
import torch
import transformers
from checkpoints import FORMATS, POOLER, stored
from packaging.version import Version
from programs import answer
from safetensors.torch import load_file

pytestmark = pytest.mark.versions

# With transformers 4.41, its trainer stops at an argument of accelerate's, for every model: a loop of one's own works.
WITH_TRAINER = Version(transformers.__version__) >= Version("4.48")


@pytest.fixture(scope="module")
def trained(converted, tmp_path_factory):
    """The folder with what was trained of both formats, and each one's vector before and after."""
    out = tmp_path_factory.mktemp("trained")
    return out, answer("sentence_transformers_train", out, converted, out, WITH_TRAINER, *FORMATS)


@pytest.fixture(scope="module")
def opened(trained, tmp_path_factory):
    return answer("sentence_transformers_open", tmp_path_factory.mktemp("elsewhere"), trained[0], *FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_fine_tuning_moves_the_dense_module_and_not_the_pooler(format, converted, trained):
    dense = [load_file(folder / format / "2_Dense" / "model.safetensors") for folder in (converted, trained[0])]
    assert all(not torch.equal(dense[0][name], dense[1][name]) for name in ("linear.weight", "linear.bias"))
    before = stored(converted / format)
    # The stock class of the bert format saves itself without the prefix.
    after = {f"bert.{name.removeprefix('bert.')}": tensor for name, tensor in stored(trained[0] / format).items()}
    assert all(torch.equal(after[name], before[name]) for name in POOLER)
    moved = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(after[moved], before[moved]), "premise: it trained"


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_saved_encodes_the_same_in_a_fresh_process(format, trained, opened):
    found, installed = opened
    before, after = trained[1][format]
    assert before != after, "premise: it trained"
    assert torch.allclose(torch.tensor(found[format]["vectors"]), torch.tensor(after), atol=1e-6)  # another file
    assert found[format]["modules"] == ["Transformer", "Pooling", "Dense"]
    assert found[format]["class"] == {"pooled": "BertPooledMLMModel", "bert": "BertModel"}[format]
    assert installed is False


@pytest.mark.parametrize("format", FORMATS)
def test_from_then_on_encode_counts_until_the_dense_is_copied_into_the_pooler(format, opened):
    assert opened[0][format]["old"] > 1e-3
    assert opened[0][format]["new"] < 1e-6


def test_the_pooled_format_is_saved_with_its_code_and_head_which_is_not_run_where_it_is_not_wanted(trained, opened):
    assert (trained[0] / "pooled" / "modeling_bert_pooled_mlm.py").is_file()
    config = json.loads((trained[0] / "pooled" / "config.json").read_text("utf-8"))
    assert config["auto_map"]["AutoModel"] == "modeling_bert_pooled_mlm.BertPooledMLMModel"
    assert config["return_logits"] is True
    assert any(name.startswith("cls.predictions.") for name in stored(trained[0] / "pooled")), "premise: it has a head"
    assert opened[0]["pooled"]["head called"] == 0


def test_only_the_pooled_format_needs_trust_remote_code_to_be_opened_again(opened):
    assert "trust_remote_code" in opened[0]["pooled"]["refused"]
    assert opened[0]["bert"]["refused"] == "SentenceTransformer", "it opens"
