# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What is not a BERT checkpoint as this program reads it: what it is instead, and what to run first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from .errors import ConversionError, listed
from .sources import CONFIG_FILES, WEIGHT_FILES, Folder, Source

BESIDE = "then copy config.json and the tokenizer's files beside the weights in OUT, and convert OUT"
# Files that tell what a folder is: their names (a pattern), what it is, what to do first.
FILES = (
    (r"adapter_config\.json", "a PEFT adapter, not a model",
     "merge it first: PeftModel.from_pretrained(BertForMaskedLM.from_pretrained(BASE), FOLDER).merge_and_unload()"
     ".save_pretrained(MERGED)"),
    (r"modules\.json", "a sentence-transformers model, trained with a pooling of its own and without an MLM head",
     "load it with SentenceTransformer(FOLDER), or convert the MLM checkpoint that it was made from"),
    (r"zero_to_fp32\.py", "a DeepSpeed checkpoint whose weights are split over ranks",
     f"merge them first: python zero_to_fp32.py . OUT, in that folder; {BESIDE}"),
    (r"pytorch_model_fsdp_0", "an FSDP checkpoint whose weights are split over ranks",
     f"merge them first: accelerate merge-weights FOLDER/pytorch_model_fsdp_0 OUT; {BESIDE}"),
    (r"global_step\d+|mp_rank_\d+_model_states\.pt", "a DeepSpeed checkpoint whose weights are split over ranks",
     f"merge them first: python -m deepspeed.utils.zero_to_fp32 FOLDER OUT; {BESIDE}"),
    (r"\.metadata|.*\.distcp", "a distributed (DCP) checkpoint whose weights are split over ranks",
     "merge them first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER "
     f"OUT/pytorch_model.bin; {BESIDE}"),
    (r"tf_model\.h5(\.index\.json)?", "a TensorFlow checkpoint",
     "with transformers 4.x: BertForMaskedLM.from_pretrained(FOLDER, from_tf=True).save_pretrained(OUT)"),
    (r".*\.ckpt(-\d+)?\.(index|meta|data-.*)", "a TensorFlow 1 checkpoint",
     "with transformers 4.x: transformers-cli convert --model_type bert --tf_checkpoint FOLDER/PREFIX --config "
     f"FOLDER/bert_config.json --pytorch_dump_output OUT/pytorch_model.bin; {BESIDE}"),
    (r"flax_model\.msgpack(\.index\.json)?", "a Flax checkpoint",
     "with transformers 4.x: BertForMaskedLM.from_pretrained(FOLDER, from_flax=True).save_pretrained(OUT)"),
    (r"model_state\.pdparams", "a PaddlePaddle checkpoint",
     "convert the PyTorch weights of the same model, which most publish as well"),
    (r"(?i).*\.(gguf|onnx|tflite|mlpackage|mlmodel|npz|ot|engine|pb)|ggml.*\.bin|onnx|openvino.*|saved_model",
     "an export for inference, which nothing can be trained from",
     "convert the checkpoint that it was made from"),
)  # fmt: skip
# What has weights by its name, and not by one that transformers reads; what a Trainer saves beside them has none.
WEIGHTS = re.compile(
    r"(?!(optimizer|scheduler|scaler|rng_state|training_args|random_states)).+\.(safetensors|bin|ckpt|pth?)"
)
# Models of other types: what to do without a trained pooler.
NO_POOLER = {
    "distilbert", "electra", "deberta", "deberta-v2", "modernbert", "convbert", "roformer", "mpnet", "xlnet",
}  # fmt: skip
EVEN_BESIDE_WEIGHTS = {FILES[0][0], FILES[1][0]}  # the weights are then not all that the model is
# Parts of tensor names that tell what a state dict is.
NAMES = (
    (r"(^|\.)(base_layer|lora_A|lora_B|lora_embedding_A)(\.|$)", "the state dict of a PEFT model around a BERT",
     "merge it first: peft_model.merge_and_unload().save_pretrained(OUT)"),
)  # fmt: skip
ROBERTA = {"roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl"}


def refuse_other_files(source: Source, own_modules: bool = False) -> None:
    """Refuses a folder whose files say that it is of another kind.

    Args:
        source: The folder.
        own_modules: Whether sentence-transformers' modules in it are those that this package writes, or do not matter.

    Raises:
        ConversionError: It is; the message says what to run first.
    """
    names = source.names()
    has_weights = bool(names.intersection(WEIGHT_FILES))
    for pattern, kind, advice in FILES:
        if (has_weights and pattern not in EVEN_BESIDE_WEIGHTS) or (own_modules and pattern == FILES[1][0]):
            continue
        if any(re.fullmatch(pattern, name) for name in names):
            raise ConversionError(f"{source.where()}: {kind}; {advice}")
    if not has_weights:
        refuse_files_elsewhere(source)


