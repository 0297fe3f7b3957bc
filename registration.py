# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Registers this package's classes with transformers' Auto classes, and imports neither before it is needed.

transformers has no lazy registration: `AutoModel.register` takes classes, whose import takes torch. So a finder at the
head of `sys.meta_path` waits until transformers imports its Auto classes. They are imported in the midst of other
modules, on which ours depend: the registration runs when the outermost of these imports ends.
"""

import importlib
import importlib.abc
import sys
import threading


def _register_config(auto) -> None:
    from .configuration_bert_pooled_mlm import BertPooledMLMConfig

    auto.AutoConfig.register(BertPooledMLMConfig.model_type, BertPooledMLMConfig, exist_ok=True)


def _register_models(auto) -> None:
    from . import modeling_bert_pooled_mlm
    from .configuration_bert_pooled_mlm import AUTO_MAP, BertPooledMLMConfig

    for auto_class, path in AUTO_MAP.items():
        if auto_class != "AutoConfig":
            model_class = getattr(modeling_bert_pooled_mlm, path.rpartition(".")[2])
            getattr(auto, auto_class).register(BertPooledMLMConfig, model_class, exist_ok=True)


def _register_tokenizer(auto) -> None:
    from transformers import BertTokenizer, BertTokenizerFast

    from .configuration_bert_pooled_mlm import BertPooledMLMConfig

    auto.AutoTokenizer.register(
        BertPooledMLMConfig, slow_tokenizer_class=BertTokenizer, fast_tokenizer_class=BertTokenizerFast, exist_ok=True
    )


PENDING = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.tokenization_auto": _register_tokenizer,
}


def register_imported() -> None:
    """Registers with those of the Auto classes that have been imported; registering one may import another."""
    while names := [name for name in PENDING if name in sys.modules]:
        for name in names:
            if register := PENDING.get(name):  # else another thread has registered it meanwhile
                register(importlib.import_module(name))  # which waits, where another thread is importing it
                PENDING.pop(name, None)


class _ImportWatcher(importlib.abc.MetaPathFinder):
    """Follows the imports of transformers and of this package, in each thread, until all is registered."""

    def __init__(self):
        self._thread = threading.local()

    def find_spec(self, name, path, target=None):
        if not PENDING or name.partition(".")[0] not in ("transformers", __package__):
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader.exec_module = self._followed(spec.loader.exec_module)
        return spec

    def _followed(self, exec_module):
        def execute(module) -> None:
            if getattr(self._thread, "is_importing", False):
                exec_module(module)
                return
            self._thread.is_importing = True
            try:
                exec_module(module)
            finally:  # also where the import fails: the Auto classes may have been imported on the way
                try:
                    register_imported()
                finally:
                    self._thread.is_importing = False

        return execute


def register_with_transformers() -> None:
    """Registers now or later, whether transformers has been imported before or is imported after this package."""
    sys.meta_path.insert(0, _ImportWatcher())
    register_imported()
