"""The model family in one process: what it loads, and that its outputs are stock BERT's."""

import shutil

import pytest
import torch
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMModel, BertPooledMLMModelOutput, BertPooledMLMOutput
from checkpoints import SHAPE, batch, bits, differing, make_donor, mlm_batch, pooler_of, save_weights, stored
from family import HEADS, MLM, POOLER, auto_of, class_of, each_head, make, stock_of
from safetensors.torch import load_file
from transformers import AutoModel, BertConfig, BertForPreTraining, BertModel

pytestmark = pytest.mark.versions

each_mlm_head = pytest.mark.parametrize("head", MLM)


def stock_fields(model, inputs):
    """What stock BERT computes from the same weights, by the names of its outputs' fields."""
    encoder = BertModel(stock_of(model).config).eval().to(model.dtype)
    encoder.load_state_dict(model.bert.state_dict())
    fields = {**stock_of(model).to(model.dtype)(**inputs), **encoder(**inputs)}
    if not fields.get("cross_attentions", True):
        del fields["cross_attentions"]  # transformers 5: an encoder's are an empty tuple
    return fields


def same(first, second) -> bool:
    """Bit for bit, through the tuples that hold hidden states and attentions."""
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second)


def edit(folder, out, change):
    """A copy of a checkpoint whose tensors are `change(tensors)`."""
    shutil.copytree(folder, out)
    save_weights(out, change(stored(folder)))
    return out


def count_calls(module) -> list:
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.fixture
def notices(caplog):
    """What is logged at WARNING or above, by transformers as well."""
    transformers.logging.enable_propagation()
    yield lambda: [record.getMessage() for record in caplog.records]
    transformers.logging.disable_propagation()


# Promise: never a random pooler.


@each_head
@pytest.mark.parametrize("gone", [POOLER, {min(POOLER)}, {max(POOLER)}], ids=["both", "bias", "weight"])
@pytest.mark.parametrize("through", ["class", "Auto class"])
def test_a_checkpoint_without_a_whole_pooler_is_an_error_that_names_the_command(
    head, gone, through, donor, pooled, tmp_path
):
    folder = edit(
        pooled if through == "Auto class" else donor,
        tmp_path / "lost",
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in gone},
    )
    cls = auto_of(head) if through == "Auto class" else class_of(head)
    with pytest.raises(ValueError, match="has no usable pooler") as error:
        cls.from_pretrained(folder)
    message = str(error.value)
    assert message.startswith(f"{folder} has no usable pooler: {', '.join(sorted(gone))} ")
    assert f"`python convert.py {folder}`" in message
    assert "\n" not in message
    with pytest.raises(ValueError, match="has no usable pooler") as error:
        cls.from_pretrained(tmp_path, subfolder="lost")
    assert f"`python convert.py {folder}`" in str(error.value)


def test_a_pooler_of_another_shape_is_an_error_under_ignore_mismatched_sizes(donor, tmp_path):
    size = SHAPE["hidden_size"]
    name = "bert.pooler.dense.weight"
    folder = edit(donor, tmp_path / "wide", lambda tensors: {**tensors, name: torch.zeros(size + 1, size)})
    for head in HEADS:
        with pytest.raises(ValueError, match=f"has no usable pooler: {name}"):
            class_of(head).from_pretrained(folder, ignore_mismatched_sizes=True)


def test_allow_missing_pooler_initialises_one_with_transformers_own_warning(lost, notices):
    model, info = BertPooledMLMModel.from_pretrained(lost, allow_missing_pooler=True, output_loading_info=True)
    assert {*info["missing_keys"]} >= POOLER
    assert all(name in "\n".join(notices()) for name in ("newly initialized", *POOLER))
    assert model.bert.pooler.dense.weight.std() > 0.01, "initialised, not left as it was in memory"
    assert not model.bert.pooler.dense.bias.any()


def test_add_pooling_layer_false_is_an_error_that_names_the_alternative(pooled):
    with pytest.raises(ValueError, match=r"add_pooling_layer=False .*transformers\.BertModel"):
        AutoModel.from_pretrained(pooled, add_pooling_layer=False)
    BertModel.from_pretrained(pooled, add_pooling_layer=False)  # the alternative works
    assert AutoModel.from_pretrained(pooled, add_pooling_layer=True).bert.pooler is not None


# Promise: stock checkpoints that have a pooler are taken, with THEIR pooler.


