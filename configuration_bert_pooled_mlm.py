# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of BERT with both a masked-language-modelling (MLM) head and its original pooler.

It is `BertConfig` plus six fields. This file is copied into every checkpoint, beside `modeling_bert_pooled_mlm.py`;
`AutoConfig` runs it under `trust_remote_code=True`.
"""

import inspect
import json
import math
from pathlib import Path

from transformers import BertConfig
from transformers.utils import cached_file

__all__ = ["AUTO_MAP", "BertPooledMLMConfig"]

_MODELING = "modeling_bert_pooled_mlm"
AUTO_MAP = {
    "AutoConfig": "configuration_bert_pooled_mlm.BertPooledMLMConfig",
    "AutoModel": f"{_MODELING}.BertPooledMLMModel",
    "AutoModelForMaskedLM": f"{_MODELING}.BertPooledMLMForMaskedLM",
    "AutoModelForPreTraining": f"{_MODELING}.BertPooledMLMForMaskedLM",
    "AutoModelForSequenceClassification": f"{_MODELING}.BertPooledMLMForSequenceClassification",
    "AutoModelForMultipleChoice": f"{_MODELING}.BertPooledMLMForMultipleChoice",
    "AutoModelForNextSentencePrediction": f"{_MODELING}.BertPooledMLMForNextSentencePrediction",
    "AutoModelForTokenClassification": f"{_MODELING}.BertPooledMLMForTokenClassification",
    "AutoModelForQuestionAnswering": f"{_MODELING}.BertPooledMLMForQuestionAnswering",
}


class BertPooledMLMConfig(BertConfig):
    """`BertConfig` with the fields of the pooled MLM model.

    Args:
        sparse_prediction: In training mode with labels, run the MLM head on the labelled positions only. The loss
            and its gradients stay the same; the logits are then those rows, `(labelled positions, vocab_size)`.
            Evaluation always gives all positions. (The name is ModernBERT's.)
        return_logits: Whether `BertPooledMLMModel` runs the MLM head and returns its logits. `False` saves the
            vocabulary-sized product where only sentence vectors are needed. `BertPooledMLMForMaskedLM` does not read
            it; `forward(return_logits=...)` takes precedence in both.
        pooler_loss_weight: Weight of the pooler distillation loss, in steps that have `pooler_targets`.
        pooler_source: Where the pooler came from, as `convert.py` records it: the donor's repo or folder name, its
            revision, the sha256 of both tensors, the measured lineage.
        head_source: The same for an MLM head that was grafted.
        keep_modules: Whether the model is a sentence-transformers model with modules of its own: each save then writes
            those that were in the folder that it was loaded from, and never the ones that give `pooler_output`.
        **kwargs: The fields of `BertConfig`.

    Raises:
        ValueError: A field above has a value of another type. The message names field, value and choices.
    """

    model_type = "bert_pooled_mlm"
    ENCODER_OUTPUTS = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")
    # Where the model's code is, the files of `keep_modules`, whether the model returns no logits: not saved, as slots.
    __slots__ = ("modeling_file", "module_files", "vectors_only")

    def __init__(
        self,
        sparse_prediction: bool = False,
        return_logits: bool = True,
        pooler_loss_weight: float = 0.3,
        pooler_source: dict | None = None,
        head_source: dict | None = None,
        keep_modules: bool = False,
        **kwargs,
    ):
        flags = {"sparse_prediction": sparse_prediction, "return_logits": return_logits, "keep_modules": keep_modules}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise ValueError(f"{name}={value!r}: expected True or False")
        number = isinstance(pooler_loss_weight, (int, float)) and not isinstance(pooler_loss_weight, bool)
        if not number or not 0 <= pooler_loss_weight < math.inf:
            raise ValueError(f"pooler_loss_weight={pooler_loss_weight!r}: expected a number from 0 on")
        for name, value in (("pooler_source", pooler_source), ("head_source", head_source)):
            if value is not None and not isinstance(value, dict):
                raise ValueError(f"{name}={value!r}: expected a dict or None")
        kwargs.setdefault("tokenizer_class", "BertTokenizer")  # pipelines of 4.x find the tokenizer by it
        super().__init__(**kwargs)
        self.sparse_prediction = sparse_prediction
        self.return_logits = return_logits
        self.pooler_loss_weight = float(pooler_loss_weight)
        self.pooler_source = pooler_source
        self.head_source = head_source
        self.keep_modules = keep_modules
        self.modeling_file = Path(__file__).with_name(f"{_MODELING}.py")  # a model of this config sets its own
        self.module_files = {}
        self.vectors_only = False

    @property
    def keys_to_ignore_at_inference(self) -> list[str]:
        """The outputs that Trainer's evaluation does not gather: metrics read the logits or, without any, vectors."""
        return ["pooler_loss", *self.ENCODER_OUTPUTS[2 if self.vectors_only else 0 :]]

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """Writes config.json, with the `auto_map` that points to the code in the same folder, and that code.

        In memory, transformers writes the origin of the code into `auto_map` (`user/repo--module.Class`), and
        4.41 to 5.0 need it there for `from_pretrained(other_weights, config=config)`. Saved, it would tie a trained
        checkpoint to the repo that it was started from.
        """
        in_memory = getattr(self, "auto_map", None)
        self.auto_map = dict(AUTO_MAP)
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            if in_memory is not None:
                self.auto_map = in_memory
        # transformers copies this file alone. AutoConfig runs it where the other may be missing.
        name = f"{_MODELING}.py"
        source, copy = self.modeling_file, Path(save_directory, name)
        if source.exists() or (self.name_or_path and not copy.exists()):
            if not source.exists():
                source = Path(cached_file(self.name_or_path, name, revision=getattr(self, "_commit_hash", None)))
            copy.write_bytes(source.read_bytes())

    def read_modules(self, name, subfolder="", revision=None, token=None, cache_dir=None, local_files_only=False, **_):
        """Reads the files that `keep_modules` keeps, from the folder or repo that the model has been loaded from.

        Now, since a training may outlive that folder.
        """
        if not self.keep_modules:
            return
        where = {"subfolder": subfolder, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        where |= {"revision": getattr(self, "_commit_hash", None) or revision}
        where |= {f"_raise_exceptions_for_{it}": False for it in ("missing_entries", "connection_errors")}  # offline
        files = {}

        def read(file):
            path = cached_file(name, file, **where)
            return {file: Path(path).read_bytes()} if path else {}

        for file in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
            files |= read(file)
        for module in json.loads(files.get("modules.json", "[]")):
            is_folder = module["path"].replace("_", "").isalnum()  # and no way out of this one
            for file in ("config.json", "model.safetensors") if is_folder else ():
                files |= read(f"{module['path']}/{file}")
        self.module_files = files

    def write_sentence_transformers(self, folder: Path, pooler) -> None:
        """Writes the modules by which sentence-transformers opens a saved folder; its Dense is the pooler saved there.

        Nothing is written where there is none, or beside what sentence-transformers itself saves. With `keep_modules`
        the files are those that have been read.

        Args:
            folder: Where a model has been saved.
            pooler: The model's dense layer, for its values where the weights in the folder are quantised.
        """
        dense = {} if self.keep_modules else _stored_pooler(folder)
        if not (dense or self.module_files) or (folder / "config_sentence_transformers.json").exists():
            return
        if dense and (len(dense) < 2 or not all(it.is_floating_point() and it.itemsize > 1 for it in dense.values())):
            dense = _dequantised(pooler)
        folders, files = [folder], self.module_files
        if _is_pushed_by_trainer(folder):
            folders.append(folder.parent)
            self.save_pretrained(folder.parent)
        if not self.keep_modules:
            from safetensors.torch import save

            files = self.sentence_transformers_files() | {"2_Dense/model.safetensors": save(dense, {"format": "pt"})}
        for path, data in ((folder / name, data) for folder in folders for name, data in files.items()):
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)  # uploads skip a folder in which no file is new
            path.write_bytes(data)

    def sentence_transformers_files(self) -> dict[str, bytes]:
        """The JSON files by which sentence-transformers opens a saved folder, by name: [CLS] pooling, then Dense.

        In the form that its versions 3.0 to 6.2 and text-embeddings-inference read. `model_args` turns the MLM head
        off, which sentence vectors do not need.
        """
        kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
        modes = ("max_tokens", "mean_sqrt_len_tokens", "mean_tokens")
        files = {
            "modules.json": [
                {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for number, (path, kind) in enumerate(kinds)
            ],
            "sentence_bert_config.json": {
                "max_seq_length": self.max_position_embeddings,
                "do_lower_case": False,
                "model_args": {"return_logits": False},
            },
            "1_Pooling/config.json": {
                "word_embedding_dimension": self.hidden_size,
                "pooling_mode_cls_token": True,
                **{f"pooling_mode_{mode}": False for mode in modes},
            },
            "2_Dense/config.json": {
                "in_features": self.hidden_size,
                "out_features": self.hidden_size,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
        }
        return {name: (json.dumps(value, indent=2, sort_keys=True) + "\n").encode() for name, value in files.items()}


def _stored_pooler(folder: Path) -> dict:
    """The pooler in the weights of a folder, under the names of sentence-transformers' Dense.

    The files are read, since the model may hold less: they come from `state_dict=`, shards, or offloaded weights.
    """
    import torch  # a config alone does not need it
    from safetensors import safe_open

    names = {"linear.weight": "bert.pooler.dense.weight", "linear.bias": "bert.pooler.dense.bias"}
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):  # the shards, then the single file, which loads first
        with safe_open(file, "pt") as tensors:
            stored = {*tensors.keys()}
            found |= {name: tensors.get_tensor(key) for name, key in names.items() if key in stored}
    for file in () if found else folder.glob("pytorch_model*.bin"):  # safe_serialization=False, until 5.0
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        found |= {name: tensors[key] for name, key in names.items() if key in tensors}
    return found


def _dequantised(dense) -> dict:
    """Weight and bias of a linear layer that any library has quantised: read off its outputs for unit vectors."""
    import torch

    inputs = torch.eye(dense.in_features + 1, dense.in_features, dtype=dense.bias.dtype, device=dense.bias.device)
    with torch.no_grad():
        *rows, bias = dense(inputs).float().cpu()
    return {"linear.weight": torch.stack(rows, 1) - bias[:, None], "linear.bias": bias}


def _is_pushed_by_trainer(folder: Path) -> bool:
    """Whether a Trainer with `push_to_hub` is saving a checkpoint-N, and will upload the folder above it.

    To that folder it copies config.json and weights alone, which nothing opens without the code. It does not tell the
    model, whose `save_pretrained` it calls: hence the look at the callers.
    """
    # Not above each checkpoint-N instead: weights that are there already would get the 2_Dense of others.
    frame = inspect.currentframe()
    while frame is not None:
        args = getattr(frame.f_locals.get("self"), "args", None)
        if getattr(args, "push_to_hub", False) and folder.parent == Path(args.output_dir):
            return True
        frame = frame.f_back
    return False


# transformers 4.48 forgets to register classes loaded with trust_remote_code, and would then save them without code.
BertPooledMLMConfig.register_for_auto_class()
