"""Opens sentence-transformers models before and after they got an MLM head, and after MLM; compares their vectors."""

import sys
import warnings
from pathlib import Path

from common import say

warnings.simplefilter("ignore")
from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers import AutoModelForMaskedLM, AutoTokenizer, Trainer, TrainingArguments  # noqa: E402

source, out = map(Path, sys.argv[1:])
TEXTS = ["word1 word2", "word9"]


def opened(folder):
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)


def encoded(encoder):
    return encoder.encode(TEXTS, convert_to_tensor=True)


def rows(tokenizer):
    return [tokenizer("word1 word2 word3") | {"labels": [-100, 6, 7, 8, -100]} for _ in range(8)]


found = {}
for original in sorted(source.iterdir()):
    converted, seen = out / original.name, found.setdefault(original.name, {})
    before, after = opened(original), opened(converted)
    seen["as converted"] = (encoded(before) - encoded(after)).abs().max().item()
    seen["modules"] = [[type(module).__name__ for module in each] for each in (before, after)]
    seen["prompts"] = [each.prompts for each in (before, after)]
    model = AutoModelForMaskedLM.from_pretrained(converted, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(converted, trust_remote_code=True)
    converted.rename(out / f"{original.name} moved")  # a training can outlive the folder that it was started from
    model.save_pretrained(out / f"{original.name} saved")
    runs = out / f"{original.name} runs"
    args = TrainingArguments(str(runs), max_steps=1, save_steps=1, learning_rate=1e-2, report_to=[], use_cpu=True)
    Trainer(model, args, train_dataset=rows(tokenizer)).train()
    for name, folder in (("saved", out / f"{original.name} saved"), ("trained", runs / "checkpoint-1")):
        tokenizer.save_pretrained(folder)
        seen[name] = (encoded(before) - encoded(opened(folder))).abs().max().item()
    again = out / f"{original.name} again"
    AutoModelForMaskedLM.from_pretrained(runs / "checkpoint-1", trust_remote_code=True).save_pretrained(again)
    before[0].auto_model.load_state_dict(model.bert.state_dict(), strict=False)
    seen["the trained encoder's"] = (encoded(before) - encoded(opened(runs / "checkpoint-1"))).abs().max().item()
say(found)
