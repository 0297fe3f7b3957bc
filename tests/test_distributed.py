"""Training in several processes: real ones, over gloo, started as users start them."""

import json

import pytest
import torch
import transformers
from checkpoints import ROOT, differing, distance, run_python, stored, todays
from packaging.version import Version
from transformers import AutoModelForMaskedLM

POOLER = {"bert.pooler.dense.bias", "bert.pooler.dense.weight"}

# Both the children and the process that they are compared with import this.
COMMON = '''
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM
from transformers import Trainer, TrainingArguments

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def labelled(count, seed, length=12):
    """`count` rows whose numbers of labels differ."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 128, (count, length), generator=generator)
    kept = torch.rand(ids.shape, generator=generator) < torch.linspace(0.1, 0.9, count).unsqueeze(1)
    kept[:, 3] = True
    return {"input_ids": ids.masked_fill(kept, 4), "labels": ids.masked_fill(~kept, -100)}


class Recorder(torch.optim.SGD):
    """Keeps the gradients that it is given."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.1)
        self.model, self.seen = model, []

    def step(self, closure=None):
        self.seen.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})
        return super().step(closure)


def trainer_gradients(folder, out, size, steps, **fields):
    """The gradients of one optimizer step of Trainer over the same eight rows."""
    model = BertPooledMLMForMaskedLM.from_pretrained(folder, **NO_DROPOUT, **fields)
    rows = labelled(8, seed=0)
    data = [{name: tensor[n] for name, tensor in rows.items()} for n in range(8)]
    # On by default from 4.53 on; 4.41 has neither this nor num_items_in_batch.
    exact = {"average_tokens_across_devices": True}
    exact = exact if exact.keys() <= TrainingArguments.__dataclass_fields__.keys() else {}
    args = TrainingArguments(
        **exact,
        output_dir=str(out), per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_grad_norm=0.0,
        num_train_epochs=1, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
        dataloader_pin_memory=False,
    )
    optimizer = Recorder(model)
    Trainer(model, args, train_dataset=data, optimizers=(optimizer, None)).train()
    assert len(optimizer.seen) == 1
    return optimizer.seen[0]
'''

