# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What training on a large corpus costs: memory, preparation, a second start, and a step that reads the cache.

    python benchmarks/corpus_cost.py                    # 1 GB of generated text; writes benchmarks/results/corpus.json
    python benchmarks/corpus_cost.py --large 50 -o F    # less text

`examples/continue_pretraining.py` is run on generated text of two sizes, with a model of width 32, so that texts and
tokens would dominate its memory. Each ratio compares two measurements of the same run of this program.
"""

import argparse
import contextlib
import json
import os
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import measuring
import numpy as np
import psutil
import torch
import transformers
from subjects import ROOT, BertPooledMLMForMaskedLM
from texts import minilm
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, DataCollatorForLanguageModeling

sys.path.append(str(ROOT / "examples"))
import corpora
from corpus_texts import read_files

EXAMPLE = ROOT / "examples" / "continue_pretraining.py"
SMALL = 5  # MB
PREPARED = 20  # MB, for the speed of preparation
LENGTH, ROWS = 128, 16
LIMITS = {"memory": 1.2, "memory_streaming": 1.2, "preparation": 1.6, "second_start_seconds": 15, "step": 1.03}


def write_text(path: Path, megabytes: int) -> None:
    """Paragraphs of words with the frequencies of natural text (Zipf); one word in twenty has several tokens."""
    draw, size = np.random.default_rng(0), 0
    vocabulary = AutoTokenizer.from_pretrained(minilm()).get_vocab()
    common = draw.permutation(sorted(word for word in vocabulary if word.isalpha() and len(word) > 1))
    rare = ["".join(row) for row in draw.choice(list(string.ascii_lowercase), (len(common) // 4, 9))]
    words, weights = np.array([*common, *rare], dtype=object), 1 / np.arange(10, len(common) + 10)
    chances = np.concatenate([0.95 * weights / weights.sum(), np.full(len(rare), 0.05 / len(rare))])
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            chosen = words[draw.choice(len(words), (1000, 90), p=chances)]
            size += file.write("".join(" ".join(paragraph) + "\n\n" for paragraph in chosen))


def save_model(folder: Path) -> None:
    """A stock BERT of width 32, with MiniLM's tokenizer."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.set_seed(0)
    BertForPreTraining(BertConfig(**shape, max_position_embeddings=LENGTH)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm()).save_pretrained(folder)


