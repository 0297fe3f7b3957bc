"""New poolers, half of a head, labels and arguments that do not fit, and tensors that have no values."""

import json
import re

import pytest
import torch
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMModel
from bert_pooled_mlm import modeling_bert_pooled_mlm as modeling
from checkpoints import SHAPE, batch, differing, edit_json, gradients, mlm_batch, save_weights, stored
from family import MLM, POOLER, auto_of, class_of, each_head, inputs_of, make, stock_of
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel

pytestmark = pytest.mark.versions
V4 = transformers.__version__.startswith("4.")


# A checkpoint without a pooler.


@pytest.mark.parametrize("url", ["", "https://example.org/bert-pooled-mlm"])
def test_the_error_names_what_restores_the_pooler_and_its_page(url, lost, monkeypatch):
    """Its reader may have nothing but transformers: `convert.py` alone would mean nothing to them."""
    monkeypatch.setattr(modeling, "PROJECT_URL", url)
    with pytest.raises(ValueError, match=re.escape(f"bert-pooled-mlm ({url})" if url else "bert-pooled-mlm ")):
        BertPooledMLMForMaskedLM.from_pretrained(lost)


@each_head
def test_a_new_pooler_is_trainable_claims_no_origin_and_is_saved_as_any_other(head, pooled, tmp_path):
    lost, out = tmp_path / "lost", tmp_path / "new"
    make("ForMaskedLM", pooler_source={"donor": "user/gone"}).save_pretrained(lost)
    save_weights(lost, {name: tensor for name, tensor in stored(lost).items() if name not in POOLER})
    model = class_of(head).from_pretrained(lost, allow_missing_pooler=True)
    assert all(parameter.requires_grad for parameter in model.bert.pooler.parameters())
    assert model.config.pooler_source is None
    before = model.bert.pooler.dense.bias.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.bert(**batch()).pooler_output.sum().backward()
    optimizer.step()
    assert not torch.equal(model.bert.pooler.dense.bias, before)
    model.save_pretrained(out)
    again = class_of(head).from_pretrained(out)
    assert not differing(model.bert.pooler.state_dict(), again.bert.pooler.state_dict())
    assert all(p.requires_grad is class_of(head).pooler_is_trained for p in again.bert.pooler.parameters())


# A half of a head.


