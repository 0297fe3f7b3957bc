"""What stock BERT can be handed to, the pooled model can, too: accelerate, half precision, compile, export, ONNX."""

import onnxruntime
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, BertPooledMLMModel
from checkpoints import POOLER, batch, differing, mlm_rows, todays
from programs import answer
from torch._dynamo.utils import counters
from transformers import AutoModel, AutoModelForMaskedLM

CLASSES = [BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, BertPooledMLMModel]


def inputs(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(rows * length).reshape(rows, length) + 5
    mask = torch.ones_like(ids)
    mask[-1, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


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


# accelerate.


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test's Trainer may have left one
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.versions
def test_accelerate_prepares_trains_unwraps_and_saves_it(accelerator, pooled, tmp_path):
    """As run_mlm_no_trainer.py does. What is saved opens again, with the pooler that it came with."""
    model = AutoModelForMaskedLM.from_pretrained(pooled).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    loader = torch.utils.data.DataLoader(mlm_rows(4), batch_size=2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for inputs in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**inputs).loss)
            optimizer.step()
            optimizer.zero_grad()
    state = accelerator.get_state_dict(model)
    accelerator.unwrap_model(model).save_pretrained(tmp_path, save_function=accelerator.save, state_dict=state)
    again, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    before = todays(pooled)
    moved = differing(before, todays(tmp_path))
    assert moved == before.keys() - {*POOLER}
    assert not differing(again.state_dict(), accelerator.unwrap_model(model).state_dict())


# torch.compile, of inference. (Of training: test_peft_and_savers.py.)


@pytest.mark.versions
@pytest.mark.parametrize("return_logits", [True, False])
def test_compiled_inference_is_eagers_in_one_graph_for_any_shape(return_logits, pooled):
    torch._dynamo.reset()
    counters.clear()
    model = AutoModel.from_pretrained(pooled, num_hidden_layers=1, return_logits=return_logits).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for rows, length in ((3, 12), (2, 9), (4, 15)):
            expected, found = model(**batch(rows, length)), compiled(**batch(rows, length))
            assert [*found] == ["last_hidden_state", "pooler_output", *(["logits"] if return_logits else [])]
            assert all(torch.equal(found[name], expected[name]) for name in expected)  # the same kernels
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


# Export.


def test_onnx_runtime_gives_the_same_with_dynamic_shapes(pooled, tmp_path):
    """Exported in a fresh process: PyTorch's exporter warns of its own deprecations, which would be errors here."""
    assert answer("onnx_export", tmp_path, pooled, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    model = BertPooledMLMModel.from_pretrained(pooled).eval()
    for rows, length in ((1, 4), (3, 9)):
        with torch.no_grad():
            expected = model(**inputs(rows, length))
        found = session.run(None, {name: value.numpy() for name, value in inputs(rows, length).items()})
        for ours, theirs in zip(expected.to_tuple(), found, strict=True):
            assert abs(ours.numpy() - theirs).max() < 1e-5  # other kernels
