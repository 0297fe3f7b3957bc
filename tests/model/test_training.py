"""MLM training: an exact loss, a pooler that does not move, and checkpoints that are whole."""

import json
import shutil

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMModel
from bert_pooled_mlm.configuration_bert_pooled_mlm import AUTO_MAP
from checkpoints import (
    CODE_FILES,
    NO_DROPOUT,
    POOLER,
    ROOT,
    SHAPE,
    differing,
    distance,
    gradients,
    make_donor,
    make_pooled,
    mlm_batch,
    mlm_rows,
    pooler_of,
    stored,
)
from packaging.version import Version
from programs import answer
from torch.nn.functional import cross_entropy
from trainers import VERSION, accumulates_exactly, arguments, step_gradients
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
)

each_path = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


def make(cls=BertPooledMLMForMaskedLM, **fields):
    """A model in training mode, without dropout: two passes then compute the same."""
    return make_pooled(cls, **NO_DROPOUT, **fields).train()


def make_stock(model):
    stock = BertForMaskedLM(BertConfig(**SHAPE, **NO_DROPOUT)).train()
    stock.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name not in POOLER})
    return stock


# The loss.


@each_path
def test_minus_100_is_the_only_label_that_is_ignored(sparse):
    inputs = mlm_batch()
    inputs["labels"][0, 4] = 0  # [PAD]'s id
    model = make(sparse_prediction=sparse)
    counted = gradients(model, **inputs)[0]
    logits = model.eval()(**inputs).logits
    torch.testing.assert_close(
        counted, cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten(), ignore_index=-100), rtol=1e-6, atol=0
    )
    inputs["labels"][0, 4] = -100
    assert gradients(model.train(), **inputs)[0] != counted, "premise: it makes a difference"


@each_path
@pytest.mark.parametrize("kind", [int, torch.tensor], ids=["int", "tensor"])
def test_the_loss_is_the_sum_over_num_items_in_batch(sparse, kind):
    model, inputs = make(sparse_prediction=sparse), mlm_batch()
    labelled = int((inputs["labels"] != -100).sum())
    mean = model(**inputs).loss
    # Summed, then divided by another number.
    torch.testing.assert_close(
        model(**inputs, num_items_in_batch=kind(4 * labelled)).loss, mean / 4, rtol=1e-6, atol=0
    )


@each_path
@pytest.mark.parametrize("num_items", [None, 0, 7], ids=["its own count", "no item in the whole batch", "elsewhere"])
@pytest.mark.parametrize("kind", [int, torch.tensor], ids=["int", "tensor"])
def test_a_batch_with_nothing_masked_gives_loss_0_and_gradients_0(sparse, num_items, kind):
    inputs = mlm_batch()
    inputs["labels"].fill_(-100)
    model = make(sparse_prediction=sparse)
    assert gradients(make_stock(model), **inputs)[0].isnan(), "premise: stock BERT gives NaN"
    loss, grads = gradients(model, **inputs, num_items_in_batch=None if num_items is None else kind(num_items))
    assert loss == 0
    assert all(not grad.any() for grad in grads.values())
    assert "bert.embeddings.word_embeddings.weight" in grads


@each_path
@pytest.mark.parametrize("half", ["autocast", "bfloat16", "float16"])
def test_the_loss_is_computed_in_float32(sparse, half):
    model, inputs = make(sparse_prediction=sparse), mlm_batch()
    if half == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(**inputs)
    else:
        output = model.to(getattr(torch, half))(**inputs)
    assert output.logits.dtype == (torch.float16 if half == "float16" else torch.bfloat16)
    assert output.loss.dtype == torch.float32
    labels = inputs["labels"][inputs["labels"] != -100] if sparse else inputs["labels"].flatten()
    exact = cross_entropy(output.logits.double().view(-1, SHAPE["vocab_size"]), labels)
    # float32 against float64; in bfloat16 itself the difference would be a thousand times this.
    torch.testing.assert_close(output.loss.double(), exact, rtol=1e-6, atol=0)


# sparse_prediction.


@pytest.mark.versions
@pytest.mark.parametrize("num_items", [None, 50])
def test_sparse_prediction_gives_the_same_loss_and_gradients(num_items):
    dense, sparse = make(), make(sparse_prediction=True)
    assert not differing(dense.state_dict(), sparse.state_dict())
    loss, grads = gradients(dense, **mlm_batch(), num_items_in_batch=num_items)
    sparse_loss, sparse_grads = gradients(sparse, **mlm_batch(), num_items_in_batch=num_items)
    # Another number of rows: matrix kernels sum in another order.
    torch.testing.assert_close(sparse_loss, loss, rtol=1e-5, atol=0)
    assert distance(grads, sparse_grads) < 1e-5


