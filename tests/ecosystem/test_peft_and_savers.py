"""What is used around MLM training: adapters, memory savers, torch.compile, new tokens, classifiers, evaluation."""

import shutil
import weakref

import pytest
import torch
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM
from checkpoints import (
    NO_DROPOUT,
    SHAPE,
    differing,
    distance,
    gradients,
    make_donor,
    mlm_batch,
    mlm_rows,
    pooler_of,
    stored,
)
from packaging.version import Version
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from trainers import arguments
from transformers import AutoModel, AutoModelForMaskedLM, Trainer

pytestmark = [
    # transformers 5.23 renames it to activation checkpointing; PEFT and 4.x know the old name only.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    # The PEFT of transformers 4.41's days looks for the config of a local folder on the Hub.
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
    # Of the variable that the test of resuming sets.
    pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD:UserWarning"),
]
each_path = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


def load(folder, cls=BertPooledMLMForMaskedLM, **fields):
    """A model in training mode, without dropout: two passes then compute the same."""
    return cls.from_pretrained(folder, **NO_DROPOUT, **fields).train()


def donors_pooler():
    return make_donor().bert.pooler.state_dict()


def train(model, steps=3, loss_of=lambda output: output.loss, lr=1e-2, make=mlm_batch):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.1)
    for step in range(steps):
        loss_of(model(**make(seed=step))).backward()
        optimizer.step()
        optimizer.zero_grad()


# PEFT.


LORA = {"r": 2, "target_modules": ["query", "value"], "lora_dropout": 0.0}


def stored_adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft", reason="pip install peft")


@pytest.mark.versions
def test_the_pooler_survives_each_step_of_a_lora_run(peft, pooled, tmp_path):
    """Train, save the adapter, load it on the pooled folder with trust_remote_code, merge, save."""
    base = AutoModelForMaskedLM.from_pretrained(pooled, trust_remote_code=True, **NO_DROPOUT)
    model = peft.get_peft_model(base, peft.LoraConfig(**LORA))
    assert not any("pooler" in name for name, p in model.named_parameters() if p.requires_grad)
    train(model, 10)
    assert not differing(pooler_of(model), donors_pooler())
    inputs = mlm_batch()
    trained = model.eval()(**inputs)
    model.save_pretrained(tmp_path / "adapter")
    assert not any("pooler" in name for name in stored_adapter(tmp_path / "adapter"))

    base = AutoModelForMaskedLM.from_pretrained(pooled, trust_remote_code=True, **NO_DROPOUT)
    untrained = base.eval()(**inputs).loss
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert not differing(pooler_of(loaded), donors_pooler())
    assert torch.equal(loaded(**inputs).logits, trained.logits)
    assert abs(trained.loss - untrained) > 1e-3, "premise: the adapter does something"

    merged = loaded.merge_and_unload()
    assert not differing(pooler_of(merged), donors_pooler())
    merged.save_pretrained(tmp_path / "merged")
    assert stored(tmp_path / "merged").keys() == stored(pooled).keys()
    again, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "merged", trust_remote_code=True, output_loading_info=True
    )
    assert not any(info.values())
    assert not differing(pooler_of(again), donors_pooler())
    # The adapter's product is added to the weight before the input is multiplied, not after.
    torch.testing.assert_close(again.eval()(**inputs).logits, trained.logits, rtol=1e-4, atol=1e-5)


def test_lora_with_the_pooler_in_modules_to_save_trains_saves_and_merges_it(peft, pooled, tmp_path):
    base = AutoModel.from_pretrained(pooled, trust_remote_code=True, **NO_DROPOUT)
    model = peft.get_peft_model(base, peft.LoraConfig(**LORA, modules_to_save=["pooler"]))
    train(model, loss_of=lambda output: output.pooler_output.square().mean())
    trained = pooler_of(model)
    assert differing(trained, donors_pooler()) == {"dense.weight", "dense.bias"}
    model.save_pretrained(tmp_path / "adapter")
    assert sum("pooler" in name for name in stored_adapter(tmp_path / "adapter")) == 2

    base = AutoModel.from_pretrained(pooled, trust_remote_code=True)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert not differing(pooler_of(loaded), trained)
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert stored(tmp_path / "merged").keys() == stored(pooled).keys()
    assert not differing(pooler_of(AutoModel.from_pretrained(tmp_path / "merged", trust_remote_code=True)), trained)


# Memory savers. (Gradient checkpointing: with the model.)


@pytest.mark.versions
@each_path
def test_bf16_autocast_is_near_float32(pooled, sparse):
    model, inputs = load(pooled, sparse_prediction=sparse), mlm_batch()
    loss, grads = gradients(model, **inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half_loss, half_grads = gradients(model, **inputs)
    assert half_loss.dtype == torch.float32
    # bfloat16 keeps 8 bits of the mantissa: 2**-8 = 0.4 % per product. Measured: 1e-4 and 2e-2.
    torch.testing.assert_close(half_loss, loss, rtol=1e-2, atol=0)
    assert distance(grads, half_grads) < 5e-2


@each_path
def test_savers_together_train_under_trainer(pooled, sparse, tmp_path):
    """bf16, gradient checkpointing and accumulation at once, as TrainingArguments turns them on."""
    model = load(pooled, sparse_prediction=sparse)
    args = arguments(
        tmp_path, bf16=True, gradient_checkpointing=True, gradient_accumulation_steps=2, per_device_train_batch_size=2,
        gradient_checkpointing_kwargs={"use_reentrant": False}, learning_rate=1e-2, num_train_epochs=5,
    )  # fmt: skip
    before = gradients(model.eval(), **mlm_batch())[0]
    Trainer(model, args, train_dataset=mlm_rows(8)).train()
    assert gradients(model.eval(), **mlm_batch())[0] < before - 0.3
    assert not differing(pooler_of(model), donors_pooler())


# torch.compile. Graphs are counted on the eager backend, which traces as the others do, in a fraction of the time.


# Dynamo itself looks at the gradient of a tensor that has none.
compiling = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=False):
        yield torch._dynamo
    torch._dynamo.reset()


