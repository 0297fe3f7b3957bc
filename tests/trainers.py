"""Trainer as the tests start it, also in the processes that they launch and compare with."""

import pytest
import torch
import transformers
from checkpoints import mlm_rows
from packaging.version import Version
from transformers import Trainer, TrainingArguments

VERSION = Version(transformers.__version__)
accumulates_exactly = pytest.mark.skipif(
    Version("4.46") > VERSION or Version("5.3.0") == VERSION,
    reason="Trainer has num_items_in_batch since 4.46; that of 5.3.0 has accelerate divide by the steps as well",
)


class Recorder(torch.optim.SGD):
    """Keeps the gradients that it is given."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.1)
        self.model, self.seen = model, []

    def step(self, closure=None):
        self.seen.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})
        return super().step(closure)


def arguments(folder, **kwargs) -> TrainingArguments:
    """For one epoch on the CPU that leaves nothing behind, unless `kwargs` say otherwise."""
    defaults = {"num_train_epochs": 1, "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    return TrainingArguments(output_dir=str(folder), **{**defaults, "dataloader_pin_memory": False, **kwargs})


def step_gradients(model, folder, size: int, steps: int) -> dict[str, torch.Tensor]:
    """The gradients of one optimizer step of Trainer over the same eight rows, `size` at a time."""
    # On by default from 4.53 on; 4.41 has neither this nor num_items_in_batch.
    exact = {"average_tokens_across_devices": True}
    args = arguments(
        folder,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=steps,
        max_grad_norm=0.0,
        **(exact if exact.keys() <= TrainingArguments.__dataclass_fields__.keys() else {}),
    )
    optimizer = Recorder(model)
    Trainer(model, args, train_dataset=mlm_rows(8), optimizers=(optimizer, None)).train()
    assert len(optimizer.seen) == 1
    return optimizer.seen[0]
