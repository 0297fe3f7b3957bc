# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Which fields of the input's config.json travel: BERT's, ours, and those known to be harmless; the rest stays behind.

transformers follows some fields to code (`auto_map`, `custom_pipelines`, an `attn_implementation` of somebody's), and
has new ones with each version: so this is a list of what travels, not of what does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .bert import SIZES
from .errors import ConversionError

LABELS_LIMIT = 100_000  # transformers makes a name for each of `num_labels`
TEXT_LIMIT = 1000  # characters


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 48  # no NaN


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_LIMIT and value.isprintable()


def _is_word(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w.]{0,99}", value, re.ASCII) is not None


def _is_token(value: object) -> bool:
    return _is_number(value) or (isinstance(value, list) and len(value) < TEXT_LIMIT and all(map(_is_number, value)))


def _is_labels(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= LABELS_LIMIT
        and all(_is_text(key) and (_is_text(label) or _is_number(label)) for key, label in value.items())
    )


def _is_task_parameters(value: object) -> bool:
    """What `pipeline` sets in the config of a task; hence of each task, only fields that may stand in one."""
    return (
        isinstance(value, dict)
        and len(value) <= 100
        and all(
            _is_text(task)
            and isinstance(fields, dict)
            and all(name in GENERATION and (_is_flag(it) or _is_token(it)) for name, it in fields.items())
            for task, fields in value.items()
        )
    )


def _is_absent(value: object) -> bool:
    return value in ({}, [], None)


Check = Callable[[object], bool]


def _each(names: str, check: Check) -> dict[str, Check]:
    return dict.fromkeys(names.split(), check)


# What the computation depends on: a value that can't be one is an error, of the input.
BERT: dict[str, Check] = {
    **dict.fromkeys(SIZES, _is_number),
    **_each("hidden_act position_embedding_type", _is_word),
    **_each("layer_norm_eps initializer_range hidden_dropout_prob attention_probs_dropout_prob", _is_number),
    **_each("chunk_size_feed_forward", _is_number),
    **_each("is_decoder add_cross_attention tie_word_embeddings", _is_flag),
    "classifier_dropout": lambda value: value is None or _is_number(value),
    "pad_token_id": lambda value: value is None or _is_number(value),
    "pruned_heads": _is_absent,
}
OWN: dict[str, Check] = {**_each("sparse_prediction return_logits", _is_flag), "pooler_loss_weight": _is_number}
# Parameters of text generation, which configs of transformers 4 are full of.
GENERATION = (
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores", "return_dict_in_generate",
    "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "begin_suppress_tokens", "suppress_tokens",
)  # fmt: skip
HARMLESS: dict[str, Check] = {
    **dict.fromkeys(GENERATION, lambda value: _is_flag(value) or _is_token(value)),
    **_each("bos_token_id eos_token_id sep_token_id decoder_start_token_id", _is_token),
    **_each("bad_words_ids exponential_decay_length_penalty cross_attention_hidden_size", _is_absent),
    **_each("id2label label2id", _is_labels),
    "num_labels": lambda value: isinstance(value, int) and 0 < value <= LABELS_LIMIT,
    "task_specific_params": _is_task_parameters,
    **_each("problem_type tokenizer_class torch_dtype dtype", _is_word),
    **_each("finetuning_task prefix language", _is_text),
    **_each("use_cache return_dict output_hidden_states output_attentions torchscript use_bfloat16", _is_flag),
    **_each("tf_legacy_loss is_encoder_decoder tie_encoder_decoder gradient_checkpointing", _is_flag),
    "transformers_version": lambda value: _is_text(value) and re.fullmatch(r"\d[\w.+-]{0,40}", value) is not None,
    # Of Google's own configs, which nothing reads any more.
    **_each("directionality pooler_type", _is_word),
    **_each("pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head", _is_number),
}
# Of each config, and written anew: nobody misses them.
REPLACED = ("architectures", "model_type", "pooler_source", "_name_or_path", "_attn_implementation_autoset")


def travelling(config: dict, where: str) -> tuple[dict, list[str]]:
    """The fields that go into the output, and the names of those that do not.

    Raises:
        ConversionError: A field that the model is computed with, or one of ours, holds what can't stand there.
    """
    kept, dropped = {}, []
    for name, value in config.items():
        check = BERT.get(name) or OWN.get(name)
        if check is not None and not check(value):
            raise ConversionError(f"{where}: {name} is {value!r:.100}; the model can't be computed with that")
        harmless = HARMLESS.get(name)
        if check is not None or (harmless is not None and (value is None or harmless(value))):
            kept[name] = value
        elif name not in REPLACED:
            dropped.append(name)
    return kept, sorted(dropped)