@each_head
@pytest.mark.parametrize("position_ids", [False, True], ids=["of today", "of before 4.31"])
@pytest.mark.parametrize("saved_by", [BertForPreTraining, BertModel], ids=lambda cls: cls.__name__)
def test_a_stock_checkpoint_keeps_its_own_pooler_and_is_read_without_noise(
    head, saved_by, position_ids, tmp_path, notices
):
    donor = make_donor()
    whole = saved_by is BertForPreTraining  # BertModel's names have no prefix
    (donor if whole else donor.bert).save_pretrained(tmp_path / "donor")
    old = {f"{'bert.' * whole}embeddings.position_ids": torch.arange(SHAPE["max_position_embeddings"]).unsqueeze(0)}
    folder = edit(tmp_path / "donor", tmp_path / "old", lambda t: t | old if position_ids else t)
    model, info = class_of(head).from_pretrained(folder, output_loading_info=True)
    assert bits(model.bert.state_dict()) == bits(donor.bert.state_dict())
    assert not info["unexpected_keys"]
    # New is what the checkpoint cannot have: a head of another kind, or the MLM head of one that has none.
    own = stock_of(make(head)).state_dict().keys()
    assert {*info["missing_keys"]} <= {name for name in own if not name.startswith("bert.")}
    assert bool(info["missing_keys"]) is not (whole and head in (*MLM, "ForNextSentencePrediction"))
    if whole and head in MLM:
        assert not differing(model.cls.predictions.state_dict(), donor.cls.predictions.state_dict())
    text = "\n".join(notices()).replace("bert_pooled_mlm", "")
    assert not [word for word in ("position_ids", "pooler") if word in text]
    assert "seq_relationship" not in text or head == "ForNextSentencePrediction"


@each_head
def test_a_stock_config_is_an_error_since_the_saved_folder_would_be_a_stock_one(head, donor):
    stock = BertConfig.from_pretrained(donor)
    with pytest.raises(ValueError, match="BertPooledMLMConfig"):
        class_of(head).from_pretrained(donor, config=stock)
    with pytest.raises(ValueError, match="BertPooledMLMConfig"):
        class_of(head)(stock)


@each_mlm_head
def test_the_decoder_is_tied_to_the_word_embeddings_as_in_stock_bert(head, tmp_path):
    model = make(head)
    model.save_pretrained(tmp_path)
    for tied in (model, class_of(head).from_pretrained(tmp_path), auto_of(head).from_config(model.config)):
        assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
        assert tied.cls.predictions.decoder.bias is tied.cls.predictions.bias
    assert "cls.predictions.decoder.weight" not in stored(tmp_path)


# Promise: nor random logits.


@pytest.fixture(params=["BertModel", "BertPooledMLMForSequenceClassification"])
def headless(request, tmp_path):
    model = make_donor().bert if request.param == "BertModel" else make("ForSequenceClassification")
    model.save_pretrained(tmp_path / "headless")
    return tmp_path / "headless"


def test_without_an_mlm_head_the_model_returns_no_logits_logs_that_and_saves_none(headless, tmp_path, notices):
    model = BertPooledMLMModel.from_pretrained(headless)
    assert model(**batch()).logits is None
    assert model.config.return_logits is True, "saved, it would outlive a head that is trained later"
    assert ["--head-from" in line for line in notices() if "no MLM head" in line] == [True]
    model.save_pretrained(tmp_path / "again")
    assert not [name for name in load_file(tmp_path / "again/model.safetensors") if name.startswith("cls.")]
    assert BertPooledMLMModel.from_pretrained(tmp_path / "again")(**batch()).logits is None


def test_for_masked_lm_starts_a_new_head_there_and_saves_it(headless, tmp_path, notices):
    model, info = BertPooledMLMForMaskedLM.from_pretrained(headless, output_loading_info=True)
    assert "newly initialized" in "\n".join(notices())
    assert model(**batch()).logits.shape == (3, 12, SHAPE["vocab_size"])
    assert all(name.startswith("cls.predictions.") for name in info["missing_keys"])
    model.save_pretrained(tmp_path / "new")
    assert not differing(model.state_dict(), BertPooledMLMForMaskedLM.from_pretrained(tmp_path / "new").state_dict())


# Drop-in: names, order and values of the outputs.

CASES = {
    "eager": ({"attn_implementation": "eager"}, {}),
    "sdpa": ({"attn_implementation": "sdpa"}, {}),
    "position ids": ({}, {"position_ids": torch.arange(12).flip(0).unsqueeze(0)}),
    "inputs_embeds": ({}, {"inputs_embeds": torch.linspace(-1, 1, 3 * 12 * 32).view(3, 12, 32).sin()}),
    "no mask": ({}, {"attention_mask": None, "token_type_ids": None}),
    "all outputs": ({"attn_implementation": "eager"}, {"output_hidden_states": True, "output_attentions": True}),
}


