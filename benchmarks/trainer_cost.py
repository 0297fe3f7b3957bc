# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The savings of three settings of `Trainer`, separately and together; a part of benchmark.py.

MiniLM is trained for one epoch on the same texts of different lengths, from the same weights: stock `BertForMaskedLM`
with Trainer's defaults (random batches, padded to the longest text, the MLM head on all tokens, float32); then with
the head on the labelled tokens only ("sparse"), with batches of similar length ("grouped"), with both, and with both
in bfloat16 if the device supports it.
"""

import statistics
import sys
import tempfile

import torch
from advice import tokenized
from measuring import timed
from subjects import ROOT, BertPooledMLMForMaskedLM
from texts import minilm
from transformers import BertForMaskedLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

sys.path.append(str(ROOT / "examples"))
from common import like_length
from continue_pretraining import multiplies_bfloat16

ROWS, LONGEST = 8, 128  # texts in a batch, tokens in a text
HELD_OUT = 4  # batches


def trainer(device: torch.device, steps: int, rounds: int) -> dict:
    """Measures all settings, interleaved, `rounds` times.

    Returns:
        The seconds of each setting by round, its final held-out loss, and the number of steps.
    """
    tokenizer, encoded = tokenized((steps + HELD_OUT) * ROWS, LONGEST)
    held_out, texts = encoded[: HELD_OUT * ROWS], encoded[HELD_OUT * ROWS :]
    collator = DataCollatorForLanguageModeling(tokenizer)
    settings = {"stock": {}, "sparse": {}, "grouped": like_length(), "both": like_length()}
    if multiplies_bfloat16(cpu=device.type == "cpu")[0]:
        settings["bfloat16"] = like_length() | {"bf16": True}
    set_seed(0)
    start = BertForMaskedLM.from_pretrained(minilm()).state_dict()  # with a new MLM head, since MiniLM has none
    times, losses = {name: [] for name in settings}, {}
    for number in range(rounds):
        for name in sorted(settings, reverse=number % 2 == 1):
            sparse = {} if name in ("stock", "grouped") else {"sparse_prediction": True}
            model = (BertPooledMLMForMaskedLM if sparse else BertForMaskedLM).from_pretrained(minilm(), **sparse)
            model.load_state_dict(start, strict=False)
            with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
                arguments = TrainingArguments(
                    folder, per_device_train_batch_size=ROWS, num_train_epochs=1, learning_rate=1e-4,
                    use_cpu=device.type == "cpu", dataloader_pin_memory=device.type != "cpu", logging_strategy="no",
                    save_strategy="no", report_to="none", disable_tqdm=True, **settings[name],
                )  # fmt: skip
                trained = Trainer(model=model, args=arguments, data_collator=collator, train_dataset=texts)
                trained.remove_callback(PrinterCallback)
                times[name].append(round(timed(trained.train, device), 3))
            losses[name] = round(loss_of(model.eval(), held_out, collator, device), 3)
    return {"steps": steps, "rows": ROWS, "longest": LONGEST, "times": times, "losses": losses}


@torch.inference_mode()
def loss_of(model: torch.nn.Module, texts: list[dict], collator, device: torch.device) -> float:
    """The mean loss over batches of `texts`, with fixed masks."""
    set_seed(0)
    batches = [collator(texts[at : at + ROWS]).to(device) for at in range(0, len(texts), ROWS)]
    return statistics.mean(model(**batch).loss.item() for batch in batches)
