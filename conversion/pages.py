# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The address of a model's page on the Hub, pasted in the place of the model's id."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from .errors import ConversionError
from .hub import endpoint
from .sources import local_path

HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
OTHER_KINDS = ("datasets", "spaces", "docs", "papers", "collections", "blog")  # of pages


def parse_page(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """The repo id and the revision of a page's address; any other `name` as it is.

    Raises:
        ConversionError: It is the page of something else, or of another revision than `revision`.
    """
    path = _page_path(name)
    if path is None or os.path.exists(local_path(name)):
        return name, revision
    page = re.fullmatch(
        r"(?P<id>[\w.-]+(?:/(?!tree/|blob/|resolve/|raw/)[\w.-]+)?)"
        r"(?:/(?:(?P<folder>tree|commit)|blob|resolve|raw)/(?P<shown>[^/]+)(?P<below>/.*)?|/\w+)?",
        path,
    )
    if page is None or page["id"].split("/")[0] in OTHER_KINDS:
        raise ConversionError(name, "not the page of a model on the Hub", "pass the model's id, such as user/name")
    below = (page["below"] or "").strip("/")
    if not page["folder"]:  # the page shows a file, or is a tab
        below = below.rpartition("/")[0]
    if below:
        raise ConversionError(
            name,
            "a folder in a repository",
            f"run `hf download {page['id']}`, and pass {below} in the folder that it prints",
        )
    shown = unquote(page["shown"]) if page["shown"] else None
    if shown and revision and shown != revision:
        raise ConversionError(name, f"shows the revision {shown}, and {revision} was asked for", "leave one out")
    # `main` is the default, and as a name it would be in every message.
    return page["id"], revision or (shown if shown != "main" else None)


def _page_path(name: str) -> str | None:
    """The path of an address on the Hub, or of one as huggingface_hub's file system writes it; else None."""
    host = "|".join(map(re.escape, filter(None, (*HOSTS, urlsplit(endpoint()).netloc))))
    if found := re.fullmatch(rf"(?:https?://)?(?:{host})/(.*)", name):
        return urlsplit(found[1]).path.strip("/")
    if found := re.fullmatch(r"hf://(?:models/)?([^/]+/[^/@]+)(?:@([^/]+))?(?:/(.+?))?/?", name):
        repo, revision, file = found.groups()
        if not revision and not file:
            return repo
        kind = "blob" if "." in (file or "") else "tree"
        return "/".join(filter(None, (repo, kind, revision or "main", file)))
    return None
