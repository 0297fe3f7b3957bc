# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What continue_pretraining.py adds to transformers' Trainer: order of rows, whole-word masking, loss, sharding."""

import math
from collections.abc import Iterator, Sequence

import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback


class ShuffledRows(torch.utils.data.Sampler):
    """Another random order for each epoch, the same in all processes and in a resumed run.

    With `batch_size`, 50 batches at a time are sorted by length, so that a batch needs little padding. Trainer's own
    samplers need Python lists of all indices and lengths, and draw from torch's global random state.
    """

    def __init__(self, rows: Sequence[dict], seed: int, batch_size: int = 0):
        self.rows, self.seed, self.batch_size, self.epoch = rows, seed, batch_size, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.rows), generator=generator, dtype=torch.int32)
        for window in order.split(50 * self.batch_size or 1000):
            indices = window.tolist()
            if self.batch_size:
                indices.sort(key=lambda index: len(self.rows[index]["input_ids"]), reverse=True)
            yield from indices


class WholeWordCollator(DataCollatorForLanguageModeling):
    """Masks all pieces of a word or none: a piece that starts with ## belongs to the word before it.

    transformers has a class for this in 4.x and an option from 4.57 on; neither works on all versions, nor on
    concatenated texts. As in BERT, 80 % of the chosen tokens become [MASK], and 10 % a random token.
    """

    def torch_mask_tokens(self, inputs, special_tokens_mask=None, **kwargs):
        vocabulary = self.tokenizer.get_vocab()
        if not hasattr(self, "_continues"):
            self._continues = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.bool)
            self._continues[[index for token, index in vocabulary.items() if token.startswith("##")]] = True
            self._special = torch.tensor(self.tokenizer.all_special_ids)
        words = (~self._continues[inputs]).cumsum(1)
        chosen_words = torch.rand(inputs.size(0), inputs.size(1) + 1) < self.mlm_probability
        chosen = chosen_words.gather(1, words) & ~torch.isin(inputs, self._special)
        labels = inputs.masked_fill(~chosen, -100)
        draw = torch.rand(inputs.shape)
        random_tokens = torch.randint(len(self.tokenizer), inputs.shape)
        inputs = inputs.masked_fill(chosen & (draw < 0.8), self.tokenizer.mask_token_id)
        return torch.where(chosen & (draw >= 0.8) & (draw < 0.9), random_tokens, inputs), labels


class LossTrainer(Trainer):
    """Computes the loss without the logits of all tokens, unless `all_logits`; logs the pooler loss of the anchors.

    (The config's `sparse_prediction` would do the same, but would be saved.) Stops where the loss is not finite.
    """

    all_logits = False
    order: ShuffledRows | None = None
    pooler_losses: tuple[torch.Tensor, ...] = ()

    def _get_train_sampler(self, *args):
        return self.order

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        inputs = {**inputs, "return_logits": self.all_logits}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if "pooler_loss" in outputs:
            self.pooler_losses += (outputs["pooler_loss"].detach(),)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        for name in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(name, 0)):
                reason = f"the {name} is {logs[name]} after {self.state.global_step} steps"
                raise ValueError(f"{reason}; lower --lr, and --resume from the last checkpoint or start again")
        if "loss" in logs and self.pooler_losses:
            logs["pooler_loss"] = torch.stack(self.pooler_losses).mean().item()
            self.pooler_losses = ()
        super().log(logs, *args, **kwargs)


class SetEpoch(TrainerCallback):
    def __init__(self, order: ShuffledRows):
        self.order = order

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.order.epoch = int(state.epoch or 0)


def is_sharded(trainer: Trainer) -> bool:
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def shard_tied_weights_together(trainer: Trainer, model) -> None:
    """Lets FSDP2 shard BERT, whose decoder shares its weight with the embeddings and its bias with the MLM head.

    accelerate 1.15 shards embeddings and decoder apart from the rest of the head; PyTorch 2.13
    rejects a parameter in two groups. It does not do so where the model does not name its embeddings.
    """
    prepare = trainer.accelerator.prepare

    def prepare_without_names(*args, **kwargs):
        model.get_input_embeddings = model.get_output_embeddings = lambda: None
        try:
            return prepare(*args, **kwargs)
        finally:
            del model.get_input_embeddings, model.get_output_embeddings

    trainer.accelerator.prepare = prepare_without_names
