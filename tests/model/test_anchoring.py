"""Anchored training: the pooled vectors of some texts are held to the donor's, beside MLM, in one encoder pass."""

import shutil

import numpy as np
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
from trainers import arguments
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertModel,
    DataCollatorForLanguageModeling,
    Trainer,
    default_data_collator,
)

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
TEXTS = ["word1 word2 word3", ("word4 word5", "word6"), "word7", ("word8", "word9 word10 word11 word12"), "word13"]
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
def test_the_pooler_loss_is_the_mean_relative_squared_distance_of_the_rows_that_are_read(cls, training):
    model, wanted = make(cls).train(training), targets()
    output = model(**batch(), pooler_targets=wanted)
    expected = [
        ((output.pooler_output[row] - wanted[row]).norm() ** 2 / wanted[row].norm() ** 2).item() for row in (0, 2)
    ]
    assert output.pooler_loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)  # float32's last bits
    assert output.pooler_loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(0.1 * output.pooler_loss.item(), rel=1e-6)
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
def test_it_comes_last_in_a_tuple(cls):
    model, inputs = make(cls), mlm_batch()
    output = model(**inputs, pooler_targets=targets(), return_dict=False)
    assert torch.equal(output[-1], model(**inputs, pooler_targets=targets()).pooler_loss)
    assert [*model(**inputs, pooler_targets=targets())][-1] == "pooler_loss"


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
def test_targets_of_another_shape_are_refused(shape):
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


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    model = make()
    loss, grads = gradients(model, **mlm_batch(), pooler_targets=targets())
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again, saved = gradients(model, **mlm_batch(), pooler_targets=targets())
    assert again == loss
    assert distance(grads, saved) < 1e-6


def test_one_graph_is_compiled():
    model = make()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for read in ((0, 2), (1,), ()):
        inputs = {**mlm_batch(), "pooler_targets": targets(read=read)}
        # Kernels that were traced sum in another order.
        torch.testing.assert_close(
            compiled(**inputs, num_items_in_batch=torch.tensor(30)).loss,
            model(**inputs, num_items_in_batch=torch.tensor(30)).loss,
        )
    assert counter.frame_count == 1


def test_a_thawed_pooler_learns_any_vectors_beside_mlm():
    """Here those of a mean over the tokens."""
    model, inputs = make(pooler_loss_weight=1.0), mlm_batch()
    model.bert.pooler.requires_grad_(True)
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        wanted = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    wanted = torch.tanh(wanted)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen, before = [], pooler_of(model)
    for _ in range(20):
        output = model(**inputs, pooler_targets=wanted)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append((output.pooler_loss.item(), (output.loss - output.pooler_loss).item()))
    assert seen[-1][0] < 0.2 * seen[0][0]
    assert seen[-1][1] < seen[0][1], "MLM is learnt as well"
    assert differing(before, pooler_of(model)) == {"dense.weight", "dense.bias"}


# --- The rows --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(donor):
    return AutoTokenizer.from_pretrained(donor)


@pytest.fixture(scope="module")
def anchors(donor, tokenizer) -> list[dict]:
    return anchor_rows(donor, tokenizer, TEXTS, batch_size=2)


def test_an_anchor_row_is_the_text_and_what_the_donors_pooler_says_of_it(anchors, donor, tokenizer):
    stock = BertModel.from_pretrained(donor).eval()
    assert len(anchors) == len(TEXTS)
    for row, text in zip(anchors, TEXTS, strict=True):
        encoded = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
        assert {name: encoded[name][0].tolist() for name in encoded} == {n: row[n] for n in encoded}
        assert (row["pooler_targets"].dtype, row["pooler_targets"].shape) == (np.float32, (SHAPE["hidden_size"],))
        with torch.no_grad():
            said = stock(**encoded).pooler_output[0]
        # Padded beside a longer text, and alone.
        torch.testing.assert_close(torch.from_numpy(row["pooler_targets"]), said, rtol=1e-5, atol=1e-6)
    assert sum(anchors[1]["token_type_ids"]) == 2, "a pair has two segments"


@pytest.mark.parametrize("kind", ["pooled folder", "BertModel", "BertForPreTraining", "our own"])
def test_the_donor_may_be_any_bert_with_a_pooler_and_is_left_as_it_was(kind, anchors, donor, pooled, tokenizer):
    classes = {"our own": BertPooledMLMForMaskedLM}
    given = pooled
    if kind != "pooled folder":
        given = (classes.get(kind) or getattr(transformers, kind)).from_pretrained(donor).train()
    rows = anchor_rows(given, tokenizer, TEXTS, batch_size=3)
    for row, expected in zip(rows, anchors, strict=True):
        torch.testing.assert_close(row["pooler_targets"], expected["pooler_targets"], rtol=1e-5, atol=1e-6)
    if given is not pooled:
        assert given.training
        assert all(module.training for module in given.modules())


