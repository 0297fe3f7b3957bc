"""Every way of training over processes, in one of two: what each model did, and files to compare."""

import json
import sys
from pathlib import Path

import datasets
import torch
import torch.distributed as dist
from bert_pooled_mlm import (
    AnchoredDataset,
    AnchoringCollator,
    BertPooledMLMForMaskedLM,
    BertPooledMLMForSequenceClassification,
    BertPooledMLMModel,
)
from checkpoints import NO_DROPOUT, mlm_batch, mlm_rows
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from trainers import arguments, step_gradients
from transformers import BertModel, Trainer

folder, out = sys.argv[1:]
dist.init_process_group("gloo")
rank = dist.get_rank()
result = {}


def rows(step):
    # Each rank has its own; at step 2, rank 1 has nothing to predict.
    inputs = mlm_batch(2, seed=10 * step + rank)
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


# Anchored: at step 2, rank 1 has neither labels nor targets.
def anchored_loss(wrapped, inputs):
    targets = torch.full((2, 32), 0.5)
    targets[0 if (inputs["labels"] != -100).any() else slice(None)] = -100
    return wrapped(**inputs, pooler_targets=targets).loss


model = masked_lm()
result["anchored"] = train(DistributedDataParallel(model), model, anchored_loss)

# The class whose pooler is trainable.
model = BertPooledMLMModel.from_pretrained(folder, **NO_DROPOUT).train()
result["mlm, trainable pooler"] = train(DistributedDataParallel(model), model, mlm_loss)

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
    model.save_pretrained(Path(out, "fsdp"), state_dict=full)

# Trainer: eight rows in one step, as 2 processes x 2 micro-batches x 2 rows.
for sparse in (False, True):
    grads = step_gradients(masked_lm(sparse_prediction=sparse), out, 2, 2)
    torch.save(grads, Path(out, f"gradients-{sparse}-{rank}.pt"))

# And what it leaves of a model whose pooler is trained.
model = BertPooledMLMForSequenceClassification.from_pretrained(folder)
inputs = [{"input_ids": row["input_ids"], "labels": number % 2} for number, row in enumerate(mlm_rows(8))]
args = arguments(Path(out, "trainer"), max_steps=2, save_strategy="steps", save_steps=2, learning_rate=1e-2)
trainer = Trainer(model, args, train_dataset=inputs)
trainer.train()
trainer.save_model(str(Path(out, "trainer")))

# Trainer, anchored, on a stream: which rows each process trains on.
seen = {"rows": [], "anchors": 0}


def blocks(rows):
    seen["rows"] += [row["input_ids"][0] for row in rows]
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "labels": ids.clone()}


class Counting(AnchoringCollator):
    def __call__(self, rows):
        seen["anchors"] += sum("pooler_targets" in row for row in rows)
        return super().__call__(rows)


stream = datasets.Dataset.from_list([{"input_ids": [n, 5, 6]} for n in range(10, 34)]).to_iterable_dataset(4)
anchors = [{"input_ids": [n, 7], "pooler_targets": [0.5] * 32} for n in range(40, 45)]
# Six batches for each process, two a step. By default one process would read for both.
args = arguments(Path(out, "stream"), max_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=2)
args.accelerator_config.dispatch_batches = False
dataset = AnchoredDataset(stream, anchors, share=0.5)
trainer = Trainer(masked_lm(), args, train_dataset=dataset, data_collator=Counting(blocks))
trainer.train()
result["stream"] = {**seen, "steps": trainer.state.global_step}

Path(out, f"{rank}.json").write_text(json.dumps(result), encoding="utf-8")
dist.destroy_process_group()
