"""What a pass computes, operation by operation beside stock BERT's: costs that need no clock."""

import math
from collections import Counter

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMModel
from checkpoints import NO_DROPOUT, make_pooled, mlm_batch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForMaskedLM, BertModel

pytestmark = pytest.mark.versions
VOCABULARY = 301  # no other size of the model: what is as wide is a row of logits, or of their gradients
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
WIDE_WEIGHTS = {32, 1}  # rows of the gradients of the decoder's weight and bias


class Operations(TorchDispatchMode):
    """Counts operations with the shapes of their results."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.seen[function._schema.name, tuple(result.shape)] += 1
        return result

    def products(self) -> Counter:
        return Counter({key: count for key, count in self.seen.items() if key[0] in PRODUCTS})

    def rows(self, part: str = "") -> list[int]:
        """Of what is as wide as the vocabulary."""
        wide = [(shape, count) for (name, shape), count in self.seen.items() if part in name and len(shape) > 1]
        return [math.prod(shape[:-1]) for shape, count in wide for _ in range(count) if shape[-1] == VOCABULARY]


def operations(call) -> Operations:
    with Operations() as found:
        call()
    return found


def step(model, inputs):
    return lambda: model.train()(**inputs).loss.backward()


def stock_config(model) -> BertConfig:
    """The fields of BERT; 4.48 also stores how the attention was chosen, and would not choose it again."""
    fields = model.config.to_dict()
    return BertConfig(**{name: fields[name] for name in BertConfig().to_dict() if name in fields and name[0] != "_"})


def models(cls=BertPooledMLMForMaskedLM, **fields):
    """Ours and stock BERT, of one config."""
    ours = make_pooled(cls, vocab_size=VOCABULARY, **NO_DROPOUT, **fields)
    return ours, BertForMaskedLM(stock_config(ours)).eval()


@pytest.fixture
def labelled():
    inputs = mlm_batch()
    assert 0 < (inputs["labels"] != -100).sum() < inputs["labels"].numel() / 2
    return inputs


def count(inputs) -> int:
    return int((inputs["labels"] != -100).sum())


@pytest.mark.parametrize(
    ("cls", "training"),
    [(BertPooledMLMForMaskedLM, False), (BertPooledMLMForMaskedLM, True), (BertPooledMLMModel, False)],
)
def test_a_pass_takes_the_matrix_products_of_stock_bert_and_one_of_the_pooler(cls, training, labelled):
    """Backward too: the frozen pooler has none."""
    found = []
    for model in models(cls):
        call = step(model, labelled) if training else lambda model=model: model(**labelled)
        found.append(operations(call).products())
    assert found[1].total() > 12, "premise"
    assert found[0] - found[1] == {("aten::addmm", (3, 32)): 1}
    assert not found[1] - found[0]


def test_vectors_take_the_matrix_products_of_bert_model(labelled):
    del labelled["labels"]
    ours = make_pooled(BertPooledMLMModel, return_logits=False)
    stock = BertModel(stock_config(ours))
    found = [operations(lambda model=model: model(**labelled)).products() for model in (ours, stock.eval())]
    assert found[0] == found[1]
    assert found[0].total() > 10, "premise"


def test_the_sparse_head_computes_the_labelled_rows_alone(labelled):
    """Forward and backward, and the logits of float32 are not copied."""
    ours, stock = models(sparse_prediction=True)
    found = operations(step(ours, labelled))
    assert {*found.rows()} - WIDE_WEIGHTS == {count(labelled)}
    assert not found.rows("_to_copy")
    assert labelled["labels"].numel() in operations(step(stock, labelled)).rows(), "premise: stock's are of all tokens"


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("training", [False, True])
def test_the_loss_is_computed_from_the_labelled_rows_alone(training, sparse, labelled):
    """Where the logits are those of all positions, too: stock BERT makes two more arrays of their size."""
    ours, stock = models(sparse_prediction=sparse)
    found = [
        operations(lambda model=model: model.train(training)(**labelled).loss.backward()) for model in (ours, stock)
    ]
    assert found[0].rows("softmax") == 2 * [count(labelled)], "forward and backward"
    assert found[1].rows("softmax") == 2 * [labelled["labels"].numel()], "premise"