def test_texts_are_cut_at_max_length_or_where_the_donor_ends(donor, tokenizer):
    for length, options in ((10, {"max_length": 10}), (SHAPE["max_position_embeddings"], {})):
        (row,) = anchor_rows(donor, tokenizer, [" ".join(["word5"] * 100)], **options)
        assert len(row["input_ids"]) == length


def test_what_can_not_anchor_is_refused(donor, lost, tokenizer):
    with pytest.raises(ValueError, match="got no texts"):
        anchor_rows(donor, tokenizer, [])
    with pytest.raises(ValueError, match="a BertForMaskedLM, has no pooler"):
        anchor_rows(BertForMaskedLM.from_pretrained(donor), tokenizer, TEXTS)
    with pytest.raises(ValueError, match="has no usable pooler"):
        anchor_rows(lost, tokenizer, TEXTS)
    grown = AutoTokenizer.from_pretrained(donor)
    grown.add_tokens(["newword"])
    with pytest.raises(ValueError, match="the donor has 128 tokens, the tokenizer more; pass the donor's tokenizer"):
        anchor_rows(donor, grown, ["newword"])


# --- The data set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 2 / 3])
@pytest.mark.parametrize("count", [1, 7, 80])
def test_all_mlm_rows_are_there_once_and_that_share_are_anchors(share, count):
    rows = [{"input_ids": [number]} for number in range(count)]
    anchors = [{"pooler_targets": number} for number in range(3)]
    dataset = AnchoredDataset(rows, anchors, share)
    found = [dataset[index] for index in range(len(dataset))]
    assert [row for row in found if "pooler_targets" not in row] == rows, "in their order"
    mixed = [row["pooler_targets"] for row in found if "pooler_targets" in row]
    assert abs(len(mixed) - share * len(dataset)) <= 1
    assert mixed == [number % 3 for number in range(len(mixed))], "in turn"
    assert found == [dataset[index] for index in range(len(dataset))]
    assert dataset[-1] == found[-1]
    for beyond in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[beyond]


@pytest.mark.parametrize("share", [0, 1, -0.1, 20])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match=f"share={share}: expected a number between 0 and 1"):
        AnchoredDataset([{}], [{}], share)


def test_no_anchors_are_refused():
    with pytest.raises(ValueError, match=r"got no anchors: make them with anchor_rows\(\)"):
        AnchoredDataset([{}], [])


# --- The collator ----------------------------------------------------------------------------------------------------


def rows_of(tokenizer, *texts: str) -> list[dict]:
    return [dict(tokenizer(text)) for text in texts]


def test_mlm_rows_go_through_the_given_collator_and_anchors_stay_unmasked_beside_them(tokenizer, anchors):
    inner = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5)
    rows = rows_of(tokenizer, "word1 word2 word3 word4 word5 word6 word7 word8", "word9")
    torch.manual_seed(0)
    expected = inner([dict(row) for row in rows])
    torch.manual_seed(0)
    made = AnchoringCollator(inner)([anchors[1], rows[0], anchors[3], rows[1]])
    length = expected["input_ids"].shape[1]
    assert made.keys() == {"input_ids", "token_type_ids", "attention_mask", "labels", "pooler_targets"}
    for name in expected:
        assert torch.equal(made[name][:2], expected[name])
        assert made[name].shape == (4, length)
    for line, anchor in ((2, anchors[1]), (3, anchors[3])):
        size = len(anchor["input_ids"])
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            assert made[name][line].tolist() == [*anchor[name], *[0] * (length - size)]
        assert torch.equal(made["pooler_targets"][line], torch.from_numpy(anchor["pooler_targets"]))
    assert (made["labels"][2:] == -100).all()
    assert (made["labels"][:2] != -100).any()
    assert (made["pooler_targets"][:2] == -100).all()
    assert made["pooler_targets"].dtype == torch.float32


def test_a_batch_without_anchors_is_the_given_collators(tokenizer):
    said = {"anything": 1}
    assert AnchoringCollator(lambda rows: said)(rows_of(tokenizer, "word1")) is said


def test_a_batch_of_anchors_alone_has_labels_that_are_not_read(tokenizer, anchors):
    made = AnchoringCollator(DataCollatorForLanguageModeling(tokenizer))(anchors)
    assert made["input_ids"].shape == (5, 8)
    assert (made["labels"] == -100).all()
    assert (made["pooler_targets"] != -100).any(1).all()
    output = make()(**made)
    assert output.loss.item() == pytest.approx(0.1 * output.pooler_loss.item(), rel=1e-6)


