# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Continues the masked-language-model (MLM) pre-training of a BERT on your own texts, and keeps its pooler.

    python continue_pretraining.py --model google-bert/bert-base-uncased --train notes/*.txt -o my-bert
    torchrun --nproc_per_node 2 continue_pretraining.py ...           (or: accelerate launch ...)

It starts from a stock BERT that has a pooler or from a pooled checkpoint, and writes a pooled checkpoint: model, code
and tokenizer in one folder, with the pooler bit for bit the one that it started from. The corpus can be of any size:
it is tokenized once into a cache (corpora.py), or during training (--streaming). The MLM head runs on the masked
tokens only, texts of similar length share a batch, and bfloat16 is used where the device supports it; this does not
change the saved configuration. --anchor adds anchored training; --calibrate refits the pooler at the end.
Requires this package, accelerate and datasets.
"""

import argparse
import importlib.util
import math
import os
import pickle
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from common import first_line, holds_files, need, with_bar
from corpora import Corpus, prepare, stream
from corpus_texts import read_dataset, read_files
from mlm_training import (
    LossTrainer,
    SetEpoch,
    ShuffledRows,
    WholeWordCollator,
    is_sharded,
    shard_tied_weights_together,
)
from pooler_options import POOLER, CalibratePooler, donor_of, load_model, load_tokenizer, pooler_texts
from safetensors import safe_open
from tqdm import tqdm
from training_options import parse
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

CPU_FLAGS = Path("/proc/cpuinfo")  # does not exist on Windows and macOS


def check(args: argparse.Namespace) -> str | None:
    """Checks what needs no model and no text.

    Returns:
        The checkpoint to resume from.
    """
    need(("accelerate", "bert_pooled_mlm", "datasets"), '".[train]"')
    exists = holds_files(args.output_dir)
    last = get_last_checkpoint(args.output_dir) if exists and args.resume else None
    if args.resume and last is None:
        raise ValueError(f"{args.output_dir} has no checkpoint to --resume from")
    if exists and not (args.resume or args.overwrite or args.prepare_only):
        raise ValueError(f"{args.output_dir} is not empty; choose another, or pass --resume or --overwrite")
    return last


def load_corpus(args: argparse.Namespace, tokenizer) -> Corpus:
    texts, held_out = read_dataset(args) if args.dataset_name else (read_files(args.train, args), None)
    if args.eval:
        held_out = read_files(args.eval, args)
    corpus = (stream if args.streaming else prepare)(texts, held_out, tokenizer, args)
    if len(corpus.held_out) > args.eval_rows:  # evenly spaced
        chosen = np.linspace(0, len(corpus.held_out) - 1, args.eval_rows).astype(int)
        corpus.held_out = corpus.held_out.select(chosen)
    return corpus


def has_accelerator() -> bool:
    if hasattr(torch, "accelerator"):  # from PyTorch 2.6 on
        return torch.accelerator.is_available()
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def multiplies_bfloat16(cpu: bool) -> tuple[bool, str]:
    """Whether the device has instructions for bfloat16, without which it is slower than float32; and its name."""
    if not cpu and torch.cuda.is_available():  # is_bf16_supported() is also true for emulation
        return torch.cuda.get_device_capability()[0] >= 8, torch.cuda.get_device_name()
    flags = CPU_FLAGS.read_text() if CPU_FLAGS.exists() else ""
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", flags)), "this CPU"


def speed(args: argparse.Namespace) -> str:
    """Decides `args.bf16`; describes the settings that make training fast, in a line."""
    reason = "as requested"
    if args.bf16 is None:
        args.bf16, device = multiplies_bfloat16(args.cpu)
        reason = f"{device} {'supports' if args.bf16 else 'does not support'} bfloat16"
    parts = [f"MLM head on {'the masked' if args.sparse_prediction else 'all'} tokens"]
    parts += ["batches of similar length"] if args.line_by_line and not args.streaming else []
    return f"Speed: {', '.join(parts)}, {'bfloat16' if args.bf16 else 'float32'} ({reason})."


def settings(args: argparse.Namespace, steps_in_all: int) -> TrainingArguments:
    every = max(1, min(args.save_steps, steps_in_all))
    return TrainingArguments(
        output_dir=str(args.output_dir), seed=args.seed, num_train_epochs=args.epochs, max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_size, per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.accumulate, learning_rate=args.lr, weight_decay=args.weight_decay,
        warmup_steps=steps_in_all // 20, logging_steps=max(1, min(50, steps_in_all // 20)),
        eval_strategy="steps", eval_steps=every, save_steps=every, save_total_limit=2, prediction_loss_only=True,
        report_to="none", disable_tqdm=False, bf16=args.bf16,
        use_cpu=args.cpu or not has_accelerator(),  # Trainer rejects bf16 on a CPU without it
        dataloader_pin_memory=torch.cuda.is_available() and not args.cpu,
        ddp_find_unused_parameters=False,  # the pooler is frozen: every other parameter has a gradient
        logging_nan_inf_filter=False,  # LossTrainer stops instead
        accelerator_config={"dispatch_batches": False},  # of a stream: batches may differ in length
    )  # fmt: skip


def perplexity_of(trainer: Trainer, seed: int) -> float:
    """Held-out perplexity, with the same masks each time."""
    transformers.set_seed(seed)
    return math.exp(min(trainer.evaluate()["eval_loss"], 99))


def quiet(first: bool) -> None:
    """Hides everything but errors and one progress bar; processes other than the first do not print."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # about names that transformers 6 will change
    warnings.filterwarnings("ignore", "mtime may not be reliable")  # Trainer then sorts checkpoints by number
    if importlib.util.find_spec("datasets"):
        import datasets

        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        datasets.disable_progress_bars()
    if not first:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def build_trainer(args: argparse.Namespace, model, tokenizer, corpus: Corpus) -> tuple[LossTrainer, str]:
    """The trainer, and what it is going to do."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    rows_per_step = args.batch_size * args.accumulate * processes
    share = args.anchor_share if args.anchor else 0
    kind = "texts" if args.line_by_line else "blocks"
    if args.streaming:
        steps, amount = args.max_steps, f"a stream of {kind}"
    else:
        rows = len(corpus.train)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(rows / (1 - share) / rows_per_step * args.epochs)
        amount = f"{rows} {kind}"
    plan = f"{amount} of at most {args.length} tokens to train on, {len(corpus.held_out)} held out; "
    plan += f"{steps} steps of {rows_per_step}, {processes} process(es)."
    training = settings(args, steps)
    collator = WholeWordCollator if args.whole_words else DataCollatorForLanguageModeling
    collator, rows = collator(tokenizer, mlm_probability=args.mask), corpus.train
    if args.anchor:
        from bert_pooled_mlm import AnchoredDataset, AnchoringCollator, anchor_rows

        donor, sizes = donor_of(args, model), {"max_length": args.length, "batch_size": args.batch_size}
        texts = pooler_texts(args, corpus.sample)[0]
        anchors = anchor_rows(donor, tokenizer, texts, **sizes, device=training.device, progress=True)
        rows, collator = AnchoredDataset(rows, anchors, share), AnchoringCollator(collator)
        plan += f"\nAnchored: {len(anchors)} texts with the outputs of {donor}, {share:.0%} of the rows."
    trainer = LossTrainer(model, training, collator, train_dataset=rows, eval_dataset=corpus.held_out)
    trainer.all_logits = not args.sparse_prediction
    with_bar(trainer)
    if not args.streaming:
        trainer.order = ShuffledRows(rows, args.seed, args.batch_size if args.line_by_line else 0)
        trainer.add_callback(SetEpoch(trainer.order))
    return trainer, plan


def save(trainer: Trainer, model, tokenizer, folder: Path) -> dict[str, torch.Tensor]:
    """Saves the whole model with its code and tokenizer.

    Returns:
        The pooler in the folder.
    """
    from bert_pooled_mlm import BertPooledMLMForMaskedLM

    if is_sharded(trainer):  # gathered by all processes, saved by the first
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.is_world_process_zero():
            whole = BertPooledMLMForMaskedLM(model.config)
            whole.load_state_dict(weights)
            whole.save_pretrained(folder)
    else:
        trainer.save_model()
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in POOLER if name in tensors.keys()}  # noqa: SIM118
    return found


def run(args: argparse.Namespace) -> int:
    last = check(args)
    transformers.set_seed(args.seed)
    model = load_model(args, args.model)
    tokenizer = load_tokenizer(args.model)
    if len(tokenizer) > (size := model.config.vocab_size):
        raise ValueError(f"{args.model}: the tokenizer has {len(tokenizer)} tokens, the model {size}")
    corpus = load_corpus(args, tokenizer)
    if args.prepare_only:
        print(f"{len(corpus.train)} rows are in the cache.")
        return 0
    before = {name: model.state_dict()[name].clone() for name in POOLER}
    texts = pooler_texts(args, corpus.sample)[1]
    calibration = CalibratePooler(args, texts, tokenizer) if args.calibrate else None
    args.sparse_prediction |= model.config.sparse_prediction  # a saved setting stays as it is
    speed_line = speed(args)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer, plan = build_trainer(args, model, tokenizer, corpus)
    if calibration:
        if is_sharded(trainer):
            raise ValueError("--calibrate needs a model that is not sharded; run convert.py --calibrate afterwards")
        trainer.add_callback(calibration)
    if trainer.is_fsdp_enabled:
        shard_tied_weights_together(trainer, model)
    print(f"{plan}\n{speed_line}")
    start = ""
    if last:
        print(f"Resumed from {last}.")
    elif not is_sharded(trainer):  # FSDP cannot evaluate before it trains
        start = f"{perplexity_of(trainer, args.seed):.2f} -> "
    trainer.train(resume_from_checkpoint=last)
    print(f"Held-out perplexity: {start}{perplexity_of(trainer, args.seed):.2f}")

    after = save(trainer, model, tokenizer, args.output_dir)
    same = after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in POOLER)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if calibration and calibration.result:
        print(f"Pooler: {calibration.result}.")
    if not same and not calibration:
        print("continue_pretraining.py: error: the pooler changed", file=sys.stderr)
        return 1
    pooler = "bit for bit that" if same else "calibrated: no longer that"
    print(f"Saved: {args.output_dir}. Its pooler is {pooler} of {args.model}. Load it with")
    print(f"    AutoModel.from_pretrained({str(args.output_dir)!r}, trust_remote_code=True)")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    quiet(first=int(os.environ.get("RANK", 0)) == 0)
    try:
        return run(args)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        message = first_line(error)
        if isinstance(error, pickle.UnpicklingError):
            message = "this transformers reads its own checkpoints only with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"
        # On a line below any bar; in each process, since a launcher stops all others when the first one fails.
        tqdm.write(f"continue_pretraining.py: error: {message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
