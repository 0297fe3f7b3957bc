"""The model family in one process: what it loads and refuses, and that its outputs are stock BERT's."""

import shutil

import pytest
import torch
import transformers
from bert_pooled_mlm import (
    BertPooledMLMConfig,
    BertPooledMLMForMaskedLM,
    BertPooledMLMForSequenceClassification,
    BertPooledMLMModel,
    BertPooledMLMModelOutput,
    BertPooledMLMOutput,
)
from checkpoints import POOLER, SHAPE, batch, differing, make_donor, mlm_batch, pooler_of
from checkpoints import make_pooled as make
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
)

pytestmark = pytest.mark.versions

MLM_CLASSES = (BertPooledMLMForMaskedLM, BertPooledMLMModel)
CLASSES = (*MLM_CLASSES, BertPooledMLMForSequenceClassification)
# The stock class with the same tensors, the pooler of the MLM classes aside.
STOCK = {
    BertPooledMLMForMaskedLM: BertForMaskedLM,
    BertPooledMLMModel: BertForMaskedLM,
    BertPooledMLMForSequenceClassification: BertForSequenceClassification,
}
AUTO = {
    BertPooledMLMForMaskedLM: AutoModelForMaskedLM,
    BertPooledMLMModel: AutoModel,
    BertPooledMLMForSequenceClassification: AutoModelForSequenceClassification,
}
OUTPUT = {BertPooledMLMForMaskedLM: BertPooledMLMOutput, BertPooledMLMModel: BertPooledMLMModelOutput}
DTYPE = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"

each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_mlm_class = pytest.mark.parametrize("cls", MLM_CLASSES, ids=lambda cls: cls.__name__)


def twin(model, stock_class, **fields):
    """Stock BERT with the same weights, copied: those of two files may be aligned, and so rounded, differently."""
    config = {**SHAPE, "attn_implementation": model.config._attn_implementation}
    stock = stock_class(BertConfig(**{**config, "num_labels": model.config.num_labels, **fields})).eval()
    weights = model.bert.state_dict() if stock_class is BertModel else model.state_dict()
    missing, unexpected = stock.load_state_dict(weights, strict=False)
    assert not missing
    assert set(unexpected) <= {*POOLER, *(name for name in weights if name.startswith("cls."))}
    return stock.to(model.dtype)


def stock_fields(model, inputs):
    """What stock BERT computes from the same weights, by the names of its outputs' fields."""
    if isinstance(model, BertForSequenceClassification):
        return dict(twin(model, BertForSequenceClassification)(**inputs))
    fields = {**twin(model, BertForMaskedLM)(**inputs), **twin(model, BertModel)(**inputs)}
    if not fields.get("cross_attentions", True):
        del fields["cross_attentions"]  # transformers 5: an encoder's are an empty tuple
    return fields


def same(first, second) -> bool:
    """Bit for bit, through the tuples that hold hidden states and attentions."""
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second)


def edit(folder, out, change) -> str:
    """A copy of a checkpoint whose tensors are `change(tensors)`."""
    shutil.copytree(folder, out)
    save_file(change(load_file(folder / "model.safetensors")), out / "model.safetensors", {"format": "pt"})
    return str(out)


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


# The defect that the family mends: the premise of everything below.


def test_stock_bert_for_masked_lm_loses_the_pooler(donor, lost):
    assert {*POOLER} <= load_file(donor / "model.safetensors").keys()
    assert not [name for name in load_file(lost / "model.safetensors") if "pooler" in name]


# What is in a checkpoint, and what comes out of it.


@each_mlm_class
def test_the_decoder_is_tied_to_the_word_embeddings_as_in_stock_bert(cls, tmp_path):
    model = make(cls)
    model.save_pretrained(tmp_path)
    for tied in (model, cls.from_pretrained(tmp_path), AUTO[cls].from_config(model.config)):
        assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
        assert tied.cls.predictions.decoder.bias is tied.cls.predictions.bias
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "model.safetensors")


# Promise: never a random pooler.


