# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The corpus of the studies: the text that ships with Python, as paragraphs, sentence pairs, blocks and topic classes.

Splits are by document (a topic of the language reference, or the docstrings of a module), so that no held-out
paragraph occurs in training.
"""

import ast
import collections
import hashlib
import itertools
import json
import random
import sysconfig
from pathlib import Path
from pydoc_data import topics

import torch
from texts import paragraphs
from training import batches
from transformers import DataCollatorWithPadding

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
HELD_OUT = 0.3  # of the documents
CLASSES, PER_CLASS = 12, 120


def read_documents():
    """Paragraphs of at least six words, deduplicated, by document: a reference topic or a module's docstrings."""
    texts = {f"topic/{name}": [text] for name, text in sorted(topics.topics.items())}
    return paragraphs(texts | docstrings(Path(sysconfig.get_path("stdlib"))))


def docstrings(root):
    """The docstrings of a package, by module; parsed, not imported, because an import can have side effects."""
    texts = {}
    for file in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).as_posix()):
        name = file.relative_to(root)
        if SKIPPED & set(name.parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = sorted((node for node in ast.walk(tree) if isinstance(node, kinds)), key=lambda node: node.lineno)
        texts[name.as_posix()] = [text for node in (tree, *nodes) if (text := ast.get_docstring(node))]
    return texts


def pairs_of(texts, rng):
    """Each paragraph with the one that follows it (label 0) and with one of another document (label 1), shuffled."""
    pool = [(name, paragraph) for name, document in texts.items() for paragraph in document]
    pairs = []
    for name, document in texts.items():
        for first, following in itertools.pairwise(document):
            other, second = rng.choice(pool)
            while other == name:
                other, second = rng.choice(pool)
            pairs += [(first, following, 0), (first, second, 1)]
    rng.shuffle(pairs)
    return pairs


def balanced(pairs, count):
    """The first `count` pairs, half of each label."""
    kinds = [[pair for pair in pairs if pair[2] == label][: count // 2] for label in (0, 1)]
    return [pair for both in zip(*kinds, strict=True) for pair in both]


def split(documents, rng):
    """Documents to train on, and held out."""
    names = list(documents)
    rng.shuffle(names)
    cut = round(HELD_OUT * len(names))
    return [{name: documents[name] for name in sorted(part)} for part in (names[cut:], names[:cut])]


def read_texts(options):
    """The training and held-out documents, and pairs of each."""
    rng = random.Random(options["seed"])
    train, held_out = split(read_documents(), rng)
    return {
        "train": train,
        "held_out": held_out,
        "train_pairs": pairs_of(train, rng),
        "held_out_pairs": balanced(pairs_of(held_out, rng), options["held_out_pairs"]),
    }


def digest(value):
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def labelled_pairs(pairs, tokenizer, options, seed):
    """Endless batches for next-sentence prediction."""
    limits = {"truncation": True, "max_length": options["length"]}
    rows = [{**tokenizer(first, second, **limits), "labels": label} for first, second, label in pairs]
    return batches(rows, DataCollatorWithPadding(tokenizer), options["batch_size"], seed)


def blocks_of(texts, tokenizer, length):
    """Blocks of one length from concatenated paragraphs, as in `examples/continue_pretraining.py`."""
    ids = tokenizer([p for document in texts.values() for p in document], add_special_tokens=False)["input_ids"]
    stream = [token for part in ids for token in (*part, tokenizer.sep_token_id)]
    size = length - 1
    blocks = [stream[start : start + size] for start in range(0, len(stream) - size, size)]
    return torch.tensor([[tokenizer.cls_token_id, *block] for block in blocks])


def topic_task(held_out):
    """Classification of paragraphs by origin: the largest held-out packages, modules and topics; and labelled rows."""
    groups = collections.defaultdict(list)
    for name, document in held_out.items():
        groups[name if name.startswith("topic/") else name.split("/")[0]] += document
    names = sorted(groups, key=lambda name: (-len(groups[name]), name))[:CLASSES]
    rng = random.Random(0)
    kept = [rng.sample(groups[name], min(PER_CLASS, len(groups[name]))) for name in names]
    rows = [(paragraph, label) for label, those in enumerate(kept) for paragraph in those]
    rng.shuffle(rows)
    return names, rows
