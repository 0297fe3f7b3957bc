"""What a Trainer's run leaves and gives: what it pushes, predicts, warns of, and what wrappers make of the names."""

import concurrent.futures
import logging
import shutil

import huggingface_hub
import pytest
import torch
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, BertPooledMLMModel
from checkpoints import (
    CODE_FILES,
    POOLER,
    ROOT,
    SHAPE,
    assert_modules,
    make_pooled,
    mlm_batch,
    mlm_rows,
    save_weights,
    stored,
)
from packaging.version import Version
from programs import answer
from safetensors.torch import load_file
from trainers import arguments
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, Trainer

pytestmark = pytest.mark.versions


# Pushed while training.


@pytest.fixture
def pushed(pooled, tmp_path, monkeypatch):
    """What Trainer(push_to_hub=True) uploads of a run of two checkpoints: a folder for each commit."""
    commits = []

    def upload_folder(*args, folder_path, ignore_patterns, **kwargs):
        commits.append(tmp_path / f"commit-{len(commits)}")
        shutil.copytree(folder_path, commits[-1], ignore=shutil.ignore_patterns(*ignore_patterns))
        done = concurrent.futures.Future()
        done.set_result(None)
        return done

    def init_hf_repo(trainer, *args, **kwargs):
        trainer.hub_model_id, trainer.push_in_progress = "user/run", None

    monkeypatch.setattr(Trainer, "init_hf_repo", init_hf_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda api, **kwargs: upload_folder(**kwargs))
    monkeypatch.setattr(transformers.trainer, "upload_folder", upload_folder, raising=False)
    tokenizer = AutoTokenizer.from_pretrained(pooled)
    named = "processing_class" if Version(transformers.__version__) >= Version("4.46") else "tokenizer"
    Trainer(
        # A class whose pooler is trained: each commit has another.
        BertPooledMLMForSequenceClassification.from_pretrained(pooled),
        arguments(tmp_path / "run", push_to_hub=True, save_strategy="steps", save_steps=1, max_steps=2),
        train_dataset=[{"input_ids": row["input_ids"], "labels": n % 2} for n, row in enumerate(mlm_rows(4))],
        **{named: tokenizer},
    ).train()
    return commits


def test_every_commit_that_trainer_pushes_opens_and_has_the_pooler_of_that_step(pushed, tmp_path):
    assert len(pushed) >= 2
    for commit in pushed:
        assert all((commit / name).read_bytes() == (ROOT / name).read_bytes() for name in CODE_FILES)
        assert_modules(commit)
        assert len(AutoTokenizer.from_pretrained(commit, trust_remote_code=False)) == SHAPE["vocab_size"]
    assert not torch.equal(*(stored(commit)[POOLER[0]] for commit in pushed[:2])), "premise: it was trained"
    found, installed = answer("every_door", tmp_path, pushed[0])
    assert not installed, "premise: the code came from the commit"
    assert found["AutoModelForSequenceClassification"][0] == "BertPooledMLMForSequenceClassification"


def test_a_run_that_is_not_pushed_leaves_nothing_beside_its_checkpoints(pooled, tmp_path):
    args = arguments(tmp_path / "run", save_strategy="steps", save_steps=1, max_steps=1)
    Trainer(BertPooledMLMForMaskedLM.from_pretrained(pooled), args, train_dataset=mlm_rows(2)).train()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-1"]


# Predictions.


def predictions(model, folder, rows):
    args = arguments(folder, per_device_eval_batch_size=2)
    return Trainer(model, args).predict(rows).predictions


@pytest.mark.parametrize("why", ["return_logits=False", "no MLM head"])
def test_vectors_are_predicted_where_there_are_no_logits(why, pooled, tmp_path):
    options = {"return_logits": False}
    if why == "no MLM head":
        make_pooled(BertPooledMLMForSequenceClassification).save_pretrained(tmp_path / "headless")
        pooled, options = tmp_path / "headless", {}
    rows = [{"input_ids": row["input_ids"]} for row in mlm_rows(4)]
    model = AutoModel.from_pretrained(pooled, **options)
    states, pooled_vectors = predictions(model, tmp_path, rows)
    assert (states.shape, pooled_vectors.shape) == ((4, 12, SHAPE["hidden_size"]), (4, SHAPE["hidden_size"]))
    model.save_pretrained(tmp_path / "again")
    config = AutoModel.from_pretrained(tmp_path / "again").config.to_dict()
    assert "keys_to_ignore_at_inference" not in config
    assert "vectors_only" not in config


