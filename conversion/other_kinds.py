# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Folders and models that are no BERT checkpoints: what they are instead, and what to run first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .errors import ConversionError, listed
from .formats import MODEL_TYPE, MODULE_LIST
from .sources import CONFIG_FILES, Folder, Source, read_bytes, weights_file

THEN = "then copy config.json and the tokenizer's files next to the weights in OUT, and convert OUT"


class Kind(NamedTuple):
    """What a folder is, by the name of a file in it."""

    pattern: str  # of the file's whole name
    what: str
    remedy: str
    with_weights: bool = False  # whether it is that even where the folder has weights: they are not the whole model


SENTENCE_TRANSFORMERS = Kind(
    re.escape(MODULE_LIST),
    "a sentence-transformers model, trained with a pooling of its own and without an MLM head",
    "load it with SentenceTransformer(FOLDER), convert the MLM checkpoint that it was made from, or give it the MLM "
    "head of that: --head-from DONOR",
    with_weights=True,
)
KINDS = (
    Kind(
        r"adapter_config\.json",
        "a PEFT adapter, not a model",
        "merge it first: PeftModel.from_pretrained(BertForMaskedLM.from_pretrained(BASE), FOLDER).merge_and_unload()"
        ".save_pretrained(MERGED)",
        with_weights=True,
    ),
    SENTENCE_TRANSFORMERS,
    Kind(
        r"zero_to_fp32\.py",
        "a DeepSpeed checkpoint whose weights are split over ranks",
        f"merge them first: python zero_to_fp32.py . OUT, in that folder; {THEN}",
    ),
    Kind(
        r"pytorch_model_fsdp_0",
        "an FSDP checkpoint whose weights are split over ranks",
        f"merge them first: accelerate merge-weights FOLDER/pytorch_model_fsdp_0 OUT; {THEN}",
    ),
    Kind(
        r"global_step\d+|mp_rank_\d+_model_states\.pt",
        "a DeepSpeed checkpoint whose weights are split over ranks",
        f"merge them first: python -m deepspeed.utils.zero_to_fp32 FOLDER OUT; {THEN}",
    ),
    Kind(
        r"\.metadata|.*\.distcp",
        "a distributed (DCP) checkpoint whose weights are split over ranks",
        "merge them first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER "
        f"OUT/pytorch_model.bin; {THEN}",
    ),
    Kind(
        r"tf_model\.h5(\.index\.json)?",
        "a TensorFlow checkpoint",
        "with transformers 4.x: BertForMaskedLM.from_pretrained(FOLDER, from_tf=True).save_pretrained(OUT)",
    ),
    Kind(
        r".*\.ckpt(-\d+)?\.(index|meta|data-.*)",
        "a TensorFlow 1 checkpoint",
        "with transformers 4.x: transformers-cli convert --model_type bert --tf_checkpoint FOLDER/PREFIX --config "
        f"FOLDER/bert_config.json --pytorch_dump_output OUT/pytorch_model.bin; {THEN}",
    ),
    Kind(
        r"flax_model\.msgpack(\.index\.json)?",
        "a Flax checkpoint",
        "with transformers 4.x: BertForMaskedLM.from_pretrained(FOLDER, from_flax=True).save_pretrained(OUT)",
    ),
    Kind(
        r"model_state\.pdparams",
        "a PaddlePaddle checkpoint",
        "convert the PyTorch weights of the same model, which most publish as well",
    ),
    Kind(
        r"(?i).*\.(gguf|onnx|tflite|mlpackage|mlmodel|npz|ot|engine|pb)|ggml.*\.bin|onnx|openvino.*|saved_model",
        "an export for inference, which nothing can be trained from",
        "convert the checkpoint that it was made from",
    ),
)
# Files that are weights by their name, but not under a name that transformers reads. What a Trainer saves besides
# the model is none.
WEIGHTS = re.compile(
    r"(?!(optimizer|scheduler|scaler|rng_state|training_args|random_states)).+\.(safetensors|bin|ckpt|pth?)"
)
# Parts of tensor names: what the weights are, what to run first.
NAMES = (
    (
        r"(^|\.)(base_layer|lora_A|lora_B|lora_embedding_A)(\.|$)",
        "the state dict of a PEFT model around a BERT",
        "merge it first: peft_model.merge_and_unload().save_pretrained(OUT)",
    ),
    (
        r"encoderLayer\.\d+\.multiHeadAttention\.",
        "the names of bert4torch's own models",
        "save it with transformers' names: model.save_pretrained(OUT) of bert4torch 0.4 and newer",
    ),
    (
        r"\.Wqkv\.",
        "a BERT whose query, key and value are one tensor (flash-attn, MosaicBERT)",
        "split each Wqkv into query, key and value, in the names of transformers' BertForMaskedLM",
    ),
)
ROBERTA = {"roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl"}
WITHOUT_POOLER = {
    "distilbert", "electra", "deberta", "deberta-v2", "modernbert", "convbert", "roformer", "mpnet", "xlnet",
}  # fmt: skip


def check_files(source: Source, own_modules: bool = False) -> None:
    """Raises ConversionError where a folder's files tell that it is of another kind.

    Args:
        source: The folder.
        own_modules: Whether sentence-transformers' modules in it are those that this package writes, or do not matter.
    """
    names = source.names()
    has_weights = weights_file(source) is not None
    for kind in KINDS:
        if (has_weights and not kind.with_weights) or (own_modules and kind is SENTENCE_TRANSFORMERS):
            continue
        if kind is SENTENCE_TRANSFORMERS and is_splade(source):
            continue
        if any(re.fullmatch(kind.pattern, name) for name in names):
            raise ConversionError(source.where(), kind.what, kind.remedy)
    if not has_weights:
        _check_no_files_elsewhere(source)


