"""Anchored training: the pooled vectors of some texts are held to the donor's, beside MLM, in one encoder pass."""

import shutil

import datasets
import pytest
import torch
import torch._dynamo.testing
import transformers
from bert_pooled_mlm import (
    AnchoredDataset,
    AnchoringCollator,
    BertPooledMLMForMaskedLM,
    BertPooledMLMModel,
    anchor_rows,
)
from checkpoints import (
    NO_DROPOUT,
    SHAPE,
    batch,
    differing,
    distance,
    gradients,
    make_pooled,
    mlm_batch,
    mlm_rows,
    pooler_of,
)
from packaging.version import Version
from trainers import VERSION, arguments
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, default_data_collator

pytestmark = [
    pytest.mark.versions,
    # transformers 5.23 renames it to activation checkpointing; PEFT and 4.x know the old name only.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    # The PEFT of transformers 4.41's days looks for the config of a local folder on the Hub.
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
    # The Trainer of 4.41 with today's torch.
    pytest.mark.filterwarnings("ignore:`torch.cpu.amp.autocast:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD:UserWarning"),
]

CLASSES = (BertPooledMLMForMaskedLM, BertPooledMLMModel)
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def make(cls=BertPooledMLMForMaskedLM, **fields):
    return make_pooled(cls, **NO_DROPOUT, **fields).train()


def targets(rows: int = 3, read: tuple[int, ...] = (0, 2)) -> torch.Tensor:
    """Of `rows`, those that are not read hold -100."""
    made = torch.rand(rows, SHAPE["hidden_size"], generator=torch.Generator().manual_seed(7)) * 2 - 1
    unread = [row for row in range(rows) if row not in read]
    made[unread] = -100
    return made


# --- The loss --------------------------------------------------------------------------------------------------------


@each_class
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variance", [None, [2.0, 0.1, 0.5]], ids=["lengths", "variance"])
def test_the_pooler_loss_is_the_mean_squared_distance_of_the_rows_that_are_read(cls, training, variance):
    model, wanted = make(cls).train(training), targets()
    units, given = wanted.square().sum(1).tolist(), {}
    if variance:
        units, given = variance, {"pooler_target_variance": torch.tensor(variance)}
    output = model(**batch(), pooler_targets=wanted, **given)
    expected = [((output.pooler_output[row] - wanted[row]).norm() ** 2).item() / units[row] for row in (0, 2)]
    assert output.pooler_loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)  # float32's last bits
    assert output.pooler_loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(0.3 * output.pooler_loss.item(), rel=1e-6)
    assert model(**batch()).keys() == {*output.keys()} - {"loss", "pooler_loss"}


@each_class
@pytest.mark.parametrize("weight", [0.1, 0.0, 2])
@pytest.mark.parametrize("sparse", [False, True])
def test_it_is_added_to_the_mlm_loss_with_the_configs_weight(cls, weight, sparse):
    model = make(cls, pooler_loss_weight=weight, sparse_prediction=sparse)
    alone = model(**mlm_batch())
    both = model(**mlm_batch(), pooler_targets=targets())
    assert both.loss.item() == pytest.approx(alone.loss.item() + weight * both.pooler_loss.item(), rel=1e-6)
    assert torch.equal(both.logits, alone.logits)
    assert alone.pooler_loss is None


@each_class
def test_without_a_row_that_is_read_it_is_0_with_gradients_of_0(cls):
    model = make(cls)
    loss, grads = gradients(model, **batch(), pooler_targets=targets(read=()))
    assert loss == 0
    assert grads["bert.embeddings.word_embeddings.weight"].shape
    assert all(not grad.any() for grad in grads.values())
    alone, expected = gradients(model, **mlm_batch())
    loss, grads = gradients(model, **mlm_batch(), pooler_targets=targets(read=()))
    assert loss == alone
    assert distance({name: grads[name] for name in expected}, expected) == 0


def test_its_gradient_reaches_the_encoder_through_the_frozen_pooler():
    model = make()
    _, grads = gradients(model, **batch(), pooler_targets=targets())
    assert not [name for name in grads if "pooler" in name or name.startswith("cls.")]
    assert all(grads[f"bert.encoder.layer.{layer}.output.dense.weight"].any() for layer in range(2))
    _, own = gradients(make(BertPooledMLMModel), **batch(), pooler_targets=targets())
    assert own["bert.pooler.dense.weight"].any(), "and where the pooler is trainable, the pooler"