def one_layer(folder, **fields):
    """To trace one layer takes half the time of two."""
    return load(folder, num_hidden_layers=1, **fields)


def labelled(step, rows=4):
    """A batch whose number of labels is another at each step: 4, 5, 6, ...; at step 5 there are none."""
    inputs = mlm_batch(rows, 16, seed=step)
    ids = torch.where(inputs["labels"] != -100, inputs["labels"], inputs["input_ids"]).flatten()
    chosen = torch.zeros(ids.shape, dtype=torch.bool)
    chosen[torch.arange(0 if step == 5 else step + 4) * 3] = True
    inputs["labels"] = ids.masked_fill(~chosen, -100).view(rows, 16)
    inputs["input_ids"] = ids.masked_fill(chosen, 4).view(rows, 16)
    return inputs


@compiling
@pytest.mark.parametrize(
    ("sparse", "extra", "counted"),
    [
        (False, {"return_logits": True}, False),
        (False, {"return_logits": False}, False),
        (False, {}, True),
        (True, {}, False),
    ],
    ids=["dense", "dense without logits", "num_items_in_batch", "sparse with capture_dynamic_output_shape_ops"],
)
def test_compiled_training_is_one_graph(sparse, extra, counted, pooled, dynamo):
    """Uncompiled, the dense loss reads the labelled rows alone; a graph may not depend on their number.

    Nor on num_items_in_batch where it is a tensor, as Trainer gives it; a Python number costs a second graph.
    """
    model = one_layer(pooled, sparse_prediction=sparse)
    with dynamo.config.patch(capture_dynamic_output_shape_ops=sparse):
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for step in range(8):
            number = {"num_items_in_batch": torch.tensor(20 + step)} if counted else {}
            inputs = {**labelled(step), **extra, **number}
            loss, grads = gradients(model, **inputs)
            compiled_loss, compiled_grads = gradients(compiled, **inputs)
            # The eager backend runs the same kernels.
            torch.testing.assert_close(compiled_loss, loss, rtol=1e-6, atol=0)
            compiled_grads = {name.removeprefix("_orig_mod."): gradient for name, gradient in compiled_grads.items()}
            assert step == 5 or distance(grads, compiled_grads) < 1e-6
            assert counters["stats"]["unique_graphs"] == 1


# Trainer.


# It stores LayerNorm.gamma and .beta for a model that was loaded from disk, and its Trainer does not read them back,
# for stock BERT as for ours.
NOT_READ_BACK = transformers.__version__ == "5.0.0"


@pytest.mark.versions
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(pooled, tmp_path, monkeypatch):
    """Data order, optimizer and schedule included; and the origin may be gone by then."""
    if Version(transformers.__version__) < Version("4.46"):  # reads its RNG states as PyTorch before 2.6 did
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

    def run(folder, source, **kwargs):
        args = arguments(folder, save_strategy="steps", save_steps=2, per_device_train_batch_size=4, **kwargs)
        model = AutoModelForMaskedLM.from_pretrained(source, trust_remote_code=True, **NO_DROPOUT)
        return Trainer(model, args, train_dataset=mlm_rows(24))

    origin = shutil.copytree(pooled, tmp_path / "origin")
    straight = run(tmp_path / "straight", origin, max_steps=6)
    straight.train()
    shutil.copytree(tmp_path / "straight/checkpoint-2", tmp_path / "resumed/checkpoint-2")
    shutil.rmtree(origin)
    resumed = run(tmp_path / "resumed", tmp_path / "straight/checkpoint-4", max_steps=6)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    if not NOT_READ_BACK:
        assert not differing(straight.model.state_dict(), resumed.model.state_dict())
    assert not differing(pooler_of(resumed.model), donors_pooler())


@pytest.mark.versions
def test_evaluation_keeps_the_logits_alone(pooled, tmp_path):
    """What is gathered is counted, and what the model returned besides is gone by the next batch."""
    model, alive, gathered, most = load(pooled), [], [], []

    def watch(module, args, kwargs, output):
        assert output.last_hidden_state is not None
        most.append(sum(ref() is not None for ref in alive))
        alive.extend(weakref.ref(t) for t in (output.last_hidden_state, output.pooler_output, *output.hidden_states))

    model.register_forward_hook(watch, with_kwargs=True)
    model.config.output_hidden_states = True

    class Counting(Trainer):
        def prediction_step(self, *args, **kwargs):
            loss, logits, labels = super().prediction_step(*args, **kwargs)
            gathered.append(sum(t.nbytes for t in (logits if isinstance(logits, tuple) else (logits,))))
            return loss, logits, labels

    rows, length = 40, 12
    evaluate = Counting(
        model,
        arguments(tmp_path, per_device_eval_batch_size=2),
        eval_dataset=mlm_rows(rows),
        compute_metrics=lambda p: {"shape": list(p.predictions.shape)},
    ).evaluate
    assert evaluate()["eval_shape"] == [rows, length, SHAPE["vocab_size"]]
    assert len(gathered) == rows // 2
    assert set(gathered) == {2 * length * SHAPE["vocab_size"] * 4}, "a batch's logits in float32, and nothing else"
    # The last batch's may still be held by a variable of the loop when the next is computed.
    assert max(most) <= len(alive) // len(gathered)