CHILD = """
import json, sys
from pathlib import Path

import torch.distributed as dist
from common import *
from bert_pooled_mlm import BertPooledMLMModel
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import BertModel

folder, out = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
result = {}


def rows(step):
    # Each rank has its own; at step 2, rank 1 has nothing to predict.
    inputs = labelled(2, seed=10 * step + rank)
    if (step, rank) == (2, 1):
        inputs["labels"].fill_(-100)
    return inputs


def masked_lm(**fields):
    return BertPooledMLMForMaskedLM.from_pretrained(folder, **NO_DROPOUT, **fields).train()


def train(wrapped, model, loss_of, steps=5):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # SGD: the models of different wrappers are compared, and Adam magnifies rounding where a gradient is near 0.
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    losses = []
    try:
        for step in range(steps):
            loss = loss_of(wrapped, rows(step))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    except RuntimeError as error:
        return {"steps": len(losses), "error": str(error)}
    after = model.state_dict()
    return {
        "steps": steps,
        "losses": losses,
        "changed": sorted(name for name in after if not torch.equal(after[name], before[name])),
        "sum": sum(tensor.double().sum().item() for tensor in after.values()),
    }


def mlm_loss(wrapped, inputs):
    return wrapped(**inputs).loss


def both_losses(wrapped, inputs):
    output = wrapped(**inputs)
    return output.loss + output.pooler_output.square().mean()


for sparse in (False, True):
    model = masked_lm(sparse_prediction=sparse)
    result[f"mlm, sparse={sparse}"] = train(DistributedDataParallel(model), model, mlm_loss)
    if rank == 0:
        torch.save(model.state_dict(), Path(out, f"ddp-{sparse}.pt"))

# A thawed pooler.
for find_unused in (False, True):
    for name, loss in (("mlm alone", mlm_loss), ("pooler in the loss", both_losses)):
        model = masked_lm()
        model.bert.pooler.requires_grad_(True)
        wrapped = DistributedDataParallel(model, find_unused_parameters=find_unused)
        result[f"thawed, {name}, find_unused={find_unused}"] = train(wrapped, model, loss)


# A head of one's own.
class Classifier(torch.nn.Module):
    def __init__(self, encoder, take):
        super().__init__()
        self.encoder, self.take, self.head = encoder, take, torch.nn.Linear(32, 2)

    def forward(self, input_ids):
        return self.head(self.take(self.encoder(input_ids)))


def class_loss(wrapped, inputs):
    return torch.nn.functional.cross_entropy(wrapped(inputs["input_ids"]), torch.tensor([0, 1]))


def freeze_mlm_head(model):
    embeddings = model.get_input_embeddings().weight  # the decoder's weight is this one
    for parameter in model.cls.parameters():
        parameter.requires_grad_(parameter is embeddings)


def pooled_model(frozen):
    torch.manual_seed(0)
    model = BertPooledMLMModel.from_pretrained(folder, return_logits=False)
    if frozen:
        freeze_mlm_head(model)
    return model


def first_state(output):
    return output.last_hidden_state[:, 0]


def pooler_output(output):
    return output.pooler_output


def stock(**options):
    torch.manual_seed(0)
    return BertModel.from_pretrained(folder, **options)


heads = {
    "pooler_output, MLM head frozen": (lambda: pooled_model(True), pooler_output, False),
    "pooler_output, MLM head trainable": (lambda: pooled_model(False), pooler_output, False),
    "pooler_output, MLM head trainable, find_unused": (lambda: pooled_model(False), pooler_output, True),
    "pooler_output, BertModel": (stock, pooler_output, False),
    "[CLS], masked-LM class, MLM head frozen": (lambda: (m := masked_lm(), freeze_mlm_head(m))[0], first_state, False),
    "[CLS], BertModel without its pooler": (lambda: stock(add_pooling_layer=False), first_state, False),
}
for name, (make, take, find_unused) in heads.items():
    model = Classifier(make(), take)
    result[name] = train(DistributedDataParallel(model, find_unused_parameters=find_unused), model, class_loss, 3)

# FSDP2, and what it saves.
model = masked_lm()
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
mesh = init_device_mesh("cpu", (2,))
for layer in model.bert.encoder.layer:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
losses = []
for step in range(5):  # as in train()
    loss = model(**rows(step)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
shard = model.bert.pooler.dense.weight.to_local()
full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
result["fsdp2"] = {
    "losses": losses,
    "shard": list(shard.shape),
    "changed": sorted(name for name, tensor in full.items() if not torch.equal(tensor, before[name])),
}
if rank == 0:  # the others' full state dict is empty
    whole = BertPooledMLMForMaskedLM(model.config)
    whole.load_state_dict(full)
    whole.save_pretrained(Path(out, "fsdp"))

# Trainer: eight rows in one step, as 2 processes x 2 micro-batches x 2 rows.
for sparse in (False, True):
    grads = trainer_gradients(folder, out, 2, 2, sparse_prediction=sparse)
    torch.save(grads, Path(out, f"gradients-{sparse}-{rank}.pt"))

Path(out, f"{rank}.json").write_text(json.dumps(result), encoding="utf-8")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    """The code shared with the children, in a folder that this process imports it from, too."""
    folder = tmp_path_factory.mktemp("common")
    (folder / "common.py").write_text(COMMON, encoding="utf-8")
    namespace = {}
    exec(compile(COMMON, "common.py", "exec"), namespace)
    return folder, namespace


@pytest.fixture(scope="module")
def processes(pooled, common, tmp_path_factory):
    """`python -m torch.distributed.run --nproc_per_node 2`: the folder, and what each of the two processes saw."""
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "child.py").write_text(CHILD, encoding="utf-8")
    launch = "import runpy; runpy.run_module('torch.distributed.run', run_name='__main__', alter_sys=True)"
    options = ("--standalone", "--nproc_per_node", "2", folder / "child.py")
    for _ in range(2):  # the launcher picks a free port, and another test may take it before it is bound (seen once)
        done = run_python(launch, folder, *options, pooled, folder, OMP_NUM_THREADS="1", PYTHONPATH=str(common[0]))
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]


def seen(processes, name):
    """What the two processes saw; premise: both hold the same model."""
    first, second = (rank[name] for rank in processes[1])
    assert first["steps"] == second["steps"]
    assert first.get("sum") == second.get("sum")
    return first, second


@pytest.mark.versions
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_ddp_trains_without_find_unused_parameters_and_the_pooler_stays(processes, sparse):
    for rank in seen(processes, f"mlm, sparse={sparse}"):
        assert rank["steps"] == 5
        assert len(rank["changed"]) > 40, "it trained"
        assert not POOLER & {*rank["changed"]}


@pytest.mark.versions
def test_ddp_survives_a_rank_with_nothing_to_predict(processes):
    losses = [rank["losses"] for rank in seen(processes, "mlm, sparse=True")]
    assert losses[1][2] == 0
    assert losses[0][2] > 1
    assert all(loss > 1 for rank in losses for loss in rank[3:]), "no NaN after it"


@pytest.mark.versions
def test_ddp_with_sparse_prediction_trains_the_same_model(processes):
    dense, sparse = (torch.load(processes[0] / f"ddp-{flag}.pt", weights_only=True) for flag in (False, True))
    for name in dense:
        # Five steps whose matrix products had other numbers of rows.
        torch.testing.assert_close(sparse[name], dense[name], rtol=1e-4, atol=1e-5)


def test_a_thawed_pooler_that_gets_no_gradient_needs_find_unused_parameters(processes):
    for rank in seen(processes, "thawed, mlm alone, find_unused=False"):
        assert rank["steps"] == 1
        assert "Expected to have finished reduction" in rank["error"]
    for rank in seen(processes, "thawed, mlm alone, find_unused=True"):
        assert rank["steps"] == 5
        assert not POOLER & {*rank["changed"]}, "without a gradient, weight decay does not move it either"


def test_a_thawed_pooler_with_a_loss_of_its_own_trains_under_plain_ddp(processes):
    for rank in seen(processes, "thawed, pooler in the loss, find_unused=False"):
        assert rank["steps"] == 5
        assert {*rank["changed"]} >= POOLER


@pytest.mark.parametrize(
    ("name", "pooler_trains"),
    [
        ("pooler_output, MLM head frozen", True),
        ("pooler_output, MLM head trainable, find_unused", True),
        ("pooler_output, BertModel", True),
        ("[CLS], masked-LM class, MLM head frozen", False),
        ("[CLS], BertModel without its pooler", False),
    ],
)
def test_a_head_of_ones_own_trains_under_ddp(processes, name, pooler_trains):
    for rank in seen(processes, name):
        assert rank["steps"] == 3
        changed = {key.removeprefix("encoder.") for key in rank["changed"]}
        assert "head.weight" in changed
        assert any(key.endswith("embeddings.word_embeddings.weight") for key in changed), "the encoder trained"
        assert any("pooler.dense" in key for key in changed) == pooler_trains
        assert not any("cls.predictions.transform" in key for key in changed)


def test_a_head_of_ones_own_under_ddp_fails_with_a_trainable_mlm_head(processes):
    """The reason for freezing it."""
    for rank in seen(processes, "pooler_output, MLM head trainable"):
        assert rank["steps"] == 1
        assert "Expected to have finished reduction" in rank["error"]


@pytest.mark.versions
def test_fsdp2_trains_as_ddp_does_and_the_pooler_stays(processes):
    ranks = processes[1]
    first = ranks[0]["fsdp2"]
    assert first["shard"] == [16, 32], "premise: each process holds half of the pooler"
    assert len(first["changed"]) > 40, "it trained"
    assert not POOLER & {*first["changed"]}
    for rank in ranks:
        # Sums over two processes are the same in any order: the same up to kernels.
        torch.testing.assert_close(
            torch.tensor(rank["fsdp2"]["losses"]),
            torch.tensor(rank["mlm, sparse=False"]["losses"]),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.versions
def test_the_full_state_dict_of_fsdp2_is_saved_and_loads(processes, pooled):
    folder = processes[0] / "fsdp"
    model, info = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values())
    names = [{*todays(kept)} for kept in (folder, pooled)]
    assert names[0] == names[1]
    assert not POOLER & differing(stored(folder), stored(pooled))
    ddp = torch.load(processes[0] / "ddp-False.pt", weights_only=True)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, ddp[name], rtol=1e-5, atol=1e-6)  # as the losses above


@pytest.mark.versions
@pytest.mark.skipif(
    Version(transformers.__version__) < Version("4.46"), reason="Trainer has num_items_in_batch since 4.46"
)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_2_processes_by_2_micro_batches_by_2_rows_give_the_gradients_of_1_batch_of_8(
    processes, common, pooled, sparse, tmp_path
):
    whole = common[1]["trainer_gradients"](pooled, tmp_path, 8, 1, sparse_prediction=sparse)
    parts = [torch.load(processes[0] / f"gradients-{sparse}-{rank}.pt", weights_only=True) for rank in range(2)]
    assert not differing(*parts), "both processes step alike"
    assert distance(whole, parts[0]) < 1e-6
    assert not POOLER & whole.keys()


def test_the_example_runs_under_accelerate_launch_as_users_start_it(pooled, tmp_path):
    """Two processes; one speaks, one saves, and what is saved is one model."""
    lines = [f"word{n % 7} word{n % 11} word{n % 13} word{n % 17} word{n % 5} word3" for n in range(40)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    launch = "from accelerate.commands.launch import main; main()"
    options = ("--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
    example = (ROOT / "examples/continue_pretraining.py", "--model", pooled, "--train", "text.txt", "-o", "out")
    fast = ("--line-by-line", "--length", 16, "--batch-size", 2, "--max-steps", 3, "--sparse-prediction", "--cpu")
    done = run_python(launch, tmp_path, *options, "--main_process_port=0", *example, *fast, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("3 steps of 4, 2 process(es).") == 1
    assert done.stdout.count("Its pooler is bit for bit that of") == 1
    assert not POOLER & differing(stored(tmp_path / "out"), stored(pooled))
    _, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", trust_remote_code=True, output_loading_info=True)
    assert not any(info.values())
    assert (tmp_path / "out/checkpoint-3/modeling_bert_pooled_mlm.py").exists()