def test_a_collator_of_blocks_may_leave_out_mask_and_segments(anchors):
    def blocks(rows):
        ids = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": ids.clone()}

    made = AnchoringCollator(blocks)([{"input_ids": [2, 9, 9, 3]}, anchors[0], anchors[3]])
    assert made["attention_mask"].tolist()[0] == [1, 1, 1, 1, 0, 0, 0, 0], "padded to the longer anchors"
    assert made["token_type_ids"][0].tolist() == [0] * 8
    assert made["labels"][0].tolist() == [2, 9, 9, 3, -100, -100, -100, -100]


def test_the_given_collators_multiple_is_kept(tokenizer, anchors):
    inner = DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=6)
    rows = rows_of(tokenizer, "word1")
    assert AnchoringCollator(inner)([*rows, anchors[3]])["input_ids"].shape == (2, 12)


def test_what_anchor_rows_do_not_have_is_refused(anchors):
    def packed(rows):
        return {"input_ids": torch.ones(1, 4, dtype=torch.long), "position_ids": torch.arange(4)[None]}

    with pytest.raises(ValueError, match="the MLM rows have position_ids, which anchor rows have not"):
        AnchoringCollator(packed)([{"input_ids": [1, 1, 1, 1]}, anchors[0]])


# --- Trainer ---------------------------------------------------------------------------------------------------------

WORDS = [f"word{n % 7} word{n % 11} word{n % 13} word{n % 17} word{n % 5} word3 word{n % 19}" for n in range(48)]


def train(folder, donor, tokenizer, anchored: bool, wrap=lambda model: model, masked=(), **options):
    """As a user would, with Trainer's default arguments; the Trainer, and the anchors' distance after it.

    Args:
        masked: MLM rows with labels; default: masked by the usual collator.
    """
    transformers.set_seed(3)
    model = BertPooledMLMForMaskedLM.from_pretrained(donor, pooler_loss_weight=1.0)
    rows = masked or [{"input_ids": ids} for ids in tokenizer(WORDS).input_ids]
    anchors = anchor_rows(donor, tokenizer, WORDS[:24])
    inner = default_data_collator if masked else DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    collator = AnchoringCollator(inner)
    settings = {"max_steps": 12, "per_device_train_batch_size": 8, "learning_rate": 3e-3, **options}
    trainer = Trainer(
        wrap(model),
        arguments(folder, **settings),
        data_collator=collator,
        train_dataset=AnchoredDataset(rows, anchors) if anchored else rows,
        eval_dataset=rows[:16],
    )
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")) or None)
    with torch.no_grad():
        after = model.eval()(**collator(anchors)).pooler_loss.item()
    return trainer, after


def test_trainer_holds_the_pooled_vectors_and_evaluates_plain_mlm(donor, tokenizer, tmp_path):
    plain, moved = train(tmp_path / "plain", donor, tokenizer, anchored=False)
    anchored, held = train(tmp_path / "anchored", donor, tokenizer, anchored=True)
    assert held < 0.5 * moved, "premise: without it, the encoder moves away"
    assert not differing(pooler_of(plain.model), pooler_of(anchored.model)), "frozen in both"
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
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    ],
    ids=lambda options: " ".join(options),
)
def test_it_holds_with_what_trainer_offers(options, donor, tokenizer, tmp_path):
    assert (
        train(tmp_path, donor, tokenizer, True, **options)[1]
        < 0.5 * train(tmp_path / "plain", donor, tokenizer, False, **options)[1]
    )


def test_an_adapter_is_anchored_as_well(donor, tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    def adapted(model):
        return get_peft_model(model, LoraConfig(target_modules=["query", "value", "intermediate.dense"], r=4))

    options = {"wrap": adapted, "learning_rate": 0.05}
    held, moved = (train(tmp_path / str(flag), donor, tokenizer, flag, **options)[1] for flag in (True, False))
    assert held < 0.5 * moved


@pytest.mark.skipif(transformers.__version__ == "5.0.0", reason="its Trainer loses LayerNorms of stock BERT, too")
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(donor, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # 4.41's own random states
    # Masked beforehand: a batch is drawn ahead of the step that reads it, and masks would be drawn with it.
    steps = {"save_strategy": "steps", "save_steps": 6, "masked": mlm_rows(48)}
    whole, _ = train(tmp_path, donor, tokenizer, True, **steps)
    shutil.rmtree(tmp_path / "checkpoint-12")
    resumed, _ = train(tmp_path, donor, tokenizer, True, **steps)
    assert not differing(whole.model.state_dict(), resumed.model.state_dict())