@each_class
@pytest.mark.parametrize("gone", [POOLER, POOLER[:1], POOLER[1:]], ids=["both", "weight", "bias"])
@pytest.mark.parametrize("door", ["a stock checkpoint by class", "a pooled one by Auto class"])
def test_a_checkpoint_without_a_whole_pooler_is_refused_with_the_command_that_mends_it(
    cls, gone, door, donor, pooled, tmp_path
):
    auto = door == "a pooled one by Auto class"
    whole = pooled if auto else donor
    folder = edit(whole, tmp_path / "lost", lambda tensors: {k: v for k, v in tensors.items() if k not in gone})
    with pytest.raises(ValueError, match="has no usable pooler") as refusal:
        (AUTO[cls] if auto else cls).from_pretrained(folder)
    message = str(refusal.value)
    assert message.startswith(f"{folder} has no usable pooler: {', '.join(sorted(gone))} would be random")
    assert f"`python convert.py {folder}`" in message
    assert "\n" not in message


@each_class
def test_a_pooler_of_another_shape_is_refused_under_ignore_mismatched_sizes(cls, donor, tmp_path):
    def widen(tensors):
        return {**tensors, POOLER[0]: torch.zeros(SHAPE["hidden_size"] + 1, SHAPE["hidden_size"])}

    folder = edit(donor, tmp_path / "wide", widen)
    with pytest.raises(ValueError, match=f"has no usable pooler: {POOLER[0]} would be random"):
        cls.from_pretrained(folder, ignore_mismatched_sizes=True)


@each_class
def test_allow_missing_pooler_lets_it_through_with_transformers_own_warning(cls, lost, notices):
    model, info = cls.from_pretrained(lost, allow_missing_pooler=True, output_loading_info=True)
    assert {*POOLER} <= set(info["missing_keys"])
    assert "newly initialized" in "\n".join(notices())
    assert all(name in "\n".join(notices()) for name in POOLER)
    assert model.bert.pooler.dense.weight.std() > 0.01, "initialised, not left as it was in memory"
    assert torch.equal(model.bert.pooler.dense.bias, torch.zeros(SHAPE["hidden_size"]))


def test_add_pooling_layer_false_is_refused_in_one_line_that_names_the_alternative(pooled):
    for refused in (
        lambda: BertPooledMLMModel(BertPooledMLMConfig(**SHAPE), add_pooling_layer=False),
        lambda: AutoModel.from_pretrained(pooled, add_pooling_layer=False),
    ):
        with pytest.raises(ValueError, match=r"add_pooling_layer=False is for transformers\.BertModel") as refusal:
            refused()
        assert "\n" not in str(refusal.value)
    BertModel.from_pretrained(pooled, add_pooling_layer=False)  # the alternative works


# Promise: the pooler is frozen in MLM training, and trainable elsewhere.


# Promise: stock checkpoints that have a pooler are taken, with THEIR pooler.


HEADS = {
    BertPooledMLMForMaskedLM: "cls.predictions.",
    BertPooledMLMModel: "cls.predictions.",
    BertPooledMLMForSequenceClassification: "classifier.",
}


@each_class
@pytest.mark.parametrize("position_ids", [False, True], ids=["of today", "of before 4.31"])
@pytest.mark.parametrize("saved_by", [BertForPreTraining, BertModel], ids=lambda cls: cls.__name__)
def test_a_stock_checkpoint_keeps_its_own_pooler_and_is_read_without_noise(
    cls, saved_by, position_ids, tmp_path, notices
):
    donor = make_donor()
    whole = saved_by is BertForPreTraining  # BertModel's names have no prefix
    (donor if whole else donor.bert).save_pretrained(tmp_path / "donor")
    old = {f"{'bert.' * whole}embeddings.position_ids": torch.arange(SHAPE["max_position_embeddings"]).unsqueeze(0)}
    folder = edit(tmp_path / "donor", tmp_path / "old", lambda t: t | old if position_ids else t)
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    expected = {name: tensor for name, tensor in donor.state_dict().items() if name.startswith("bert.")}
    loaded = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("bert.")}
    assert not differing(expected, loaded)
    assert not info["unexpected_keys"]
    # New is what the checkpoint cannot have: the classifier, or the MLM head of one that has none.
    has_head = cls in MLM_CLASSES and whole
    assert all(name.startswith(HEADS[cls]) for name in info["missing_keys"])
    assert bool(info["missing_keys"]) is not has_head
    text = "\n".join(notices())
    assert "seq_relationship" not in text
    assert "position_ids" not in text
    assert "pooler" not in text.replace("bert_pooled_mlm", "")


