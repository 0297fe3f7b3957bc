# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The texts of index_fidelity.py, as tensors."""

import importlib.util
import os
import random
import shutil
from pathlib import Path

import torch
import transformers
from corpus import HELD_OUT, blocks_of, docstrings, pairs_of, read_documents, topic_task
from records import read_json, write_json
from texts import minilm, paragraphs

PACKAGES = ("networkx", "numpy", "sympy", "torch")
MOST = 16000  # paragraphs of the packages
SHORTEST = 16  # words of a passage that is cut into two halves


def split(documents: dict[str, list[str]]) -> dict[str, dict]:
    names = sorted(documents)
    random.Random(0).shuffle(names)
    cut = round(HELD_OUT * len(names))
    parts = {"held_out": names[:cut], "train": names[cut:]}
    return {part: {name: documents[name] for name in sorted(those)} for part, those in parts.items()}


def package_docstrings() -> dict[str, list[str]]:
    found = {}
    for name in PACKAGES:
        root = Path(importlib.util.find_spec(name).submodule_search_locations[0])
        found |= {f"{name}/{module}": texts for module, texts in docstrings(root).items()}
    found, kept, count = paragraphs(found), {}, 0
    names = sorted(found)
    random.Random(0).shuffle(names)
    for name in names:
        if count < MOST:
            kept[name], count = found[name], count + len(found[name])
    return kept


def prepare(work_dir: Path, model: Path | None) -> None:
    """Writes the texts of all corpora, and the weights in float16, into the work folder."""
    documents = read_documents()
    modules = {name: it for name, it in documents.items() if not name.startswith("topic/")}
    topics = {name: it for name, it in documents.items() if name.startswith("topic/")}
    corpora = {
        "python": split(documents),
        "reference": {"train": modules, "held_out": topics},
        "packages": split(package_docstrings()),
    }
    for name, parts in corpora.items():
        write_json(work_dir / f"texts-{name}.json", parts)
    folder, base = work_dir / "model", model or minilm()
    transformers.BertModel.from_pretrained(base, dtype=torch.float16).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(Path(base) / file, folder)


def halves(paragraph: str) -> tuple[str, str]:
    words = paragraph.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def long_enough(paragraph: str) -> bool:
    return len(paragraph.split()) >= SHORTEST


def singles_of(documents: dict) -> list[str]:
    """Paragraphs, and the halves of those that are long enough: an index holds halves, and halves are its queries."""
    paragraphs = [it for document in documents.values() for it in document]
    return paragraphs + [half for it in paragraphs if long_enough(it) for half in halves(it)]


def save(value: dict, file: Path) -> None:
    """Writes to a temporary file and renames it: several processes may do so at once."""
    part = file.with_suffix(f".part{os.getpid()}")
    torch.save(value, part)
    part.rename(file)


def tokenize(work_dir: Path, corpus: str, options: dict) -> None:
    """Writes all texts of a corpus as tensors into the work folder."""
    file = work_dir / f"{corpus}.pt"
    if file.exists():
        return
    texts, draw = read_json(work_dir / f"texts-{corpus}.json"), random.Random(2)
    tokenizer, length = transformers.AutoTokenizer.from_pretrained(work_dir / "model"), options["length"]

    def rows(those: list) -> torch.Tensor:
        """Ids, types and mask: `(3, texts, length)`."""
        columns = [those] if isinstance(those[0], str) else [[it[0] for it in those], [it[1] for it in those]]
        encoded = tokenizer(*columns, truncation=True, max_length=length, padding="max_length", return_tensors="pt")
        return torch.stack([encoded[name] for name in ("input_ids", "token_type_ids", "attention_mask")]).int()

    train, held_out = texts["train"], texts["held_out"]
    names = sorted(train)
    draw.shuffle(names)
    most = options["most"]  # of blocks, and of texts that are classified
    found = {"blocks": blocks_of(train, tokenizer, length)[:most].int()}
    found["held_out"] = blocks_of(held_out, tokenizer, length)[: options["held_out_blocks"]].int()
    for kind, part in (("anchors", names[::2]), ("calibration", names[1::2])):  # no document is in both
        documents = {name: train[name] for name in part}
        singles, pairs = singles_of(documents), pairs_of(documents, draw)
        draw.shuffle(singles)
        count = options["texts"]
        mixed = [it for both in zip(singles, [pair[:2] for pair in pairs], strict=False) for it in both][:count]
        found[kind] = {"sentence": rows(singles[:count]), "nsp": torch.empty(3, len(mixed), length, dtype=torch.int)}
        for number, each in enumerate((mixed[::2], mixed[1::2])):
            found[kind]["nsp"][:, number::2] = rows(each)
    passages = [it for document in held_out.values() for it in document if long_enough(it)]
    draw.shuffle(passages)
    first, second = zip(*map(halves, passages[: options["passages"]]), strict=True)
    found |= {"passages": rows(list(first)), "queries": rows(list(second))}
    topic = topic_task(held_out)[1][:most]
    found |= {"topic": rows([text for text, _ in topic]), "topic_labels": torch.tensor([label for _, label in topic])}
    for name, part in (("train_pairs", train), ("pairs", held_out)):
        pairs = pairs_of(part, draw)[: options["held_out_pairs"] if name == "pairs" else most]
        found |= {name: rows(pairs), f"{name}_labels": torch.tensor([pair[2] for pair in pairs])}
    found["words"] = {
        "special": sorted(tokenizer.all_special_ids),
        "mask": tokenizer.mask_token_id,
        "size": len(tokenizer),
    }
    save(found, file)


def masked(blocks: torch.Tensor, words: dict, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Masks `count` tokens of each batch, 80/10/10.

    Args:
        blocks: `(batches, rows, length)`.

    Returns:
        The masked blocks; positions in the flattened batch and labels, `(batches, count)`.
    """
    flat = blocks.long().flatten(1)
    dice = torch.rand(flat.shape, generator=generator)
    dice[torch.isin(flat, torch.tensor(words["special"]))] = 2.0
    positions = dice.topk(count, dim=1, largest=False).indices
    labels, fate = flat.gather(1, positions), torch.rand(positions.shape, generator=generator)
    noise = torch.randint(words["size"], positions.shape, generator=generator)
    replaced = torch.where(fate < 0.8, words["mask"], torch.where(fate < 0.9, labels, noise))
    return flat.scatter(1, positions, replaced).view(blocks.shape), positions, labels