@pytest.mark.parametrize("cls", [BertPooledMLMForMaskedLM, BertPooledMLMModel], ids=lambda cls: cls.__name__)
def test_sparse_logits_are_the_labelled_rows_in_order(cls):
    inputs = mlm_batch()
    dense, sparse = (make(cls, sparse_prediction=flag)(**inputs).logits for flag in (False, True))
    assert dense.shape == (3, 12, SHAPE["vocab_size"])
    # Another number of rows, as above.
    torch.testing.assert_close(sparse, dense[inputs["labels"] != -100], rtol=1e-5, atol=1e-6)


def test_sparse_prediction_acts_in_training_with_labels_only():
    model, inputs = make(sparse_prediction=True), mlm_batch()
    labels = inputs.pop("labels")
    assert model(**inputs).logits.shape == (3, 12, SHAPE["vocab_size"])
    assert model.eval()(**inputs, labels=labels).logits.shape == (3, 12, SHAPE["vocab_size"])


# The pooler.


def train(model, steps, use_pooler=False):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    for step in range(steps):
        output = model(**mlm_batch(seed=step))
        loss = output.loss + (output.pooler_output.square().mean() if use_pooler else 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.versions
def test_the_pooler_is_bit_identical_after_100_steps_with_weight_decay():
    model = make()
    before, encoder = pooler_of(model), model.bert.encoder.layer[1].output.dense.weight.clone()
    train(model, 100)
    assert not differing(before, pooler_of(model))
    assert not torch.allclose(encoder, model.bert.encoder.layer[1].output.dense.weight, atol=1e-3), "it trained"


def test_a_thawed_pooler_trains_and_so_does_the_models_own():
    for model in (make().requires_grad_(True), make(BertPooledMLMModel)):
        before = pooler_of(model)
        train(model, 1, use_pooler=True)
        assert differing(before, pooler_of(model)) == {"dense.weight", "dense.bias"}


# Trainer.


@pytest.mark.versions
@accumulates_exactly
@each_path
def test_accumulating_4_batches_of_2_gives_the_gradients_of_1_batch_of_8(sparse, tmp_path):
    counts = {int((row["labels"] != -100).sum()) for row in mlm_rows(8)}
    assert len(counts) > 1, "premise: micro-batches differ in their numbers of labels"
    whole, parts = (step_gradients(make(sparse_prediction=sparse), tmp_path, *args) for args in ((8, 1), (2, 4)))
    assert distance(whole, parts) < 1e-6
    assert not {*POOLER} & whole.keys()


TOPICS = [f"word{n % 7} word{n % 11} word{n % 13} word{n % 17} word{n % 5} word3 word{n % 19}" for n in range(24)]


@pytest.mark.versions
def test_a_checkpoint_of_trainer_is_whole_and_opens_in_a_fresh_process_with_its_origin_gone(pooled, tmp_path):
    """Of the usual script; the model at its end is that of the checkpoint that it chooses."""
    origin = shutil.copytree(pooled, tmp_path / "origin")
    tokenizer = AutoTokenizer.from_pretrained(origin)
    data = [{"input_ids": ids} for ids in tokenizer(TOPICS).input_ids]
    model = AutoModelForMaskedLM.from_pretrained(origin, trust_remote_code=True)
    args = arguments(
        tmp_path, max_steps=6, save_strategy="steps", save_steps=3, eval_strategy="steps", eval_steps=3,
        per_device_train_batch_size=4, learning_rate=1e-2, load_best_model_at_end=True, greater_is_better=True,
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    trainer = Trainer(model, args, data_collator=collator, train_dataset=data, eval_dataset=data[:10])
    trainer.train()
    shutil.rmtree(origin)
    first, last = (tmp_path / f"checkpoint-{step}" for step in (3, 6))
    assert trainer.state.best_model_checkpoint == str(first), "premise: the greater loss"
    restored = trainer.model.state_dict()
    assert Version("5.0.0") == VERSION or all(restored[name].equal(it) for name, it in stored(first).items())
    for folder in (first, last):
        for name in CODE_FILES:
            assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
        assert json.loads((folder / "config.json").read_text("utf-8"))["auto_map"] == AUTO_MAP
    found, installed = answer("every_door", tmp_path, last)
    assert not installed, "premise: the code came from the checkpoint"
    donors = {name: tensor.tolist() for name, tensor in make_donor().bert.pooler.state_dict().items()}
    head = {"missing_keys": ["classifier.bias", "classifier.weight"]}
    assert found == {
        "AutoModel": ["BertPooledMLMModel", {}, donors],
        "AutoModelForMaskedLM": ["BertPooledMLMForMaskedLM", {}, donors],
        "AutoModelForPreTraining": ["BertPooledMLMForMaskedLM", {}, donors],
        "AutoModelForSequenceClassification": ["BertPooledMLMForSequenceClassification", head, donors],
    }