@each_class
def test_a_stock_config_is_refused_since_the_saved_folder_would_be_a_stock_one(cls, donor):
    stock = BertConfig.from_pretrained(donor)
    with pytest.raises(ValueError, match="BertPooledMLMConfig"):
        cls.from_pretrained(donor, config=stock)
    with pytest.raises(ValueError, match="BertPooledMLMConfig"):
        cls(stock)


# Promise: nor random logits.


@pytest.fixture(params=["BertModel", "BertPooledMLMForSequenceClassification"])
def headless(request, tmp_path):
    model = make_donor().bert if request.param == "BertModel" else make(BertPooledMLMForSequenceClassification)
    model.save_pretrained(tmp_path / "headless")
    return tmp_path / "headless"


def test_without_an_mlm_head_the_model_returns_no_logits_and_says_so_once(headless, notices):
    model = BertPooledMLMModel.from_pretrained(headless)
    assert model(**batch()).logits is None
    assert model.config.return_logits is True, "saved, it would outlive a head that is trained later"
    assert sum("The checkpoint has no MLM head" in line for line in notices()) == 1


def test_a_random_mlm_head_is_not_saved(headless, tmp_path):
    BertPooledMLMModel.from_pretrained(headless).save_pretrained(tmp_path / "again")
    assert not [name for name in load_file(tmp_path / "again/model.safetensors") if name.startswith("cls.")]
    again = BertPooledMLMModel.from_pretrained(tmp_path / "again")
    assert again(**batch()).logits is None


def test_for_masked_lm_starts_a_new_head_there_and_saves_it(headless, tmp_path, notices):
    model, info = BertPooledMLMForMaskedLM.from_pretrained(headless, output_loading_info=True)
    assert "newly initialized" in "\n".join(notices())
    assert model(**batch()).logits.shape == (3, 12, SHAPE["vocab_size"])
    assert {name for name in info["missing_keys"] if not name.startswith("cls.predictions.")} == set()
    model.save_pretrained(tmp_path / "new")
    assert not differing(model.state_dict(), BertPooledMLMForMaskedLM.from_pretrained(tmp_path / "new").state_dict())


# Drop-in: names, order and values of the outputs.

CASES = {
    "eager": ({"attn_implementation": "eager"}, {}),
    "sdpa": ({"attn_implementation": "sdpa"}, {}),
    "hidden states": ({}, {"output_hidden_states": True}),
    "attentions": ({"attn_implementation": "eager"}, {"output_attentions": True}),
    "position ids": ({}, {"position_ids": torch.arange(12).flip(0).unsqueeze(0)}),
    "inputs_embeds": ({}, {"inputs_embeds": torch.linspace(-1, 1, 3 * 12 * 32).view(3, 12, 32).sin()}),
    "no mask": ({}, {"attention_mask": None, "token_type_ids": None}),
    "all at once": (
        {"attn_implementation": "eager"},
        {"output_hidden_states": True, "output_attentions": True, "position_ids": torch.arange(1, 13).unsqueeze(0)},
    ),
}


def case_inputs(case) -> dict:
    inputs = {**batch(), **CASES[case][1]}
    if "inputs_embeds" in inputs:
        del inputs["input_ids"]
    return inputs


@each_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_every_output_is_bit_for_bit_that_of_stock_bert(cls, case, dtype):
    model, inputs = make(cls, **CASES[case][0]).to(dtype), case_inputs(case)
    if "inputs_embeds" in inputs:
        inputs["inputs_embeds"] = inputs["inputs_embeds"].to(dtype)
    with torch.no_grad():
        ours, stock = dict(model(**inputs)), stock_fields(model, inputs)
    assert ours.keys() == stock.keys()
    assert [field for field in ours if not same(ours[field], stock[field])] == []


