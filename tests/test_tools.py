"""What stock BERT can be handed to, the pooled model can, too: accelerate's placing, torch.export, ONNX Runtime."""

import onnxruntime
import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, BertPooledMLMModel
from checkpoints import answer
from transformers import BertModel

CLASSES = [BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, BertPooledMLMModel]


def inputs(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(rows * length).reshape(rows, length) + 5
    mask = torch.ones_like(ids)
    mask[-1, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def dynamic() -> dict[str, dict[int, torch.export.Dim]]:
    axes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=64)}
    return {"input_ids": axes, "attention_mask": axes}


@pytest.mark.versions
@pytest.mark.parametrize("cls", CLASSES)
def test_device_map_auto_places_it_as_a_plain_load_does(cls, pooled):
    torch.manual_seed(0)  # of the classifier, which is new
    plain = cls.from_pretrained(pooled).eval()
    torch.manual_seed(0)
    placed = cls.from_pretrained(pooled, device_map="auto").eval()
    one, other = plain(**inputs(2, 7)), placed(**inputs(2, 7))
    assert torch.equal(one.logits, other.logits)
    assert all(
        p.requires_grad == q.requires_grad for p, q in zip(plain.parameters(), placed.parameters(), strict=True)
    )


@pytest.mark.versions
def test_its_layers_are_whole_units_for_a_device_map(pooled):
    model = BertPooledMLMModel.from_pretrained(pooled)
    layer = type(model.bert.encoder.layer[0]).__name__
    assert layer in model._no_split_modules
    assert type(model.bert.embeddings).__name__ in model._no_split_modules


@pytest.mark.parametrize("return_logits", [True, False])
def test_torch_export_with_dynamic_shapes(return_logits, pooled):
    model = BertPooledMLMModel.from_pretrained(pooled, return_logits=return_logits).eval()
    program = torch.export.export(model, (), inputs(2, 7), dynamic_shapes=dynamic())
    expected, found = model(**inputs(3, 5)), program.module()(**inputs(3, 5))
    assert [*found] == [*expected] == ["last_hidden_state", "pooler_output", *(["logits"] if return_logits else [])]
    # Another graph may round differently in the last bits.
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


ONNX = """
import sys, torch
from bert_pooled_mlm import BertPooledMLMModel

class Outputs(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask=attention_mask).to_tuple()

folder, target, return_logits = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
model = BertPooledMLMModel.from_pretrained(folder, return_logits=return_logits).eval()
ids = torch.arange(14).reshape(2, 7) + 5
axes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=64)}
names = ["last_hidden_state", "pooler_output"] + ["logits"] * return_logits
torch.onnx.export(Outputs(model), (ids, torch.ones_like(ids)), dynamo=True, dynamic_shapes=(axes, axes), verbose=False,
                  input_names=["input_ids", "attention_mask"], output_names=names).save(target)
print("true")
"""


@pytest.mark.parametrize("return_logits", [True, False])
def test_onnx_runtime_gives_the_same_with_dynamic_shapes(return_logits, pooled, tmp_path):
    # In a fresh process: PyTorch's exporter warns of its own deprecations, and the suite takes warnings for errors.
    assert answer(ONNX, tmp_path, pooled, tmp_path / "model.onnx", return_logits)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    model = BertPooledMLMModel.from_pretrained(pooled, return_logits=return_logits).eval()
    for rows, length in ((1, 4), (3, 9)):
        with torch.no_grad():
            expected = model(**inputs(rows, length))
        found = session.run(None, {name: value.numpy() for name, value in inputs(rows, length).items()})
        assert len(found) == len(expected) == 2 + return_logits
        for ours, theirs in zip(expected.to_tuple(), found, strict=True):
            assert abs(ours.numpy() - theirs).max() < 1e-5  # other kernels


def test_stock_bert_can_be_exported_at_all(pooled):
    """The premise: what fails for stock BERT, too, is not promised."""
    model = BertModel.from_pretrained(pooled).eval()
    program = torch.export.export(model, (), inputs(2, 7), dynamic_shapes=dynamic())
    assert torch.allclose(program.module()(**inputs(3, 5))["pooler_output"], model(**inputs(3, 5)).pooler_output)
