"""The package's face: what an import costs, which names it has, and the registration with the Auto classes."""

import ast
import json
import pydoc

import bert_pooled_mlm
import pytest
from checkpoints import ROOT
from programs import answer

FIRST_USES = {
    "transformers before": "from transformers import AutoModel, AutoTokenizer, pipeline\nimport bert_pooled_mlm",
    "an unfinished transformers before": "import transformers\nimport bert_pooled_mlm",
    "Auto classes after": "import bert_pooled_mlm\nfrom transformers import AutoModel",
    "the tokenizer alone": "import bert_pooled_mlm\nfrom transformers import AutoTokenizer",
    "a model class of ours": "import bert_pooled_mlm\nbert_pooled_mlm.BertPooledMLMForMaskedLM",
    "our modules by their names": "import bert_pooled_mlm.modeling_bert_pooled_mlm",
    # It imports the Auto classes while it is being imported itself.
    "BERT's module": "import bert_pooled_mlm\nfrom transformers.models.bert import modeling_bert",
    "a module that is missing": """
import bert_pooled_mlm
try:
    from transformers.models.auto import modeling_auto, no_such_module
except ImportError:
    pass
""",
    "two threads": """
import threading
import bert_pooled_mlm
def use(name):
    getattr(__import__("transformers"), name)
threads = [threading.Thread(target=use, args=[name]) for name in ("AutoModel", "pipeline")]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""",
    "remote code before": """
from transformers import AutoModel
AutoModel.from_pretrained(folder, trust_remote_code=True)
import bert_pooled_mlm
""",
}
MODELING = "bert_pooled_mlm.modeling_bert_pooled_mlm.BertPooledMLM"


@pytest.mark.versions
def test_the_auto_classes_read_a_pooled_folder_in_every_order_of_imports(pooled, tmp_path):
    found = answer("import_orders", tmp_path, pooled, json.dumps([*FIRST_USES.values()]), fresh=True)
    for order, classes in zip(FIRST_USES, found, strict=True):
        assert isinstance(classes, dict), f"{order}: {classes}"
        assert classes == {
            "AutoModel": f"{MODELING}Model",
            "AutoModelForMaskedLM": f"{MODELING}ForMaskedLM",
            "AutoModelForSequenceClassification": f"{MODELING}ForSequenceClassification",
            "AutoConfig": "bert_pooled_mlm.configuration_bert_pooled_mlm.BertPooledMLMConfig",
            "AutoTokenizer": [2, 12, 3],
            "pipeline": f"{MODELING}ForMaskedLM",
        }, order


HEAVY = ("torch", "transformers", "huggingface_hub", "datasets", "safetensors")
# What is run, and what of these it imports.
COSTS = {
    "import bert_pooled_mlm": [],
    "from bert_pooled_mlm import convert": ["huggingface_hub"],
    "from bert_pooled_mlm import ConversionError, ConversionReport": ["huggingface_hub"],
    "import bert_pooled_mlm; dir(bert_pooled_mlm); bert_pooled_mlm.__version__; hasattr(bert_pooled_mlm, 'no')": [],
}


@pytest.mark.parametrize("program", COSTS)
def test_an_import_costs_what_it_needs(program, tmp_path):
    program += f"\nimport json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    assert answer(program, tmp_path, fresh=True) == COSTS[program.split("\n")[0]]


def test_convert_is_the_function_whatever_was_imported_first(tmp_path):
    program = """
import importlib, json
from bert_pooled_mlm.convert import main
import bert_pooled_mlm.convert
import bert_pooled_mlm.convert as alias
module = importlib.import_module("bert_pooled_mlm.convert")
function = module.convert
print(json.dumps([bert_pooled_mlm.convert is function, alias is function, module.main is main, callable(function)]))
"""
    assert answer(program, tmp_path, fresh=True) == [True] * 4


def test_every_name_is_public_typed_and_importable():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == bert_pooled_mlm._MODULES
    assert bert_pooled_mlm.__all__ == sorted([*typed, "__version__"])
    names: dict = {}
    exec("from bert_pooled_mlm import *", names)
    assert set(bert_pooled_mlm.__all__) <= names.keys()
    assert set(bert_pooled_mlm.__all__) <= set(dir(bert_pooled_mlm))
    assert all(names[name].__name__ == name for name in typed)
    text = pydoc.plain(pydoc.render_doc(bert_pooled_mlm))
    assert all(name in text for name in typed)
    with pytest.raises(AttributeError, match="no_such_name"):
        bert_pooled_mlm.no_such_name  # noqa: B018