def is_splade(source: Source) -> bool:
    """Whether it is a sparse encoder of sentence-transformers, whose weights are those of an MLM checkpoint."""
    return MODULE_LIST in source.names() and b".SpladePooling" in read_bytes(source, MODULE_LIST)


def _check_no_files_elsewhere(source: Source) -> None:
    """Raises ConversionError where the checkpoint is in a folder below, or its weights have an unknown name."""
    names, where = source.names(), source.where()
    if repo := re.fullmatch(r"models--([\w.-]+?)(?:--([\w.-]+))?", source.label) if "snapshots" in names else None:
        name = "/".join(filter(None, repo.groups()))
        raise ConversionError(where, "a repository's folder in the Hub's cache", f"pass its id: {name}")
    below = sorted({*_folders_below(source)}, key=lambda name: (int("0" + re.sub(r"\D", "", name)[-15:]), name))
    if below:
        remedy = f"pass {'it' if len(below) == 1 else 'one of them'}: {source.where(below[-1])}"
        if not isinstance(source, Folder):
            remedy = f"run `hf download {source.label}` and pass that folder in it"
        raise ConversionError(where, f"holds {listed(below)}", remedy)
    shards = sorted(name for name in names if re.fullmatch(r".+-\d+-of-\d+\.(safetensors|bin)", name))
    if shards:
        raise ConversionError(where, f"{listed(shards)} without their index", "copy *.index.json into the folder")
    if weights := sorted(filter(WEIGHTS.fullmatch, names)):
        name = "model.safetensors" if weights[0].endswith(".safetensors") else "pytorch_model.bin"
        raise ConversionError(
            where,
            f"no weights under a name that transformers reads, but {listed(weights)}",
            f"if it holds a model's tensors and nothing else, copy it to {name}; else run model.save_pretrained(OUT) "
            "where it was saved",
        )


def _folders_below(source: Source) -> Iterator[str]:
    """Folders that hold a config, or are named as a Trainer names its checkpoints."""
    for name in source.names():
        top, _, rest = name.partition("/")  # a repo lists whole paths
        inside = isinstance(source, Folder) and any((source.path / name / it).is_file() for it in CONFIG_FILES)
        is_module = re.fullmatch(r"[1-9]\d*_\w+", top)  # of sentence-transformers, with a config.json of its own
        if (inside or rest in CONFIG_FILES or re.fullmatch(r"checkpoint-\d+", top)) and not is_module:
            yield top


def check_names(source: Source, names: Iterable[str]) -> None:
    """Raises ConversionError where tensor names tell that these are not the weights of a plain model."""
    for pattern, what, remedy in NAMES:
        if (example := next((name for name in names if re.search(pattern, name)), None)) is not None:
            raise ConversionError(source.where(), f"{what} (it holds {example})", remedy)


def check_not_empty(source: Source, empty: list[str]) -> None:
    """Raises ConversionError for tensors without values, which DeepSpeed's stage 3 leaves of those that it splits."""
    if empty:
        raise ConversionError(
            source.where(),
            f"{listed(sorted(empty))} have no values: saved under DeepSpeed ZeRO-3, whose weights are split",
            f"merge them first: python zero_to_fp32.py . OUT, in that folder; {THEN}",
        )


def check_model_type(where: str, config: dict) -> None:
    """Raises ConversionError for another model than BERT, or a BERT that is computed in another way."""
    kind = config["model_type"]
    if isinstance(kind, str) and kind in ROBERTA:
        raise ConversionError(
            where,
            f"model_type is {kind!r}: RoBERTa was trained without next-sentence prediction, so it has no trained "
            "pooler to graft",
            "take the mean of the last hidden states (hfl/chinese-roberta-wwm-ext, whose model_type is 'bert', is a "
            "BERT and can be converted)",
        )
    if isinstance(kind, str) and kind in WITHOUT_POOLER:
        raise ConversionError(
            where,
            f"model_type is {kind!r}, which has no trained pooler, so none was lost",
            "take the mean of the last hidden states",
        )
    if kind not in ("bert", MODEL_TYPE):
        besides = f", architectures {config.get('architectures')!r:.100}" if kind is None else ""
        raise ConversionError(where, f"model_type is {kind!r}{besides}; only BERT ('bert') is converted")
    if config.get("quantization_config"):
        method = config["quantization_config"]
        method = method.get("quant_method") if isinstance(method, dict) else None
        raise ConversionError(
            where,
            f"its weights are quantised ({method or 'quantization_config'}), and can't be converted without loss",
            "convert the checkpoint that was quantised, and quantise the result",
        )
    if config.get("pruned_heads"):
        raise ConversionError(
            where,
            f"attention heads were pruned ({config['pruned_heads']!r:.100}), which transformers 5 no longer reads",
            "with transformers 4.x: model = BertModel.from_pretrained(FOLDER); model.pooler.load_state_dict("
            "BertModel.from_pretrained(DONOR).pooler.state_dict()); model.save_pretrained(OUT)",
        )
    for field in ("is_decoder", "add_cross_attention"):
        if config.get(field):
            raise ConversionError(
                where,
                f"{field} is true: in a decoder, [CLS] attends to no later token, so pooler_output does not depend on "
                "the sentence; there is nothing to graft",
            )
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ConversionError(
            where,
            f"position_embedding_type is {positions!r}, which transformers 5 no longer reads; only 'absolute' is "
            "converted",
        )
