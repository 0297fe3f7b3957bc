# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Which fields of the input's config.json are kept: BERT's, ours, and those that are known to be harmless.

transformers follows some fields to code (`auto_map`, `custom_pipelines`, an `attn_implementation`), and gets new ones
with each version. So this is a list of what is kept, not of what is dropped. The type and the size of each value are
checked, since config.json may come from anybody.
"""

from __future__ import annotations

from collections.abc import Callable

from .bert import SIZES
from .errors import ConversionError
from .tensors import FLOATS

TEXT_LIMIT = 1000  # characters
ENTRIES_LIMIT = 100_000  # of a list or a mapping, such as the labels
DEPTH_LIMIT = 3

Check = Callable[[object], bool]


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 48  # no NaN


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_LIMIT and value.isprintable()


def _is_plain(value: object, depth: int = 0) -> bool:
    """Numbers, flags, texts, and lists or mappings of these, of bounded size."""
    if isinstance(value, dict | list):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return len(value) <= ENTRIES_LIMIT and depth < DEPTH_LIMIT and all(_is_plain(it, depth + 1) for it in inner)
    return value is None or _is_flag(value) or _is_number(value) or _is_text(value)


def _is_parameter(value: object) -> bool:
    return not isinstance(value, str) and _is_plain(value)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _each(names: str, check: Check) -> dict[str, Check]:
    return dict.fromkeys(names.split(), check)


# Fields that the computation depends on. A value of another type is an error in the input.
BERT: dict[str, Check] = {
    **dict.fromkeys(SIZES, _is_number),
    **_each("hidden_act position_embedding_type", _is_text),
    **_each("layer_norm_eps initializer_range hidden_dropout_prob attention_probs_dropout_prob", _is_number),
    **_each("chunk_size_feed_forward", _is_number),
    **_each("is_decoder add_cross_attention tie_word_embeddings", _is_flag),
    **_each("classifier_dropout pad_token_id", _optional(_is_number)),
    "pruned_heads": lambda value: value in ({}, [], None),
}
OWN: dict[str, Check] = {**_each("sparse_prediction return_logits", _is_flag), "pooler_loss_weight": _is_number}
# Harmless fields that configs hold; one with an unusual value is dropped, and named as dropped.
HARMLESS: dict[str, Check] = {
    # Parameters of text generation, which configs of transformers 4 are full of.
    **_each(
        "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k "
        "top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
        "num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id "
        "remove_invalid_values begin_suppress_tokens suppress_tokens bad_words_ids exponential_decay_length_penalty "
        "cross_attention_hidden_size bos_token_id eos_token_id sep_token_id decoder_start_token_id",
        _is_parameter,
    ),
    **_each("id2label label2id", _is_plain),
    "task_specific_params": lambda value: value is None,  # pipelines set any field of the config from it
    "num_labels": lambda value: isinstance(value, int) and 0 < value <= ENTRIES_LIMIT,  # transformers names each
    **_each("problem_type tokenizer_class finetuning_task prefix language", _is_text),
    **_each("torch_dtype dtype", lambda value: value in FLOATS.values()),  # no load takes str(torch.float32)
    **_each("use_cache return_dict output_hidden_states output_attentions torchscript use_bfloat16", _is_flag),
    **_each("tf_legacy_loss is_encoder_decoder tie_encoder_decoder gradient_checkpointing", _is_flag),
    # In Google's own configs; nothing reads them any more.
    **_each("directionality pooler_type", _is_text),
    **_each("pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head", _is_number),
    "transformers_version": _is_text,
}
# Every config has them, and they are written anew, so they are not named as dropped.
REPLACED = (
    "architectures",
    "model_type",
    "pooler_source",
    "head_source",
    "keep_modules",
    "_name_or_path",
    "_attn_implementation_autoset",
)


def kept_fields(config: dict, where: str) -> tuple[dict, list[str]]:
    """The fields that are written into the output, and the names of those that are dropped.

    Raises:
        ConversionError: A field of BERT, or one of ours, has a value of the wrong type or size.
    """
    kept, dropped = {}, []
    for name, value in config.items():
        check = BERT.get(name) or OWN.get(name)
        if check is not None and not check(value):
            raise ConversionError(where, f"{name} is {value!r:.100}, which is no valid value of that field")
        harmless = HARMLESS.get(name)
        if check is not None or (harmless is not None and (value is None or harmless(value))):
            kept[name] = value
        elif name not in REPLACED:
            dropped.append(name)
    return kept, sorted(dropped)
