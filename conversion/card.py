# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The model card: the input's README with its metadata completed, and one section of ours from `card_template.md`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import yaml
from huggingface_hub.utils import yaml_dump

from . import __version__
from .errors import ConversionError, first_line
from .formats import PROJECT_URL, Format
from .provenance import HeadSource, PoolerSource
from .sources import Source, read_bytes
from .terminal import quoted

BEGIN, END = "<!-- bert-pooled-mlm: begin -->", "<!-- bert-pooled-mlm: end -->"
TAGS = ("bert", "bert-pooled-mlm", "sentence-transformers")
METADATA_LIMIT = 1 << 16  # bytes: PyYAML reads about 50,000 a second
FENCE = re.compile(r"(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\r|\n|\Z)")
TEMPLATE = Path(__file__).with_name("card_template.md")


class Card(NamedTuple):
    """A README.md: the metadata at its head, and the text below."""

    metadata: dict
    text: str


def read_card(source: Source) -> Card:
    """The README.md of a folder; empty where there is none.

    huggingface_hub's own reader is not used: it drops fields whose value is null, and raises TypeError at keys that
    Python does not take as arguments.

    Raises:
        ConversionError: It is not UTF-8, or its metadata is not valid YAML, too long, or has anchors and aliases.
    """
    if "README.md" not in source.names():
        return Card({}, "")
    where = source.where("README.md")
    try:
        text = read_bytes(source, "README.md").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConversionError(
            where, f"not UTF-8 ({error.reason} at byte {error.start})", "save it as UTF-8"
        ) from error
    opening = re.match(r"\s*---(?=\r|\n)", text)
    closing = FENCE.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        return Card({}, text)
    head = text[opening.end() : closing.start()]
    if len(head) > METADATA_LIMIT:
        raise ConversionError(where, f"its metadata has {len(head)} characters; expected at most {METADATA_LIMIT}")
    try:
        tokens = [*yaml.scan(head)]
        references = [it for it in tokens if isinstance(it, yaml.AnchorToken | yaml.AliasToken)]
        if references or any(isinstance(it, yaml.ScalarToken) and it.value == "<<" for it in tokens):
            raise ConversionError(
                where, "its metadata has YAML anchors, aliases or merge keys, which are not read", "write them out"
            )
        data = yaml.safe_load(head)
        yaml_dump(data)  # some values can be read, and not written
        if not isinstance(data, dict | None):
            raise ValueError("no mapping")
    # The last four: errors of PyYAML's own constructors.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ConversionError(
            where, f"its metadata is not valid YAML ({first_line(error)})", "correct it, or move the file away"
        ) from error
    return Card(data or {}, text[closing.end() :])


def without_section(text: str) -> str:
    """`text` without the sections that earlier conversions added."""
    kept, at, last = [], 0, text.rfind(END)
    while 0 <= (begin := text.find(BEGIN, at)) < last:
        kept.append(text[at:begin].rstrip("\n") + "\n\n")
        at = re.compile(r"\n*").match(text, text.index(END, begin) + len(END)).end()
    return "".join(kept) + text[at:]


def model_card(
    card: Card,
    title: str,
    format: Format,
    source: PoolerSource | None,
    base: str | None,
    has_tokenizer: bool = True,
    head_source: HeadSource | None = None,
    keeps_modules: bool = False,
) -> str:
    """The README.md of the output.

    Args:
        card: The input's; its metadata takes precedence.
        title: The name that the result is loaded by: the repo's id, or the folder's name.
        format: The output's.
        source: Where the pooler came from; None: the checkpoint's own.
        head_source: Where the MLM head came from; None: the checkpoint's own.
        base: The donor, if it is a repo on the Hub.
        has_tokenizer: Whether the output holds one.
    """
    import jinja2

    given = card.metadata.get("tags")
    tags = [tag for tag in given if isinstance(tag, str)] if isinstance(given, list) else []
    data = {"library_name": "transformers", "pipeline_tag": "feature-extraction", **card.metadata}
    data["tags"] = [*tags, *(tag for tag in TAGS if tag not in tags)]
    if base is not None and not data.get("base_model"):
        data |= {"base_model": base, "base_model_relation": "finetune"}
    body = without_section(card.text).strip() or f"# {PoolerSource.name_of(title)}"
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    section = template.render(
        name=quoted(title),
        format=format,
        source=source,
        head_source=head_source,
        keeps_modules=keeps_modules,
        has_tokenizer=has_tokenizer,
        program=f"[bert-pooled-mlm]({PROJECT_URL})" if PROJECT_URL else "bert-pooled-mlm",
        version=__version__,
    )
    return f"---\n{yaml_dump(data).strip()}\n---\n\n{body}\n\n{BEGIN}\n{section.strip()}\n{END}\n"
