# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Two steps, Lightning's own checkpoint, loaded again, saved as a folder: and opened by sentence-transformers."""

from pathlib import Path

import lightning
import torch
from asked import answer
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForMaskedLM, AutoTokenizer  # noqa: F401


class Module(lightning.LightningModule):
    def __init__(self, folder, call):
        super().__init__()
        self.save_hyperparameters()
        self.model = eval(call)

    def training_step(self, batch, _):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-4, weight_decay=0.1)


def vectors_of(folder, call, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    batches = torch.utils.data.DataLoader([{**inputs, "labels": inputs["input_ids"]}] * 2, batch_size=None)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.fit(Module(folder, call), batches)
    trainer.save_checkpoint("trained.ckpt")
    trained = Path("trained").absolute()
    Module.load_from_checkpoint("trained.ckpt").model.save_pretrained(trained)
    tokenizer.save_pretrained(trained)
    return SentenceTransformer(str(trained), trust_remote_code=True).encode(texts), {"weights": str(trained)}


answer(vectors_of)
