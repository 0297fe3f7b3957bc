"""Fine-tunes converted folders in sentence-transformers for three steps, and saves them."""

import sys

import torch
from common import say, trusted
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss

folder, out, with_trainer, *formats = sys.argv[1:]
pairs = {
    "anchor": [f"word{n} word{n + 1}" for n in range(8)],
    "positive": [f"word{n} word{n + 2}" for n in range(8)],
}
found = {}
for format in formats:
    encoder = SentenceTransformer(f"{folder}/{format}", device="cpu", **trusted(format))
    before = encoder.encode(["word1 word2"], convert_to_tensor=True)
    loss = MultipleNegativesRankingLoss(encoder)
    if with_trainer == "True":
        arguments = SentenceTransformerTrainingArguments(
            output_dir=f"{out}/runs", max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, report_to=[],
            save_strategy="no", disable_tqdm=True, use_cpu=True, weight_decay=0.1,
        )  # fmt: skip
        SentenceTransformerTrainer(
            model=encoder, args=arguments, train_dataset=Dataset.from_dict(pairs), loss=loss
        ).train()
    else:
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.1)
        for _ in range(3):
            loss([encoder.tokenize(pairs["anchor"]), encoder.tokenize(pairs["positive"])], None).backward()
            optimizer.step()
            optimizer.zero_grad()
    encoder.save_pretrained(f"{out}/{format}")
    after = encoder.encode(["word1 word2"], convert_to_tensor=True)
    found[format] = [before.tolist(), after.tolist()]
say(found)