@pytest.mark.parametrize("shape", [(2, 32), (3, 1), (32,), (1, 32)])
def test_targets_of_another_shape_are_an_error(shape):
    with pytest.raises(ValueError, match=r"pooler_targets are \(.*\), pooler_output is \(3, 32\)"):
        make()(**batch(), pooler_targets=torch.zeros(shape))


@pytest.mark.parametrize("kind", [int, torch.tensor], ids=["int", "tensor"])
def test_accumulated_it_weighs_as_much_as_in_one_batch(kind):
    """Each of four calls holds the same number of labels; the whole batch holds them all."""
    model = make()
    rows = {name: value[:1].repeat(4, 1) for name, value in mlm_batch().items()}
    rows["input_ids"][:, 1:5] += torch.arange(4)[:, None]  # different texts
    wanted = targets(4, (0, 1, 2, 3))
    labelled = int((rows["labels"] != -100).sum())
    loss, whole = gradients(model, **rows, pooler_targets=wanted, num_items_in_batch=kind(labelled))
    parts, losses = {}, []
    for row in range(4):
        part = {name: value[row : row + 1] for name, value in rows.items()}
        one, grads = gradients(model, **part, pooler_targets=wanted[row : row + 1], num_items_in_batch=kind(labelled))
        parts = {name: parts.get(name, 0) + grad for name, grad in grads.items()}
        losses.append(one.item())
    assert sum(losses) == pytest.approx(loss.item(), rel=1e-5)  # summed in another order
    assert distance(whole, parts) < 1e-5


@pytest.mark.parametrize("num_items", [0, 1, 100])
def test_a_call_that_holds_anchors_alone_counts_and_never_more_than_a_whole_batch(num_items):
    model = make()
    whole = model(**batch(), pooler_targets=targets()).loss
    part = model(**batch(), pooler_targets=targets(), num_items_in_batch=torch.tensor(num_items)).loss
    assert 0 < part <= whole
    assert (part < whole) == (num_items == 100)


@pytest.mark.parametrize("half", ["autocast", "bfloat16"])
def test_it_is_computed_in_float32(half):
    model = make()
    with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
        output = (model if half == "autocast" else model.to(torch.bfloat16))(**mlm_batch(), pooler_targets=targets())
    assert output.pooler_loss.dtype == output.loss.dtype == torch.float32
    output.loss.backward()


def test_one_graph_is_compiled():
    model = make()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for read in ((0, 2), (1,), ()):
        inputs = {**mlm_batch(), "pooler_targets": targets(read=read), "pooler_target_variance": torch.ones(3)}
        # Kernels that were traced sum in another order.
        torch.testing.assert_close(
            compiled(**inputs, num_items_in_batch=torch.tensor(30)).loss,
            model(**inputs, num_items_in_batch=torch.tensor(30)).loss,
        )
    assert counter.frame_count == 1


# --- Trainer ---------------------------------------------------------------------------------------------------------


WORDS = [f"word{n % 7} word{n % 11} word{n % 13} word{n % 17} word{n % 5} word3 word{n % 19}" for n in range(48)]


def train(folder, donor, tokenizer, anchored: bool, wrap=lambda model: model, masked=(), stream=False, **options):
    """As a user would, with Trainer's default arguments; the Trainer, and the anchors' distance after it.

    Args:
        masked: MLM rows with labels; default: masked by the usual collator.
        stream: Of an iterable dataset.
    """
    transformers.set_seed(3)
    model = BertPooledMLMForMaskedLM.from_pretrained(donor, pooler_loss_weight=1.0)
    rows = masked or [{"input_ids": ids} for ids in tokenizer(WORDS).input_ids]
    read = datasets.Dataset.from_list(rows).to_iterable_dataset(4) if stream else rows
    anchors = anchor_rows(donor, tokenizer, WORDS[:24])
    inner = default_data_collator if masked else DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    collator = AnchoringCollator(inner)
    replaced = {"compute_loss_func": options.pop("compute_loss_func")} if "compute_loss_func" in options else {}
    settings = {"max_steps": 12, "per_device_train_batch_size": 8, "learning_rate": 3e-3, **options}
    trainer = Trainer(
        wrap(model),
        arguments(folder, **settings),
        data_collator=collator,
        train_dataset=AnchoredDataset(read, anchors) if anchored else read,
        eval_dataset=rows[:16],
        **replaced,
    )
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")) or None)
    with torch.no_grad():
        after = model.eval()(**collator(anchors)).pooler_loss.item()
    return trainer, after