# Half precision.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_half_precision_parameters_warns_once_and_names_the_remedy(dtype, caplog):
    def warnings():
        return [record.getMessage() for record in caplog.records if "float32" in record.getMessage()]

    logging.Logger.warning_once.cache_clear()
    transformers.logging.enable_propagation()
    model, inputs = make_pooled(BertPooledMLMForMaskedLM).train(), mlm_batch()
    model(**inputs)
    model.to(dtype).eval()(**inputs)
    with torch.no_grad():
        model.train()(**inputs)
    model.requires_grad_(False)(**inputs)
    assert not warnings(), "in float32, in evaluation, without gradients, and frozen"
    model.requires_grad_(True)
    for _ in range(2):
        model(**inputs)
    transformers.logging.disable_propagation()
    (message,) = warnings()
    assert f"{dtype}" in message
    assert "dtype=torch.float32" in message


# Names of a wrapper in the file.


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("options", [{}, {"allow_missing_pooler": True}], ids=["", "allow_missing_pooler"])
def test_the_names_of_a_wrapped_model_are_recognised(prefix, options, pooled, tmp_path):
    folder = shutil.copytree(pooled, tmp_path / "wrapped")
    save_weights(folder, {prefix + name: tensor for name, tensor in stored(pooled).items()})
    with pytest.raises(ValueError, match="no usable pooler") as error:
        BertPooledMLMForMaskedLM.from_pretrained(folder, **options)
    assert repr(prefix) in str(error.value)
    assert f"`python convert.py {folder}`" in str(error.value)
    assert "lost in training" not in str(error.value)
    assert "allow_missing_pooler" not in str(error.value)


# Pickled.


def test_a_model_that_was_loaded_as_remote_code_can_be_pickled(pooled, tmp_path):
    assert answer("pickled", tmp_path, pooled) == [True, True]


# Quantised: as bitsandbytes stores it, integers and a scale for each row.


class Int8Linear(torch.nn.Module):
    def __init__(self, dense: torch.nn.Linear):
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.register_buffer("scale", dense.weight.detach().abs().amax(1, keepdim=True) / 127)
        weight = (dense.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = torch.nn.Parameter(dense.bias.detach().clone())

    def forward(self, states):
        return torch.nn.functional.linear(states, self.weight * self.scale, self.bias)


def quantised(cls):
    model = make_pooled(cls)
    model.bert.pooler.dense = Int8Linear(model.bert.pooler.dense)
    return model


def test_the_dense_of_a_quantised_pooler_holds_its_values_and_not_its_integers(tmp_path):
    model = quantised(BertPooledMLMForMaskedLM)
    model.save_pretrained(tmp_path)
    assert stored(tmp_path)[POOLER[0]].dtype == torch.int8, "premise"
    dense, layer = load_file(tmp_path / "2_Dense/model.safetensors"), model.bert.pooler.dense
    # Read off the layer's outputs: a sum and a difference in float32.
    torch.testing.assert_close(dense["linear.weight"], layer.weight * layer.scale, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dense["linear.bias"], layer.bias.detach())


@pytest.mark.parametrize("cls", [BertPooledMLMForMaskedLM, BertPooledMLMModel])
def test_the_integers_of_a_quantised_pooler_are_not_asked_for_gradients(cls, monkeypatch):
    info = dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), ())
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(lambda *_, **__: (quantised(cls), info)))
    pooler = cls.from_pretrained("anything").bert.pooler.dense
    assert not pooler.weight.requires_grad
    assert pooler.bias.requires_grad is cls.pooler_is_trained