def run_example(folder: Path, *options: object) -> dict:
    """A run of three steps, as a user starts it.

    Returns:
        Its seconds, and those until the first step was done, also of CPU time of the first process; the largest
        resident memory of one process; and of all processes together the largest memory that is not shared, without
        the pages of mapped files, which the system can drop.
    """
    command = [sys.executable, EXAMPLE, "--model", "model", "-o", "out", "--overwrite", "--cache-dir", "cache"]
    command += ["--max-steps", 3, "--eval-rows", ROWS, "--batch-size", ROWS, "--no-bf16", *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    began, private, resident, first_step = time.perf_counter(), 0, 0, {}
    with open(folder / "err.txt", "wb") as errors:
        root = psutil.Popen(
            [*map(str, command)], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        while root.poll() is None:
            used = []
            for one in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):  # it has just ended
                    used.append(one.memory_info())
            if not first_step and b" 1/3 " in (folder / "err.txt").read_bytes():  # the progress bar
                cpu = sum(root.cpu_times()[:2])
                first_step = {"first_step": round(time.perf_counter() - began, 1), "first_step_cpu": round(cpu, 1)}
            private = max(private, sum(info.rss - info.shared for info in used))
            resident = max([resident, *(info.rss for info in used)])
            time.sleep(0.1)
    if root.returncode:
        raise RuntimeError((folder / "err.txt").read_text()[-2000:])
    return {"seconds": round(time.perf_counter() - began, 1), "resident": resident, "private": private, **first_step}


def prepared_rows(folder: Path, tokenizer, length: int) -> corpora.Corpus:
    """The corpus of prepared.txt, from the cache or made by two processes."""
    args = SimpleNamespace(length=length, line_by_line=False, eval_share=0.05, num_proc=2, text_column="text")
    args.cache_dir = folder / "speed"
    return corpora.prepare(read_files([str(folder / "prepared.txt")], args), None, tokenizer, args)


def preparation(folder: Path, rounds: int) -> dict:
    """Tokens a second of the preparation by two processes, and of the tokenizer's batches on one core, in turns."""
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    texts = (folder / "prepared.txt").read_text("utf-8").split("\n\n")
    speeds: dict[str, list[float]] = {"prepared": [], "tokenizer": []}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for number in range(rounds):
        began = time.perf_counter()
        corpus = prepared_rows(folder, tokenizer, LENGTH - number)  # another length: nothing is in the cache
        seconds = time.perf_counter() - began
        tokens = sum(len(rows.data.column(0).combine_chunks().values) for rows in (corpus.train, corpus.held_out))
        speeds["prepared"].append(tokens / seconds)
        began, tokens = time.perf_counter(), 0
        for at in range(0, len(texts), 1000):
            encoded = tokenizer(texts[at : at + 1000], add_special_tokens=False, verbose=False)
            tokens += sum(map(len, encoded["input_ids"]))
        speeds["tokenizer"].append(tokens / (time.perf_counter() - began))
    return {name: [round(value) for value in values] for name, values in speeds.items()}


def steps(folder: Path, seconds: float) -> dict[str, list[float]]:
    """Seconds of a training step of MiniLM whose rows come from the cache, and from lists, in turns."""
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    prepared = prepared_rows(folder, tokenizer, LENGTH).train
    lists = [{"input_ids": row["input_ids"]} for row in prepared.select(range(2000))]
    collator = DataCollatorForLanguageModeling(tokenizer)
    model = BertPooledMLMForMaskedLM.from_pretrained(minilm(), sparse_prediction=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    order = np.random.default_rng(0)

    def step(rows):
        sampler = order.integers(len(rows), size=ROWS)
        loader = torch.utils.data.DataLoader(rows, ROWS, sampler=sampler, collate_fn=collator)
        model(**next(iter(loader))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    subjects = {"prepared": lambda: step(prepared), "lists": lambda: step(lists)}
    return measuring.in_turns(subjects, torch.device("cpu"), seconds, least=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=1000, help="MB of text; default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "corpus.json")
    args = parser.parse_args()
    record: dict = {"small_mb": SMALL, "large_mb": args.large, "runs": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        for size, megabytes in (("small", SMALL), ("prepared", PREPARED), ("large", args.large)):
            write_text(folder / f"{size}.txt", megabytes)

        def measure():
            record["tokens_per_second"] = preparation(folder, rounds=3)
            record["step_seconds"] = steps(folder, seconds=40)
            for size in ("small", "large"):
                for way, options in (("prepared", ()), ("second start", ()), ("streaming", ("--streaming",))):
                    record["runs"][f"{size}, {way}"] = run_example(folder, "--train", f"{size}.txt", *options)
                    print(size, way, record["runs"][f"{size}, {way}"], flush=True)

        _, seconds, others = measuring.watched(measure)
    runs, speed = record["runs"], record["tokens_per_second"]
    for kind in ("private", "resident"):
        record[f"memory_{kind}"] = runs["large, prepared"][kind] / runs["small, prepared"][kind]
        record[f"memory_streaming_{kind}"] = runs["large, streaming"][kind] / runs["small, streaming"][kind]
    record["preparation"] = measuring.ratio(speed["prepared"], speed["tokenizer"])
    record["second_start_seconds"] = runs["large, second start"]["first_step"]
    record["step"] = measuring.ratio(record["step_seconds"]["prepared"], record["step_seconds"]["lists"])
    record |= {"limits": LIMITS, "seconds": round(seconds)}
    record["machine"] = {"cpu": measuring.cpu_name(), "cores": measuring.cores(), "others": others}
    record["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in record.items() if name != "step_seconds"}, indent=1))


if __name__ == "__main__":
    main()
