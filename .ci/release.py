# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""One conversion, load, training run and save in the working directory, on the transformers that is installed."""

import subprocess
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, Trainer, TrainingArguments

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(59)))
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")


@torch.no_grad()
def pooled(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(torch.arange(2, 34)[None]).pooler_output


def trained(rows: list[dict], **resumed) -> torch.nn.Module:
    """Two steps of Trainer, or the second one of a run that is resumed after the first."""
    settings = {"learning_rate": 0.01, "weight_decay": 0.1, "report_to": [], "use_cpu": True}
    arguments = TrainingArguments("run", max_steps=2, save_steps=1, **settings)
    model = AutoModelForMaskedLM.from_pretrained("lost-pooled", trust_remote_code=True)
    loss = Trainer(model, arguments, train_dataset=rows).train(**resumed).training_loss
    assert loss == loss, "the loss is NaN"
    return model


def main() -> None:
    torch.manual_seed(0)
    Path("donor").mkdir()
    Path("donor", "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast.from_pretrained("donor")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    donor = transformers.BertForPreTraining(transformers.BertConfig(vocab_size=len(WORDS), **shape))
    donor.bert.pooler.dense.bias.data.normal_()
    donor.save_pretrained("donor")
    BertForMaskedLM.from_pretrained("donor").save_pretrained("lost")
    for folder in ("donor", "lost"):
        tokenizer.save_pretrained(folder)
    subprocess.run([sys.executable, ROOT / "convert.py", "lost", "--pooler-from", "donor", "--no-verify"], check=True)

    for _ in range(2):
        model = AutoModel.from_pretrained("lost-pooled", trust_remote_code=True)
        torch.testing.assert_close(pooled(model), pooled(donor.bert), rtol=0, atol=1e-6)

    tokenizer = AutoTokenizer.from_pretrained("lost-pooled", trust_remote_code=False)
    rows = [tokenizer(" ".join(WORDS[5 + n : 25 + n]))["input_ids"] for n in range(32)]
    rows = [{"input_ids": row, "labels": row} for row in rows]
    model = trained(rows)
    moved, before = (it.bert.embeddings.word_embeddings.weight for it in (model, donor))
    assert not torch.equal(moved, before), "nothing was trained"
    model.save_pretrained("trained")
    resumed = dict(trained(rows, resume_from_checkpoint="run/checkpoint-1").named_parameters())

    again = AutoModel.from_pretrained("trained", trust_remote_code=True)
    for name, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), f"{name} is another, saved and loaded"
    for name in POOLER:
        assert torch.equal(again.get_parameter(name), donor.get_parameter(name)), f"{name} has moved"
    equal = all(torch.equal(resumed[name], parameter) for name, parameter in model.named_parameters())
    print("right" if equal else "right, but a resumed run ends elsewhere")


if __name__ == "__main__":
    main()
