# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Continues the masked-language-model (MLM) pre-training of a BERT on texts of your own, and keeps its pooler.

    python continue_pretraining.py --model google-bert/bert-base-uncased --train notes/*.txt -o my-bert
    torchrun --nproc_per_node 2 continue_pretraining.py ...           (or: accelerate launch ...)

It starts from a stock BERT that has a pooler or from a pooled checkpoint, and leaves a pooled checkpoint: model, code
and tokenizer in one folder, the pooler bit for bit the one that it started from. What makes it fast (the MLM head on
the labelled tokens alone, batches of like length, bfloat16 where the device multiplies it) is on by itself, printed at
the start, and leaves nothing in the folder. --anchor holds what that pooler says of some texts to what it said before;
--calibrate refits it, at the end, to the encoder that the training has left. It needs the package and accelerate, and
`datasets` for --dataset-name alone; where one is missing, it says how to get it.
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import itertools
import math
import os
import pickle
import random
import re
import sys
import warnings
from pathlib import Path

import torch
import transformers
from common import Bar, Parser, at_least, between, first_line, holds_files, like_length, need, need_length, read_text
from torch.nn.functional import cosine_similarity
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PretrainedConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
CALIBRATION_TEXTS, FEWEST_TEXTS = 2000, 100  # the second is calibrate_pooler's
CPU_FLAGS = Path("/proc/cpuinfo")  # not on Windows and macOS
ANCHOR_TEXTS = 2000  # at most


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="continue_pretraining.py",
        description="Continue the MLM pre-training of a BERT, and keep its pooler.",
        epilog="Several processes: torchrun --nproc_per_node N continue_pretraining.py ..., or accelerate launch.",
    )
    add = parser.add_argument
    add("--model", required=True, help="a stock BERT with a pooler, or a pooled checkpoint: folder or Hub id")
    add("--train", nargs="+", type=Path, metavar="FILE", help="UTF-8 text, paragraphs between blank lines")
    add("--eval", nargs="+", type=Path, metavar="FILE", help="default: a part of --train, see --eval-share")
    add("--eval-share", type=between(0, 1), default=0.05, help="of the texts of --train; default: %(default)s")
    add("--dataset-name", help="instead of --train: a data set of the `datasets` library, NAME or NAME:CONFIG")
    add("--text-column", default="text", help="of --dataset-name; default: %(default)s")
    add("-o", "--output-dir", type=Path, required=True, help="for the checkpoints and the pooled model")
    add("--overwrite", action="store_true", help="train into an --output-dir that is not empty")
    add("--resume", action="store_true", help="go on from the last checkpoint in --output-dir")
    add("--line-by-line", action="store_true", help="each line is a text of its own, cut at --length")
    add("--length", type=at_least(8), default=128, help="tokens in a block or a text; default: %(default)s")
    add("--mask", type=between(0, 1), default=0.15, help="share of the tokens to predict; default: %(default)s")
    add("--whole-words", action="store_true", help="mask all pieces of a word or none")
    add("--epochs", type=between(0, math.inf), default=3.0, help="default: %(default)s")
    add("--max-steps", type=at_least(1), default=-1, help="instead of --epochs")
    add("--batch-size", type=at_least(1), default=16, help="per process; default: %(default)s")
    add("--accumulate", type=at_least(1), default=1, help="batches per step; default: %(default)s")
    add("--lr", type=between(0, math.inf), default=5e-5, help="default: %(default)s")
    add("--weight-decay", type=float, default=0.01, help="default: %(default)s")
    add("--save-steps", type=at_least(1), default=500, help="evaluate and save that often; default: %(default)s")
    add("--calibrate", action="store_true", help="at the end, refit the pooler to the encoder as it then is")
    add("--anchor", action="store_true", help="hold what the pooler says of some texts to what its donor says of them")
    add("--anchor-texts", metavar="FILE", help="default: those trained on, single ones and neighbouring pairs")
    add("--anchor-share", type=between(0, 1), default=0.2, help="of the rows of a batch; default: %(default)s")
    add("--anchor-weight", type=between(0, math.inf), default=0.1, help="of their loss; default: %(default)s")
    add("--anchor-donor", metavar="MODEL", help="default: the donor that --model names, else --model itself")
    switch = {"action": argparse.BooleanOptionalAction}
    add("--sparse-prediction", **switch, default=True, help="MLM head on masked tokens only: same loss, less work")
    add("--bf16", **switch, help="compute in bfloat16 (autocast); default: where the device multiplies it")
    add("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    add("--cpu", action="store_true", help="train on the CPU, whatever there is")
    add("--seed", type=at_least(0), default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    if (args.train is None) == (args.dataset_name is None):
        parser.error("give either --train or --dataset-name")
    for name in ("anchor_texts", "anchor_share", "anchor_weight", "anchor_donor"):
        if getattr(args, name) != parser.get_default(name) and not args.anchor:
            parser.error(f"--{name.replace('_', '-')} needs --anchor")
    return args


def check(args: argparse.Namespace) -> str | None:
    """Checks what can be checked without loading anything.

    Returns:
        The checkpoint to resume from.
    """
    need(("accelerate", "bert_pooled_mlm"), "accelerate .")
    if args.dataset_name and importlib.util.find_spec("datasets") is None:
        raise ValueError("--dataset-name needs the datasets library; run `pip install datasets`, or give --train FILE")
    full = holds_files(args.output_dir)
    if args.resume:
        last = get_last_checkpoint(args.output_dir) if full else None
        if last is None:
            raise ValueError(f"{args.output_dir} has no checkpoint to --resume from")
        return last
    if full and not args.overwrite:
        raise ValueError(f"{args.output_dir} is not empty; name another, or pass --resume or --overwrite")
    return None


def load_model(args: argparse.Namespace, name: str):
    """A model with its frozen pooler, stock or pooled; code in its folder is not run."""
    from bert_pooled_mlm import BertPooledMLMForMaskedLM

    fields = PretrainedConfig.get_config_dict(name)[0]
    if fields.get("model_type") not in ("bert", "bert_pooled_mlm"):
        raise ValueError(f"{name} is not a BERT: its model_type is {fields.get('model_type')!r}")
    need_length(args.length, name, fields.get("max_position_embeddings", 512))
    options = {"pooler_loss_weight": args.anchor_weight} if args.anchor else {}
    return BertPooledMLMForMaskedLM.from_pretrained(name, **options)


def read_texts(files: list[Path], line_by_line: bool) -> list[str]:
    """The lines of `files`, or their paragraphs in one line each; empty ones are left out."""
    texts = []
    for file in files:
        content = read_text(file)
        texts += content.splitlines() if line_by_line else content.split("\n\n")
    return [text for text in (" ".join(text.split()) for text in texts) if text]


def read_data(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The texts to train on and to evaluate on. Of `--train` alone, every n-th text is held out."""
    if args.dataset_name:
        import datasets

        name, _, config = args.dataset_name.partition(":")
        found = datasets.load_dataset(name, config or None)
        columns = {split: found[split].column_names for split in found}
        if args.text_column not in columns.get("train", []):
            raise ValueError(f"{args.dataset_name} has no column {args.text_column!r} in a split 'train': {columns}")
        rows = [found[split][args.text_column] if split in columns else [] for split in ("train", "validation")]
        train, held_out = ([text for text in texts if text.strip()] for texts in rows)
    else:
        train = read_texts(args.train, args.line_by_line)
        held_out = read_texts(args.eval, args.line_by_line) if args.eval else []
    if not held_out:
        every = max(2, round(1 / args.eval_share))
        train, held_out = [t for n, t in enumerate(train) if n % every != every - 1], train[every - 1 :: every]
    if not train or not held_out:
        raise ValueError(too_little(args, len(train)))
    return train, held_out


def too_little(args: argparse.Namespace, count: int) -> str:
    """Why there is nothing to train on or to evaluate on; `count` texts there are."""
    if args.dataset_name:
        return f"{args.dataset_name}: too little text: {count} texts that are not empty, and none to evaluate on"
    files, kind = ", ".join(map(str, args.train)), "line" if args.line_by_line else "paragraph"
    found, lines = f"{count} {kind}{'s' * (count != 1)}", len(read_texts(args.train, line_by_line=True))
    if not args.line_by_line and lines > count:
        return f"{files}: {found} in {lines} lines; is each line a text? --line-by-line"
    return f"{files}: too little text: {found}; hold out a larger --eval-share, or give --eval FILE"


def encode(texts: list[str], tokenizer, args: argparse.Namespace) -> list[dict]:
    """Cuts texts at `--length`, or strings them together and cuts blocks of `--length` tokens from the string."""
    if args.line_by_line:
        return [{"input_ids": ids} for ids in tokenizer(texts, truncation=True, max_length=args.length)["input_ids"]]
    rows, size = [], args.length - 2
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    stream = [token for ids in encoded for token in (*ids, tokenizer.sep_token_id)]
    for start in range(0, len(stream), size):
        block = stream[start : start + size]
        if rows and len(block) < 8:
            break  # a rest of a few tokens
        end = [] if block[-1] == tokenizer.sep_token_id else [tokenizer.sep_token_id]
        rows.append({"input_ids": [tokenizer.cls_token_id, *block, *end]})
    return rows


class WholeWordCollator(DataCollatorForLanguageModeling):
    """Masks all pieces of a word or none: a piece that starts with ## belongs to the word before it.

    transformers has a class for it in 4.x and an option from 4.57 on; neither runs on all versions, nor on blocks that
    are cut from a string of texts. As there, 80 % of the masked tokens become [MASK], 10 % a random token.
    """

    def torch_mask_tokens(self, inputs, special_tokens_mask=None, **kwargs):
        vocabulary = self.tokenizer.get_vocab()
        if not hasattr(self, "_goes_on"):
            self._goes_on = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.bool)
            self._goes_on[[index for token, index in vocabulary.items() if token.startswith("##")]] = True
            self._special = torch.tensor(self.tokenizer.all_special_ids)
        words = (~self._goes_on[inputs]).cumsum(1)
        drawn = torch.rand(inputs.size(0), inputs.size(1) + 1) < self.mlm_probability
        chosen = drawn.gather(1, words) & ~torch.isin(inputs, self._special)
        labels = inputs.masked_fill(~chosen, -100)
        fate = torch.rand(inputs.shape)
        random_tokens = torch.randint(len(self.tokenizer), inputs.shape)
        inputs = inputs.masked_fill(chosen & (fate < 0.8), self.tokenizer.mask_token_id)
        return torch.where(chosen & (fate >= 0.8) & (fate < 0.9), random_tokens, inputs), labels


def texts_of_the_pooler(args: argparse.Namespace, texts: list[str]) -> tuple[list, list]:
    """The texts of the anchors, and those to calibrate on: others of the same kinds, where there are enough."""
    if not args.anchor:
        return [], texts
    if args.anchor_texts:
        from bert_pooled_mlm.conversion.texts import read_texts

        chosen = read_texts(args.anchor_texts, ANCHOR_TEXTS + CALIBRATION_TEXTS)
    else:  # single ones and neighbouring pairs, in turn
        draw = random.Random(args.seed)
        kinds = [draw.sample(kind, len(kind)) for kind in (texts, list(itertools.pairwise(texts)))]
        chosen = [text for both in itertools.zip_longest(*kinds) for text in both if text is not None]
    enough = (some for some in (chosen[ANCHOR_TEXTS:], chosen) if len(some) >= FEWEST_TEXTS)
    return chosen[:ANCHOR_TEXTS], next(enough, texts)


def donor_of(args: argparse.Namespace, model) -> str:
    """Whose pooled vectors are held to: a pooled checkpoint has moved from those of its donor already."""
    if args.anchor_donor or not model.config.pooler_source:
        return args.anchor_donor or args.model
    name = str(model.config.pooler_source.get("donor"))
    beside = Path(args.model).absolute().parent / name
    if "/" not in name and not beside.is_dir():
        raise ValueError(
            f"{args.model} names its pooler's donor, {name}, and no such folder lies beside it: pass --anchor-donor, "
            f"or --anchor-donor {args.model} to hold what its pooler says now"
        )
    return name if "/" in name else str(beside)


class LossTrainer(Trainer):
    """Asks for the loss alone, whose MLM head runs on the labelled tokens, unless `all_logits`.

    (The config's `sparse_prediction` would do the same, and stay in each folder that is saved.) Logs how far the
    anchors' pooled vectors are from the donor's, beside the loss.
    """

    all_logits = False
    distances: tuple[torch.Tensor, ...] = ()

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        inputs = {**inputs, "return_logits": self.all_logits}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if "pooler_loss" in outputs:
            self.distances += (outputs["pooler_loss"].detach(),)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self.distances:
            logs["pooler_loss"] = torch.stack(self.distances).mean().item()
            self.distances = ()
        super().log(logs, *args, **kwargs)


class SeededEpochs(TrainerCallback):
    """Begins each epoch from a seed: batches of like length are drawn from torch's own random numbers, which neither a
    resumed run nor several processes have in common."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        torch.manual_seed(args.seed + int(state.epoch or 0))


class CalibratePooler(TrainerCallback):
    """Refits the pooler at the end of the training, so that it says what it said before the encoder moved.

    Without labels, on texts that were trained on, against the model that the training started from, or, where that is
    anchored, the anchors' donor. `found` is then what `calibrate_pooler` reports. With several processes the first one
    does it: it is the one that saves.
    """

    def __init__(self, args: argparse.Namespace, texts: list[str | tuple[str, str]], tokenizer):
        different = list(dict.fromkeys(texts))
        if len(different) < FEWEST_TEXTS:
            raise ValueError(f"--calibrate: {len(different)} different texts; at least {FEWEST_TEXTS} are needed")
        self.texts = random.Random(args.seed).sample(different, min(len(different), CALIBRATION_TEXTS))
        self.args, self.tokenizer, self.found = args, tokenizer, None

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero:
            return
        from bert_pooled_mlm import calibrate_pooler

        donor = donor_of(self.args, model) if self.args.anchor else self.args.model
        start = load_model(self.args, donor).to(model.device)
        sizes = {"max_length": self.args.length, "batch_size": self.args.batch_size}
        self.found = calibrate_pooler(model, start, self.tokenizer, self.texts, **sizes, progress=True)
        if self.found.improved:  # any earlier source tells of another pooler
            model.config.pooler_source = self.source(donor, start, model).to_config()

    def source(self, name: str, start, model):
        """Where the pooler is from, as convert.py writes it, too."""
        from bert_pooled_mlm.conversion.provenance import Fit, PoolerSource

        def digests(of) -> dict[str, str]:
            stored = {name: of.state_dict()[name].cpu().contiguous().view(torch.uint8).numpy() for name in POOLER}
            return {name: hashlib.sha256(data).hexdigest() for name, data in stored.items()}

        lasts = (it.bert.encoder.layer[-1].attention.output.dense.weight.detach() for it in (start, model))
        return PoolerSource(
            donor=PoolerSource.name_of(Path(name).name if Path(name).exists() else name),
            revision=getattr(start.config, "_commit_hash", None),
            sha256=digests(model),
            lineage_cosine=round(cosine_similarity(*(last.double().flatten() for last in lasts), dim=0).item(), 6),
            calibration=Fit(**{field.name: getattr(self.found, field.name) for field in dataclasses.fields(Fit)}),
            donor_sha256=digests(start),
        )


def multiplies_bfloat16(cpu: bool) -> tuple[bool, str]:
    """Whether the device has instructions for bfloat16: elsewhere it takes many times float32's time. And who says."""
    if not cpu and torch.cuda.is_available():  # is_bf16_supported() counts emulation as well
        return torch.cuda.get_device_capability()[0] >= 8, torch.cuda.get_device_name()
    flags = CPU_FLAGS.read_text() if CPU_FLAGS.exists() else ""
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", flags)), "this CPU"


def speed(args: argparse.Namespace) -> str:
    """What makes it fast, in a line; settles `args.bf16`."""
    able, device = multiplies_bfloat16(args.cpu)
    chosen = "as asked for" if args.bf16 is not None else f"{device} {'multiplies' if able else 'has no'} bfloat16"
    args.bf16 = able if args.bf16 is None else args.bf16
    parts = (
        "MLM head on the labelled tokens" if args.sparse_prediction else "MLM head on all tokens",
        *(["batches of like length"] if args.line_by_line else []),
        f"{'bfloat16' if args.bf16 else 'float32'} ({chosen})",
    )
    return f"Speed: {', '.join(parts)}."


def settings(args: argparse.Namespace, steps_in_all: int) -> TrainingArguments:
    every = max(1, min(args.save_steps, steps_in_all))
    return TrainingArguments(
        output_dir=str(args.output_dir),
        num_train_epochs=args.epochs,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.accumulate,
        learning_rate=args.lr,
        weight_decay=args.weight_decay,
        warmup_steps=steps_in_all // 20,
        logging_steps=max(1, min(50, steps_in_all // 20)),
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,
        prediction_loss_only=True,
        bf16=args.bf16,
        **(like_length() if args.line_by_line else {}),
        use_cpu=args.cpu,
        dataloader_pin_memory=torch.cuda.is_available() and not args.cpu,
        ddp_find_unused_parameters=False,  # the pooler is frozen: every other parameter has a gradient
        report_to="none",
        disable_tqdm=False,
        seed=args.seed,
    )


def perplexity_of(trainer: Trainer, seed: int) -> float:
    """Held-out perplexity over the same masks each time."""
    transformers.set_seed(seed)
    return math.exp(min(trainer.evaluate()["eval_loss"], 99))


def quiet(first: bool) -> None:
    """Leaves the screen to one process and one progress bar; what goes wrong is still said."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # of names that transformers 6 will rename
    warnings.filterwarnings("ignore", "mtime may not be reliable")  # Trainer then sorts checkpoints by number
    if not first:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def run(args: argparse.Namespace) -> int:
    last = check(args)
    train_texts, held_out_texts = read_data(args)
    transformers.set_seed(args.seed)
    model = load_model(args, args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    if tokenizer.mask_token_id is None or len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{args.model}: the tokenizer does not fit the model: {len(tokenizer)} tokens, mask token "
            f"{tokenizer.mask_token!r}; the model has {model.config.vocab_size}"
        )
    anchor_texts, calibration_texts = texts_of_the_pooler(args, train_texts)
    calibration = CalibratePooler(args, calibration_texts, tokenizer) if args.calibrate else None
    before = {name: model.state_dict()[name].clone() for name in POOLER}
    train_rows, held_out_rows = (encode(texts, tokenizer, args) for texts in (train_texts, held_out_texts))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    rows_per_step = args.batch_size * args.accumulate * processes
    rows, share = len(train_rows), args.anchor_share if args.anchor else 0
    steps = args.max_steps if args.max_steps > 0 else math.ceil(rows / (1 - share) / rows_per_step * args.epochs)
    args.sparse_prediction |= model.config.sparse_prediction  # which cannot be switched off, and stays as it is
    fast = speed(args)
    training = settings(args, steps)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    collator = (WholeWordCollator if args.whole_words else DataCollatorForLanguageModeling)(
        tokenizer, mlm_probability=args.mask
    )
    if args.anchor:
        from bert_pooled_mlm import AnchoredDataset, AnchoringCollator, anchor_rows

        donor, sizes = donor_of(args, model), {"max_length": args.length, "batch_size": args.batch_size}
        anchors = anchor_rows(donor, tokenizer, anchor_texts, **sizes, device=training.device, progress=True)
        train_rows, collator = AnchoredDataset(train_rows, anchors, share), AnchoringCollator(collator)
        print(f"Anchored: {len(anchors)} texts as {donor} reads them, {share:.0%} of the rows.")
    trainer = LossTrainer(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=train_rows,
        eval_dataset=held_out_rows,
    )
    trainer.all_logits = not args.sparse_prediction
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar)
    if args.line_by_line:
        trainer.add_callback(SeededEpochs)
    if calibration:
        trainer.add_callback(calibration)
    print(
        f"{rows} {'texts' if args.line_by_line else 'blocks'} of at most {args.length} tokens to train on, "
        f"{len(held_out_rows)} held out; {steps} steps of {rows_per_step}, {processes} process(es)."
    )
    print(fast)
    if last:
        print(f"Resumed from {last}.")
        trainer.train(resume_from_checkpoint=last)
        start = ""
    else:
        start = f"{perplexity_of(trainer, args.seed):.2f} -> "
        trainer.train()
    print(f"Held-out perplexity: {start}{perplexity_of(trainer, args.seed):.2f}")

    trainer.save_model()  # the code and config of the pooled model come with it
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(args.output_dir)
    after = model.state_dict()
    same = all(torch.equal(after[name].cpu(), before[name]) for name in POOLER)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if calibration and calibration.found:
        print(f"Pooler: {calibration.found}.")
    if not same and not calibration:
        print("continue_pretraining.py: error: the pooler moved", file=sys.stderr)
        return 1
    pooler = "bit for bit that" if same else "calibrated to it: no longer that"
    print(f"Saved: {args.output_dir}. Its pooler is {pooler} of {args.model}. Load it with")
    print(f"    AutoModel.from_pretrained({str(args.output_dir)!r}, trust_remote_code=True)")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    first = int(os.environ.get("RANK", 0)) == 0
    quiet(first)
    try:
        return run(args)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        if first:
            message = first_line(error)
            if isinstance(error, pickle.UnpicklingError):
                message = "this transformers reads its own checkpoints only with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"
            print(f"continue_pretraining.py: error: {message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