def refuse_files_elsewhere(source: Source) -> None:
    """Refuses a folder whose checkpoint is in one below it, or whose weights have a name that nothing reads.

    Raises:
        ConversionError: That is so; the message names what to pass or to rename.
    """
    names, where = source.names(), source.where()
    if repo := re.fullmatch(r"models--([\w.-]+?)(?:--([\w.-]+))?", source.label) if "snapshots" in names else None:
        name = "/".join(filter(None, repo.groups()))
        raise ConversionError(f"{where}: a repository's folder in the Hub's cache; pass its id: {name}")
    below = sorted({*_folders_below(source)}, key=lambda name: (int("0" + re.sub(r"\D", "", name)[-15:]), name))
    if below:
        advice = f"pass {'it' if len(below) == 1 else 'one of them'}: {source.where(below[-1])}"
        if not isinstance(source, Folder):
            advice = f"run `hf download {source.label}` and pass that folder in it"
        raise ConversionError(f"{where}: holds {listed(below)}; {advice}")
    shards = sorted(name for name in names if re.fullmatch(r".+-\d+-of-\d+\.(safetensors|bin)", name))
    if shards:
        raise ConversionError(f"{where}: {listed(shards)} without their index; copy *.index.json beside them")
    if weights := sorted(filter(WEIGHTS.fullmatch, names)):
        name = "model.safetensors" if weights[0].endswith(".safetensors") else "pytorch_model.bin"
        raise ConversionError(
            f"{where}: no weights under a name that transformers reads, but {listed(weights)}: what holds a model's "
            f"tensors and nothing else, copy to {name}; of the rest, run model.save_pretrained(OUT) where it was saved"
        )


def _folders_below(source: Source) -> Iterator[str]:
    """Those that hold a config, or are named as a Trainer names its checkpoints."""
    for name in source.names():
        top, _, rest = name.partition("/")  # a repo lists whole paths
        inside = isinstance(source, Folder) and any((source.path / name / it).is_file() for it in CONFIG_FILES)
        is_module = re.fullmatch(r"[1-9]\d*_\w+", top)  # of sentence-transformers, with a config.json of its own
        if (inside or rest in CONFIG_FILES or re.fullmatch(r"checkpoint-\d+", top)) and not is_module:
            yield top


def refuse_other_names(source: Source, names: Iterable[str]) -> None:
    """Refuses tensors whose names say that they are not those of a plain model.

    Raises:
        ConversionError: They are not.
    """
    for pattern, kind, advice in NAMES:
        if (example := next((name for name in names if re.search(pattern, name)), None)) is not None:
            raise ConversionError(f"{source.where()}: {kind} (it holds {example}); {advice}")


def refuse_empty(source: Source, empty: list[str]) -> None:
    """Refuses tensors without values, which are what DeepSpeed's third stage leaves of split ones.

    Raises:
        ConversionError: There are some.
    """
    if empty:
        raise ConversionError(
            f"{source.where()}: {listed(sorted(empty))} have no values: saved under DeepSpeed ZeRO-3, whose weights "
            f"are split over ranks; merge them first: python zero_to_fp32.py . OUT, in that folder; {BESIDE}"
        )


def refuse_other_model(where: str, config: dict) -> None:
    """Refuses a config of another model than BERT, and of a BERT that reads in another way.

    Raises:
        ConversionError: It is one.
    """
    kind = config["model_type"]
    if isinstance(kind, str) and kind in ROBERTA:
        raise ConversionError(
            f"{where}: model_type is {kind!r}; RoBERTa was trained without next-sentence prediction, so there is no "
            "trained pooler to graft: take the mean of the last hidden states (hfl/chinese-roberta-wwm-ext, whose "
            "model_type is 'bert', is a BERT and can be converted)"
        )
    if isinstance(kind, str) and kind in NO_POOLER:
        raise ConversionError(
            f"{where}: model_type is {kind!r}, which has no trained pooler, so that none was lost: take the mean of "
            "the last hidden states"
        )
    if kind != "bert":
        besides = f", architectures {config.get('architectures')!r:.100}" if kind is None else ""
        raise ConversionError(f"{where}: model_type is {kind!r}{besides}; only BERT ('bert') is converted")
    for field in ("is_decoder", "add_cross_attention"):
        if config.get(field):
            raise ConversionError(
                f"{where}: {field} is true: a decoder's [CLS] sees no text after it, so that its pooled vector says "
                "nothing of a sentence; nothing to graft"
            )
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ConversionError(
            f"{where}: position_embedding_type is {positions!r}, which transformers 5 reads no more; only 'absolute' "
            "is converted"
        )