@pytest.mark.skipif(not V4, reason="transformers 5.0 removed torchscript")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")  # later torch
@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:`_is_quantized:FutureWarning"
)  # transformers' own
def test_a_head_whose_tied_copies_are_cloned_for_torchscript_is_not_missing(pooled, tmp_path):
    model = AutoModel.from_pretrained(pooled, torchscript=True)
    expected = AutoModel.from_pretrained(pooled)(**batch())
    assert all(torch.equal(a, b) for a, b in zip(model(**batch()), expected.values(), strict=True))
    model.save_pretrained(tmp_path)
    kept = {name for name in stored(pooled) if name.startswith("cls.")}
    assert kept <= stored(tmp_path).keys()
    assert torch.jit.trace(model, batch()["input_ids"])(batch()["input_ids"])[0].shape == (3, 12, 32)


@pytest.mark.parametrize("cls", [BertPooledMLMForMaskedLM, BertPooledMLMModel])
@pytest.mark.parametrize("gone", ["decoder.bias", "decoder.weight", "both"])
def test_an_untied_head_starts_from_what_a_tied_one_reads(cls, gone, tmp_path):
    """One stored bias is read by 4.x as both; 5.x starts the decoder's anew, and a decoder's weight at random."""
    model = make("ForMaskedLM", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    missing = {
        f"cls.predictions.{name}" for name in (("decoder.bias", "decoder.weight") if gone == "both" else [gone])
    }
    tensors = stored(tmp_path) | {"cls.predictions.bias": torch.linspace(-1, 1, SHAPE["vocab_size"])}
    save_weights(tmp_path, {name: tensor for name, tensor in tensors.items() if name not in missing})
    loaded = cls.from_pretrained(tmp_path)
    head = loaded.cls.predictions
    if gone != "decoder.weight":
        assert torch.equal(head.decoder.bias, tensors["cls.predictions.bias"])
    if gone != "decoder.bias":
        assert torch.equal(head.decoder.weight, tensors["bert.embeddings.word_embeddings.weight"])
    assert loaded(**batch()).logits is not None
    loaded.save_pretrained(tmp_path / "again")
    assert not differing(loaded.state_dict(), cls.from_pretrained(tmp_path / "again").state_dict())


# Labels and arguments.


@pytest.mark.parametrize("shape", [(1, 12), (2, 12), (3, 8), (36,), (3, 12, 1)])
@pytest.mark.parametrize("sparse", [False, True])
def test_labels_of_another_shape_than_the_input_are_an_error_with_both_shapes(shape, sparse):
    for head in MLM:
        model = make(head, sparse_prediction=sparse).train()
        with pytest.raises(ValueError, match=re.escape(f"labels are {shape}, ") + r".*\(3, 12\)"):
            model(**batch(), labels=torch.ones(shape, dtype=torch.long))


@each_head
@pytest.mark.parametrize("name", ["next_sentence_label", "num_items_in_batch", "cu_seq_lens_q", "masked_lm_labels"])
def test_an_argument_that_is_not_honoured_is_an_error(head, name):
    """transformers 5 takes any; Trainer then believes that num_items_in_batch is honoured."""
    if V4 and head == "ForNextSentencePrediction":
        pytest.skip("this one class of transformers 4 takes any, and drops them before ours could see them")
    model, inputs = make(head), inputs_of(head)
    if name == "num_items_in_batch" and head in MLM:
        assert model(**inputs, num_items_in_batch=1000).loss < model(**inputs).loss, "honoured"
        return
    assert model.accepts_loss_kwargs is (head in MLM)
    with pytest.raises(TypeError, match=name):
        model(**inputs, **{name: torch.tensor([1])})


# Packed rows.


def test_a_mask_of_blocks_keeps_packed_texts_apart_and_the_pooler_reads_the_first():
    # A mask of blocks is 3-D in transformers 4, and 4.41 reads one in eager attention alone.
    model = make("ForMaskedLM", attn_implementation="eager" if V4 else "sdpa")
    ids, positions = batch()["input_ids"][:1], torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    text = positions.eq(0).cumsum(1)
    blocks = text.unsqueeze(1) == text.unsqueeze(2)
    packed = model(input_ids=ids, position_ids=positions, attention_mask=blocks if V4 else blocks.unsqueeze(1))
    first, second = model(input_ids=ids[:, :5]), model(input_ids=ids[:, 5:])
    alone = torch.cat([first.last_hidden_state, second.last_hidden_state], 1)
    # Rows of other lengths: matrix kernels round differently.
    torch.testing.assert_close(packed.last_hidden_state, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed.pooler_output, first.pooler_output, rtol=1e-4, atol=1e-5)
    mixed = model(input_ids=ids, position_ids=positions).last_hidden_state
    assert (mixed - alone).abs().max() > 1e-3, "premise: position ids alone do not"


# Where Python may not look at the values.


@each_head
def test_a_labelled_forward_runs_on_the_meta_device_and_on_fake_tensors_as_stock_berts_does(head):
    # As far as stock BERT does: 4.x looks at the values of a mask with sdpa, and of input_ids without one; 5.x at any.
    model, inputs = make(head, attn_implementation="eager"), inputs_of(head)
    if not V4:
        del inputs["attention_mask"]
    if head != "ForMultipleChoice":
        inputs["position_ids"] = torch.arange(12).expand(3, -1)
    expected = {name: tensor.shape for name, tensor in model(**inputs).items()}
    on_meta = model.to("meta")(**{name: tensor.to("meta") for name, tensor in inputs.items()})
    assert {name: tensor.shape for name, tensor in on_meta.items()} == expected
    assert on_meta.loss.is_meta
    if not V4:  # earlier versions build their attention mask from the mask's values
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            faked = make(head, attn_implementation="eager")(
                **{name: mode.from_tensor(tensor) for name, tensor in inputs.items()}
            )
        assert {name: tensor.shape for name, tensor in faked.items()} == expected


@pytest.mark.skipif(V4, reason="BERT of transformers 4 looks at its attention mask's values")
def test_a_labelled_forward_runs_under_vmap():
    """Gradients by row, as torch.func gives them: their mean is the batch's where rows have as many labels each."""
    inputs = mlm_batch(3, 12)
    inputs = {name: inputs[name] for name in ("input_ids", "labels", "token_type_ids")}
    inputs["labels"] = torch.where(torch.arange(12) % 4 == 1, inputs["input_ids"], -100)
    model = make("ForMaskedLM", attn_implementation="eager")
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, row):
        row = {name: tensor.unsqueeze(0) for name, tensor in row.items()}
        return torch.func.functional_call(model, parameters, (), row).loss

    by_row = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, inputs)
    grads = gradients(model, **inputs)[1]
    for name, grad in grads.items():
        # Other kernels, in another order: float32's last bits, against gradients of up to 1.
        torch.testing.assert_close(by_row[name].mean(0), grad, rtol=1e-4, atol=1e-6)


# The config's return_dict, as stock BERT reads it.


@each_head
def test_return_dict_and_torchscript_of_a_config_file_act_as_in_stock_bert(head, tmp_path):
    model = make(head)
    stock_of(model).save_pretrained(tmp_path / "stock")
    model.save_pretrained(tmp_path / "ours")
    stock_class = type(stock_of(model))
    for fields in ({"return_dict": False}, {"torchscript": True}, {"return_dict": True}):
        for folder in ("stock", "ours"):
            edit_json(tmp_path / folder / "config.json", "return_dict", "torchscript")
            edit_json(tmp_path / folder / "config.json", **fields)
        inputs = inputs_of(head)
        stock = stock_class.from_pretrained(tmp_path / "stock")(**inputs)
        ours = auto_of(head).from_pretrained(tmp_path / "ours")(**inputs)
        assert isinstance(ours, tuple) is isinstance(stock, tuple), (fields, json.dumps(fields))