@pytest.fixture(scope="module")
def plain(donor, tokenizer, tmp_path_factory):
    """Without anchors."""
    return train(tmp_path_factory.mktemp("plain"), donor, tokenizer, anchored=False)


def test_trainer_holds_the_pooled_vectors_and_evaluates_plain_mlm(plain, donor, tokenizer, tmp_path):
    seen = []

    def watched(model):
        model.register_forward_pre_hook(lambda _, args, inputs: seen.append({*inputs}), with_kwargs=True)
        return model

    anchored, held = train(tmp_path / "anchored", donor, tokenizer, anchored=True, wrap=watched)
    counts = [sum(name in names for names in seen) for name in ("pooler_targets", "pooler_target_variance")]
    assert counts[0] == counts[1] > 0, "Trainer drops neither column"
    assert held < 0.5 * plain[1], "without it, the encoder moves away"
    assert not differing(pooler_of(plain[0].model), pooler_of(anchored.model)), "frozen in both"
    transformers.set_seed(5)
    found = anchored.evaluate()["eval_loss"]
    transformers.set_seed(5)
    anchored.data_collator = anchored.data_collator.collator
    assert anchored.evaluate()["eval_loss"] == found, "evaluation is the MLM loss alone"


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"bf16": True},
        {"stream": True, "dataloader_num_workers": 2, "gradient_accumulation_steps": 2},
    ],
    ids=lambda options: " ".join(options),
)
def test_it_holds_with_what_trainer_offers(options, plain, donor, tokenizer, tmp_path):
    assert train(tmp_path, donor, tokenizer, True, **options)[1] < 0.5 * plain[1]


def test_an_adapter_is_anchored_as_well(donor, tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    def adapted(model):
        return get_peft_model(model, LoraConfig(target_modules=["query", "value", "intermediate.dense"], r=4))

    options = {"wrap": adapted, "learning_rate": 0.05}
    held, moved = (train(tmp_path / str(flag), donor, tokenizer, flag, **options)[1] for flag in (True, False))
    assert held < 0.5 * moved


@pytest.mark.skipif(f"{VERSION}" in ("5.0.0", "5.3.0"), reason="their Trainer loses LayerNorms of stock BERT, too")
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(donor, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # 4.41's own random states
    # Masked beforehand: a batch is drawn ahead of the step that reads it, and masks would be drawn with it.
    steps = {"save_strategy": "steps", "save_steps": 6, "masked": mlm_rows(48)}
    whole, _ = train(tmp_path, donor, tokenizer, True, **steps)
    shutil.rmtree(tmp_path / "checkpoint-12")
    resumed, _ = train(tmp_path, donor, tokenizer, True, **steps)
    assert not differing(whole.model.state_dict(), resumed.model.state_dict())


@pytest.mark.skipif(Version("4.49") > VERSION, reason="earlier ones save no tokenizer of a collator")
def test_a_checkpoint_of_anchored_training_has_the_tokenizer(donor, tokenizer, tmp_path):
    train(tmp_path, donor, tokenizer, True, save_strategy="steps", save_steps=1, max_steps=1)
    again = AutoTokenizer.from_pretrained(tmp_path / "checkpoint-1", trust_remote_code=False)
    assert again(WORDS).input_ids == tokenizer(WORDS).input_ids


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing_factor": 0.1}, {"compute_loss_func": lambda outputs, labels, **_: outputs.logits.sum()}],
)
def test_a_loss_that_replaces_the_models_is_an_error_at_the_first_step(options, donor, tokenizer, tmp_path):
    if "compute_loss_func" in options and Version("4.46") > VERSION:
        pytest.skip("Trainer has compute_loss_func since 4.46")
    with pytest.raises(ValueError, match="label_smoothing_factor and compute_loss_func replace"):
        train(tmp_path, donor, tokenizer, True, **options)
    trainer, _ = train(tmp_path, donor, tokenizer, False, **options, max_steps=1)
    assert trainer.state.global_step == 1, "without anchors they work"
