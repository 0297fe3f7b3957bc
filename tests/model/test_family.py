"""What transformers asks of each of its models, asked of every class of the family, beside the stock class.

transformers' own common tests are not in its wheel; `studies/common_tests` runs those of its source distribution.
These are the properties of theirs that a BERT can have.
"""

import json
import shutil

import pytest
import torch
import transformers
from checkpoints import batch, bits, differing, distance, gradients, stored
from family import HEADS, MLM, POOLER, auto_of, class_of, each_head, inputs_of, make, stock_of

pytestmark = pytest.mark.versions
CLASSIFIERS = {"ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification"}
GAMMA = transformers.__version__ in ("5.0.0", "5.3.0")  # stores LayerNorms of a loaded model under their old names
V4 = transformers.__version__.startswith("4.")


def tensors_of(output) -> list[torch.Tensor]:
    """All tensors of an output, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [
        tensor for part in (output.values() if isinstance(output, dict) else output) for tensor in tensors_of(part)
    ]


def assert_same(first, second):
    first, second = tensors_of(first), tensors_of(second)
    assert len(first) == len(second) > 0
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


# Beside stock.


@each_head
def test_loss_logits_and_gradients_are_the_stock_classs(head):
    model, inputs = make(head).train(), inputs_of(head)
    stock = stock_of(model).train()
    ours, theirs = model(**inputs), stock(**inputs)
    logits = [name for name in theirs if "logits" in name]
    assert logits
    assert all(torch.equal(ours[name], theirs[name]) for name in logits)
    loss, grads = gradients(model, **inputs)
    stock_loss, stock_grads = gradients(stock, **inputs)
    # In MLM a sum over a number here, a mean there: the last bits of float32. In the others nothing differs.
    torch.testing.assert_close(loss, stock_loss, rtol=1e-6 if head in MLM else 0, atol=0)
    assert distance(stock_grads, grads) < 1e-6
    assert not [name for name in grads if "pooler" in name and name not in stock_grads]


@pytest.mark.parametrize(("problem", "labels"), [("regression", 1), ("multi_label_classification", 3)])
def test_a_classifier_computes_the_stock_classs_loss_of_each_kind(problem, labels):
    model = make("ForSequenceClassification", num_labels=labels, problem_type=problem)
    stock, inputs = stock_of(model), {**batch(), "labels": torch.rand(3, labels)}
    stock.config.problem_type = problem
    assert torch.equal(model(**inputs).loss, stock(**inputs).loss)


@each_head
@pytest.mark.parametrize("through", ["class", "from_config", "from_pretrained", "a stock checkpoint"])
def test_where_the_loss_does_not_reach_the_pooler_it_is_frozen(head, through, donor, tmp_path):
    cls, auto = class_of(head), auto_of(head)
    model = make(head)
    if through == "from_config":
        model = auto.from_config(model.config)
    elif through == "from_pretrained":
        model.save_pretrained(tmp_path)
        model = auto.from_pretrained(tmp_path)
    elif through == "a stock checkpoint":
        model = cls.from_pretrained(donor)
    assert type(model) is cls
    trained = HEADS[head][1]
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == (set() if trained else POOLER)
    if head != "Model":  # its loss is that of MLM; whoever takes it trains something else
        grads = gradients(model.train(), **inputs_of(head))[1]
        assert bool(POOLER & grads.keys()) is trained


@each_head
def test_a_fine_tuned_head_is_saved_with_its_pooler_and_any_other_class_opens_the_folder(head, tmp_path):
    model, inputs = make(head).train(), inputs_of(head)
    before = bits({name: tensor.clone() for name, tensor in model.state_dict().items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(3):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path)
    after = bits(stored(tmp_path))
    moved = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert "bert.encoder.layer.0.output.dense.weight" in moved, "premise: it trained"
    assert POOLER & moved == (POOLER if HEADS[head][1] and head != "Model" else set())
    for other in HEADS:
        if head != other and "ForMultipleChoice" in (head, other) and {head, other} <= CLASSIFIERS:
            continue  # one row against one for each label: stock BERT asks for ignore_mismatched_sizes=True as well
        again, info = auto_of(other).from_pretrained(tmp_path, output_loading_info=True)
        assert type(again) is class_of(other)
        saved = bits(dict(again.bert.state_dict()))
        assert saved == bits(dict(model.bert.state_dict()))
        assert not [name for name in info["missing_keys"] if name.startswith("bert.")]
        output = again.eval()(**inputs_of(other, labels=False))
        if other == "Model":
            assert ("logits" in output) is (head in MLM)


# One class alone.


@each_head
def test_save_load_save_gives_the_same_files(head, tmp_path):
    make(head, problem_type=None, num_labels=3).save_pretrained(tmp_path / "first")
    class_of(head).from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    names = {path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()}
    assert names == {p.relative_to(tmp_path / "second") for p in (tmp_path / "second").rglob("*") if p.is_file()}
    for name in names:
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second"))
        if name.name == "config.json" and V4:  # notes of 4.x: the folder of the weights, who chose the attention
            first, second = (json.loads(text) for text in (first, second))
            for notes in (first, second):
                notes.pop("_name_or_path", None)
                notes.pop("_attn_implementation_autoset", None)
        assert first == second or (GAMMA and name.name == "model.safetensors"), name


@each_head
def test_a_tuple_equals_the_output_object(head):
    model = make(head, attn_implementation="eager")
    for options in ({}, {"output_hidden_states": True, "output_attentions": True}):
        inputs = {**inputs_of(head), **options}
        elements = model(**inputs, return_dict=False)
        assert type(elements) is tuple
        assert_same(elements, model(**inputs))


@each_head
def test_one_row_gives_what_it_gives_in_a_batch(head):
    model, inputs = make(head), inputs_of(head, labels=False)
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    together, alone = model(**inputs), model(**{name: tensor[1:2] for name, tensor in inputs.items()})
    for name in together:
        # Matrix kernels block batches of other sizes differently: a few last bits of float32.
        torch.testing.assert_close(alone[name][0], together[name][1], rtol=1e-5, atol=1e-6)


@each_head
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")  # later 5.x
def test_gradient_checkpointing_gives_the_same_gradients(head):
    model, inputs = make(head).train(), inputs_of(head)
    loss, grads = gradients(model, **inputs)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules()), "premise"
    again, same = gradients(model, **inputs)
    assert again == loss
    assert not differing(grads, same)


@each_head
def test_what_is_missing_is_reported_missing(head, tmp_path):
    gone = "bert.encoder.layer.1.attention.self.query.weight"
    model = make(head)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != gone}
    model.save_pretrained(tmp_path, state_dict=state)
    _, info = class_of(head).from_pretrained(tmp_path, output_loading_info=True)
    assert {*info["missing_keys"]} == {gone}


@each_head
def test_weights_of_another_type_and_in_shards_come_back_as_they_were(head, tmp_path):
    model = make(head).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([*tmp_path.glob("model-*.safetensors")]) > 1, "premise"
    dtype = {"torch_dtype" if V4 else "dtype": "auto"}
    assert not differing(model.state_dict(), class_of(head).from_pretrained(tmp_path, **dtype).state_dict())


@each_head
def test_a_whole_model_can_be_pickled_and_exported(head, tmp_path):
    model, inputs = make(head), inputs_of(head, labels=False)
    torch.save(model, tmp_path / "model.pt")
    assert_same(torch.load(tmp_path / "model.pt", weights_only=False)(**inputs), model(**inputs))
    shutil.rmtree(tmp_path)
    if transformers.__version__ == "5.23.0":  # earlier ones are not made for torch's exporter of today
        inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[-1]).expand(inputs["input_ids"].shape).clone()
        program = torch.export.export(model, (), inputs)
        assert_same(program.module()(**inputs), model(**inputs))
