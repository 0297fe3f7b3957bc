# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Registers this package's classes with transformers' Auto classes, and imports neither before it is needed.

transformers has no lazy registration: `AutoModel.register` takes classes, whose import takes torch. So a finder at the
head of `sys.meta_path` waits until transformers imports its Auto classes. They are imported in the midst of other
modules, on which ours depend: the registration runs once none of these modules is being imported any more.
"""

import importlib
import importlib.abc
import sys
import threading


def _register_config(auto) -> None:
    from .configuration_bert_pooled_mlm import BertPooledMLMConfig

    auto.AutoConfig.register(BertPooledMLMConfig.model_type, BertPooledMLMConfig)


def _register_models(auto) -> None:
    from . import modeling_bert_pooled_mlm
    from .configuration_bert_pooled_mlm import AUTO_MAP, BertPooledMLMConfig

    for auto_class, path in AUTO_MAP.items():
        if auto_class != "AutoConfig":
            model_class = getattr(modeling_bert_pooled_mlm, path.rpartition(".")[2])
            getattr(auto, auto_class).register(BertPooledMLMConfig, model_class)


def _register_tokenizer(auto) -> None:
    from transformers import BertTokenizer, BertTokenizerFast

    from .configuration_bert_pooled_mlm import BertPooledMLMConfig

    auto.AutoTokenizer.register(
        BertPooledMLMConfig, slow_tokenizer_class=BertTokenizer, fast_tokenizer_class=BertTokenizerFast
    )


PENDING = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.tokenization_auto": _register_tokenizer,
}
PACKAGES = ("transformers.", f"{__package__}.")


class _ImportWatcher(importlib.abc.MetaPathFinder):
    """Counts the modules of transformers and of this package that are being imported, in each thread."""

    def __init__(self):
        self._imports = threading.local()

    def find_spec(self, name, path, target=None):
        if not PENDING or not name.startswith(PACKAGES):
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader.exec_module = self._counting(spec.loader.exec_module)
        return spec

    def _counting(self, exec_module):
        def count_and_execute(module) -> None:
            self._imports.depth = getattr(self._imports, "depth", 0) + 1
            try:
                exec_module(module)
            finally:
                self._imports.depth -= 1
            if self._imports.depth == 0:
                register_imported()

        return count_and_execute


def register_imported() -> None:
    """Registers with those of the Auto classes that have been imported."""
    for name in [name for name in PENDING if name in sys.modules]:
        if register := PENDING.pop(name, None):  # registering one may import, and so register, another
            register(sys.modules[name])


def register_with_transformers() -> None:
    """Registers now or later, whether transformers has been imported before or is imported after this package."""
    sys.meta_path.insert(0, _ImportWatcher())
    register_imported()