@each_mlm_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_output_is_bit_for_bit_that_of_stock_bert(head, case, dtype):
    fields, arguments = CASES[case]
    model, inputs = make(head, **fields).to(dtype), {**batch(), **arguments}
    if "inputs_embeds" in inputs:
        del inputs["input_ids"]
        inputs["inputs_embeds"] = inputs["inputs_embeds"].to(dtype)
    with torch.no_grad():
        ours, stock = dict(model(**inputs)), stock_fields(model, inputs)
    assert ours.keys() == stock.keys()
    assert [field for field in ours if not same(ours[field], stock[field])] == []


def test_the_two_outputs_differ_in_nothing_but_their_order():
    encoder = ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    expected = {
        "ForMaskedLM": (BertPooledMLMOutput, ["loss", "logits", *encoder, "pooler_loss"]),
        "Model": (BertPooledMLMModelOutput, ["loss", *encoder, "logits", "pooler_loss"]),
    }
    for head, (output, fields) in expected.items():
        assert type(make(head)(**batch())) is output
        assert [*output.__dataclass_fields__] == fields


# Cost: one encoder pass, and no head that nobody asked for.


@each_mlm_head
def test_return_logits_false_runs_no_head_and_returns_no_logits(head):
    model = make(head)
    whole, calls = model(**batch()), count_calls(model.cls)
    vectors = model(**batch(), return_logits=False)
    assert not calls
    assert list(vectors) == ["last_hidden_state", "pooler_output"]
    assert same(vectors.to_tuple(), (whole.last_hidden_state, whole.pooler_output))


@each_mlm_head
def test_return_logits_false_with_labels_still_gives_the_loss_from_the_labelled_rows_alone(head):
    model, inputs, rows = make(head), mlm_batch(), []
    model.cls.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[:-1].numel()))
    whole, without = model(**inputs), model(**inputs, return_logits=False)
    assert rows == [inputs["labels"].numel(), int((inputs["labels"] != -100).sum())]
    # Matrix kernels sum another number of rows in another order.
    torch.testing.assert_close(without.loss, whole.loss, rtol=1e-5, atol=0)
    assert whole.logits is not None
    assert without.logits is None


def test_the_configs_return_logits_is_read_by_the_model_alone_and_the_argument_takes_precedence(pooled):
    for model in (make("Model", return_logits=False), AutoModel.from_pretrained(pooled, return_logits=False)):
        assert model(**batch()).logits is None
        assert model(**batch(), return_logits=True).logits is not None
    assert make("ForMaskedLM", return_logits=False)(**batch()).logits is not None


# Whatever stock BERT supports.

RESIZES = {"larger": (150, None, 150), "smaller": (100, None, 100), "a multiple": (130, 64, 192)}


@pytest.mark.parametrize("head", [*MLM, "ForSequenceClassification"])
@pytest.mark.parametrize("resize", RESIZES)
def test_resize_token_embeddings_does_what_it_does_to_stock_bert_and_it_trains_on(head, resize, tmp_path):
    size, multiple, rows = RESIZES[resize]
    model = make(head)
    stock = stock_of(model)
    for resized in (model, stock):
        torch.manual_seed(2)  # new rows are drawn at random
        resized.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    assert model.config.vocab_size == stock.config.vocab_size == rows
    assert differing(model.state_dict(), stock.state_dict()) == (POOLER if head in MLM else set())
    if head == "ForMaskedLM":
        pooler, embeddings = pooler_of(model), model.get_input_embeddings().weight.detach().clone()
        inputs = {name: tensor.clamp(max=rows - 1) for name, tensor in mlm_batch().items()}
        inputs["input_ids"][0, 1], inputs["labels"][0, 1] = rows - 1, rows - 1
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        model(**inputs).loss.backward()
        optimizer.step()
        assert not torch.equal(model.get_input_embeddings().weight[-1], embeddings[-1]), "the last token is trained"
        assert not differing(pooler_of(model), pooler)
    model.save_pretrained(tmp_path)
    loaded = class_of(head).from_pretrained(tmp_path)
    assert not differing(model.state_dict(), loaded.state_dict())
    if head in MLM:
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
        assert loaded.cls.predictions.bias.shape == loaded.cls.predictions.decoder.bias.shape == (rows,)


@each_head
def test_a_device_map_finds_the_units_that_stay_whole(head):
    model = make(head)
    units = {*model._no_split_modules}
    assert {type(model.bert.encoder.layer[0]).__name__, type(model.bert.embeddings).__name__} <= units
    assert units <= {type(module).__name__ for module in model.modules()}
