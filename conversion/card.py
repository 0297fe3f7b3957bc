# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The model card: the input's README with its metadata completed and our section added once."""

from __future__ import annotations

import re

import yaml
from huggingface_hub.utils import yaml_dump

from .errors import ConversionError, first_line
from .formats import Format
from .provenance import PROJECT_URL, VERSION, PoolerSource
from .sources import Folder, read_bytes
from .terminal import quoted

BEGIN, END = "<!-- bert-pooled-mlm: begin -->", "<!-- bert-pooled-mlm: end -->"
TAGS = ("bert", "bert-pooled-mlm", "sentence-transformers")
METADATA_LIMIT = 1 << 16  # bytes: PyYAML reads about 50,000 a second
FIELDS_LIMIT = 1000  # of one mapping
NEWLINES = re.compile(r"\n*")
FENCE = re.compile(r"(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\r|\n|\Z)")


class BoundedLoader(yaml.SafeLoader):
    """Merge keys (`<<`) of merge keys would make gigabytes of half a kilobyte."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > FIELDS_LIMIT:
            raise yaml.YAMLError(f"more than {FIELDS_LIMIT} keys in one place")


def read_card(folder: Folder) -> tuple[dict, str]:
    """The metadata at the head of README.md, and the text below it; both empty where there is none.

    Raises:
        ConversionError: It is not UTF-8, or its metadata is not valid YAML, or too long.
    """
    if "README.md" not in folder.names():
        return {}, ""
    where = folder.where("README.md")
    try:
        text = read_bytes(folder, "README.md").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConversionError(
            f"{where}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    opening = re.match(r"\s*---(?=\r|\n)", text)
    closing = FENCE.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        return {}, text
    head = text[opening.end() : closing.start()]
    if len(head) > METADATA_LIMIT:
        raise ConversionError(f"{where}: its metadata has {len(head)} characters; expected at most {METADATA_LIMIT}")
    try:
        data = yaml.load(head, BoundedLoader)
        yaml_dump(data)  # what can be read can be too deep to be written
        if not isinstance(data, dict | None):
            raise ValueError("no mapping")
    # The last four: what PyYAML's own constructors run into.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ConversionError(
            f"{where}: its metadata is not valid YAML ({first_line(error)}); mend it, or move the file away"
        ) from error
    return data or {}, text[closing.end() :]


def without_section(text: str) -> str:
    """`text` without the sections that earlier conversions added."""
    kept, at, last = [], 0, text.rfind(END)
    while 0 <= (begin := text.find(BEGIN, at)) < last:
        kept.append(text[at:begin].rstrip("\n") + "\n\n")
        at = NEWLINES.match(text, text.index(END, begin) + len(END)).end()
    return "".join(kept) + text[at:]


def model_card(
    metadata: dict,
    text: str,
    title: str,
    format: Format,
    source: PoolerSource | None,
    base: str | None,
    has_tokenizer: bool = True,
) -> str:
    """The whole README of the output.

    Args:
        metadata: The input's, which wins.
        text: The input's, below its metadata.
        title: What the result is loaded by: the repo's id, or the folder's name.
        format: Of the output.
        source: Where the pooler came from; None: the checkpoint's own.
        base: The donor, if it is a repo on the Hub.
        has_tokenizer: Whether the output holds one.
    """
    given = metadata.get("tags")
    tags = [tag for tag in given if isinstance(tag, str)] if isinstance(given, list) else []
    data = {"library_name": "transformers", "pipeline_tag": "feature-extraction", **metadata}
    data["tags"] = [*tags, *(tag for tag in TAGS if tag not in tags)]
    if base is not None and not data.get("base_model"):
        data |= {"base_model": base, "base_model_relation": "finetune"}
    body = without_section(text).strip() or f"# {PoolerSource.name_of(title)}"
    section = "\n".join(_section(title, format, source, has_tokenizer))
    return f"---\n{yaml_dump(data).strip()}\n---\n\n{body}\n\n{BEGIN}\n{section}\n{END}\n"


def _section(title: str, format: Format, source: PoolerSource | None, has_tokenizer: bool) -> list[str]:
    lines, name = ["## The pooler", ""], quoted(title)
    if source is None:
        lines += ["This checkpoint was trained with masked-language modelling, and keeps a pooler of its own:"]
    else:
        stated = [
            "(As the checkpoint's own config.json states it. Only the two hashes were checked when this was written.)",
            "",
        ]
        lines += [
            "This checkpoint lost its pooler in masked-language-model training; the original was grafted back:",
            "",
            *source.card_lines(),
            "",
            *(stated if source.stated else []),
        ]
    fitted = source is not None and source.calibration is not None
    return [
        *lines,
        "`pooler_output` is the same at every load.",
        "",
        "```python",
        "from transformers import AutoModel, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({name}{format.trust})"
        if has_tokenizer
        else "tokenizer = ...  # there is none here: the one that this model was trained with",
        f"model = AutoModel.from_pretrained({name}{format.trust})",
        'vector = model(**tokenizer("A sentence.", return_tensors="pt")).pooler_output',
        "```",
        *(
            [
                "",
                f"Without remote code, transformers' own `BertModel.from_pretrained({name})` gives the same",
                "`pooler_output`: it passes over the MLM head (`cls.*`), and over nothing else.",
            ]
            if format.code_files
            else []
        ),
        "",
        f"`SentenceTransformer({name}{format.trust})` gives the same vectors. The pooler was "
        + ("refitted to" if fitted else "trained for"),
        "the adapted encoder: it says what the original said, as far as the encoder still knows it."
        if fitted
        else "the encoder before it was adapted: the further training moved the encoder, the less the two fit.",
        "The tag `sentence-transformers` says that it opens this: the vectors were not trained for similarity.",
        *(_head(name, format) if format.has_mlm_head and has_tokenizer else []),
        "",
        f"Written by {f'[bert-pooled-mlm]({PROJECT_URL})' if PROJECT_URL else 'bert-pooled-mlm'} {VERSION}. "
        + ("The code files (`*.py`) are Apache-2.0. " if format.code_files else "")
        + "The licence of the weights is their owner's to state.",
    ]


def _head(name: str, format: Format) -> list[str]:
    """What the MLM head is for: filling masks, and training on."""
    keeps = "with `Trainer`, as any BERT; the pooler is frozen, and stays"
    if format.code_files:
        train = ["from transformers import AutoModelForMaskedLM", ""]
        train += [f"model = AutoModelForMaskedLM.from_pretrained({name}{format.trust})  # {keeps}"]
    else:
        train = ["from bert_pooled_mlm import BertPooledMLMForMaskedLM  # stock BertForMaskedLM loses the pooler", ""]
        train += [f"model = BertPooledMLMForMaskedLM.from_pretrained({name})  # {keeps}"]
    return [
        "",
        "The masked-language-model head fills masks, and trains on:",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        f'fill = pipeline("fill-mask", model={name}{format.trust})',
        'fill(f"Paris is the {fill.tokenizer.mask_token} of France.")',
        "```",
        "",
        "```python",
        *train,
        "```",
    ]