def test_the_two_outputs_differ_in_nothing_but_their_order():
    fields = {cls: list(output.__dataclass_fields__) for cls, output in OUTPUT.items()}
    encoders = ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    assert fields[BertPooledMLMForMaskedLM] == ["loss", "logits", *encoders, "pooler_loss"]
    assert fields[BertPooledMLMModel] == ["loss", *encoders, "logits", "pooler_loss"]
    assert all(type(make(cls)(**batch())) is output for cls, output in OUTPUT.items())


def test_element_by_element_the_model_gives_what_bert_model_gives_then_the_logits():
    model = make(BertPooledMLMModel, attn_implementation="eager")
    inputs = {**batch(), "output_hidden_states": True, "output_attentions": True, "return_dict": False}
    elements, stock = model(**inputs), twin(model, BertModel)(**inputs)
    stock = stock[:4]  # transformers 5 adds an encoder's cross-attentions: an empty tuple
    assert len(elements) == len(stock) + 1 == 5
    assert same(elements[:-1], stock)
    assert elements[-1].shape == (3, 12, SHAPE["vocab_size"])


@each_mlm_class
def test_a_decoder_with_cross_attention_is_stock_berts(cls):
    fields = {"is_decoder": True, "add_cross_attention": True}
    model = make(cls, **fields)
    stock = twin(model, BertForMaskedLM, **fields)
    inputs = {
        **batch(),
        "encoder_hidden_states": torch.linspace(-1, 1, 3 * 5 * 32).view(3, 5, 32).cos(),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]),
    }
    ours, theirs = model(**inputs), stock(**inputs)
    assert torch.equal(ours.logits, theirs.logits)
    del inputs["encoder_attention_mask"]
    assert not torch.equal(ours.logits, model(**inputs).logits), "premise: the mask matters"


@pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="transformers 5 has no head_mask")
def test_a_head_mask_acts_as_in_stock_bert():
    model = make(BertPooledMLMForMaskedLM, attn_implementation="eager")
    inputs = {**batch(), "head_mask": torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])}
    ours = model(**inputs)
    assert torch.equal(ours.logits, twin(model, BertForMaskedLM)(**inputs).logits)
    assert not torch.equal(ours.logits, model(**batch()).logits), "premise: the mask matters"


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", torch.tensor([2, 0, 1])),
        ("multi_label_classification", torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])),
        ("regression", torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 1.0, -1.0]])),
    ],
)
def test_the_classifiers_loss_is_stock_berts(problem, labels):
    model = make(BertPooledMLMForSequenceClassification, num_labels=3, problem_type=problem)
    stock = twin(model, BertForSequenceClassification, problem_type=problem)
    assert torch.equal(model(**batch(), labels=labels).loss, stock(**batch(), labels=labels).loss)


# Cost: one encoder pass, and no head that nobody asked for.


@each_mlm_class
@pytest.mark.parametrize("make_inputs", [batch, mlm_batch], ids=["without labels", "with labels"])
def test_a_forward_runs_the_encoder_the_pooler_and_the_head_once(cls, make_inputs):
    model = make(cls)
    parts = (model.bert.embeddings, *model.bert.encoder.layer, model.bert.pooler, model.cls)
    counts = [count_calls(part) for part in parts]
    model(**make_inputs())
    assert [len(calls) for calls in counts] == [1] * len(parts)


@each_mlm_class
def test_return_logits_false_runs_no_head_and_returns_no_logits(cls):
    model = make(cls)
    whole, calls = model(**batch()), count_calls(model.cls)
    spared = model(**batch(), return_logits=False)
    assert not calls
    assert list(spared) == ["last_hidden_state", "pooler_output"]
    assert same(spared.to_tuple(), (whole.last_hidden_state, whole.pooler_output))
    assert model(**batch(), return_logits=True).logits is not None
    assert len(calls) == 1, "premise: they are counted"


@each_mlm_class
def test_return_logits_false_with_labels_still_gives_the_loss_from_the_labelled_rows_alone(cls):
    model, inputs, rows = make(cls), mlm_batch(), []
    model.cls.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[:-1].numel()))
    whole, spared = model(**inputs), model(**inputs, return_logits=False)
    assert rows == [inputs["labels"].numel(), int((inputs["labels"] != -100).sum())]
    # Matrix kernels sum another number of rows in another order.
    torch.testing.assert_close(spared.loss, whole.loss, rtol=1e-5, atol=0)
    assert whole.logits is not None
    assert spared.logits is None


def test_the_configs_return_logits_is_read_by_the_model_alone_and_the_argument_wins():
    model = make(BertPooledMLMModel, return_logits=False)
    calls = count_calls(model.cls)
    assert model(**batch()).logits is None
    assert not calls
    assert model(**batch(), return_logits=True).logits is not None
    assert make(BertPooledMLMForMaskedLM, return_logits=False)(**batch()).logits is not None


def test_return_logits_can_be_chosen_while_loading(pooled):
    assert AutoModel.from_pretrained(pooled, return_logits=False)(**batch()).logits is None
    assert AutoModel.from_pretrained(pooled)(**batch()).logits is not None


# Whatever stock BERT supports.


RESIZES = {"larger": (150, None), "smaller": (100, None), "a multiple": (130, 64), "only padded": (None, 48)}


@each_class
@pytest.mark.parametrize("resize", RESIZES)
def test_resize_token_embeddings_does_what_it_does_to_stock_bert_and_it_trains_on(cls, resize, tmp_path):
    size, multiple = RESIZES[resize]
    model = make(cls)
    stock = twin(model, STOCK[cls])
    for resized in (model, stock):
        torch.manual_seed(2)  # new rows are drawn at random
        resized.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    rows = {"larger": 150, "smaller": 100, "a multiple": 192, "only padded": 144}[resize]
    assert model.get_input_embeddings().weight.shape == (rows, SHAPE["hidden_size"])
    assert model.config.vocab_size == stock.config.vocab_size == rows
    assert differing(model.state_dict(), stock.state_dict()) == ({*POOLER} if cls in MLM_CLASSES else set())
    if cls is BertPooledMLMForMaskedLM:
        pooler, embeddings = pooler_of(model), model.get_input_embeddings().weight.detach().clone()
        inputs = {name: tensor.clamp(max=rows - 1) for name, tensor in mlm_batch().items()}
        inputs["input_ids"][0, 1], inputs["labels"][0, 1] = rows - 1, rows - 1
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        assert not torch.equal(model.get_input_embeddings().weight[-1], embeddings[-1]), "the last token is trained"
        assert model(**inputs).loss < loss
        assert not differing(pooler_of(model), pooler)
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert not differing(model.state_dict(), loaded.state_dict())
    if cls in MLM_CLASSES:
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
        assert loaded.cls.predictions.bias.shape == loaded.cls.predictions.decoder.bias.shape == (rows,)
        assert loaded(**{**batch(), "input_ids": batch()["input_ids"] % 100}).logits.shape == (3, 12, rows)


@each_class
def test_a_device_map_finds_the_units_that_stay_whole(cls):
    model = make(cls)
    units = {*model._no_split_modules}
    assert {type(model.bert.encoder.layer[0]).__name__, type(model.bert.embeddings).__name__} <= units
    assert units <= {type(module).__name__ for module in model.modules()}


# The real thing.


def test_on_minilms_weights_and_text_the_outputs_are_bert_models(minilm):
    model, info = BertPooledMLMModel.from_pretrained(minilm, output_loading_info=True)
    stock = BertModel.from_pretrained(minilm).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    sentences = ["The pooler was lost in training.", "It came back.", "Nothing of this is random any more, is it?"]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        ours = model(**inputs, output_hidden_states=True)
        theirs = stock(**inputs, output_hidden_states=True)
    # One file, mapped twice in the same way: the same bits.
    assert torch.equal(ours.pooler_output, theirs.pooler_output)
    assert same(ours.hidden_states, theirs.hidden_states)
    assert ours.logits is None, "MiniLM has no MLM head"
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"cls"}
    assert not info["unexpected_keys"]
    cosine = torch.nn.functional.cosine_similarity(ours.last_hidden_state[0, 0], ours.last_hidden_state[1, 0], dim=0)
    assert cosine < 0.99, "premise: the sentences are told apart"
