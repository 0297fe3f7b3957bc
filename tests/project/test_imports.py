"""The package's face: what an import costs, which names it has, and the registration with the Auto classes."""

import ast
import json
import pydoc
import sys

import bert_pooled_mlm
import pytest
from checkpoints import ROOT
from programs import answer, run_python

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
        assert classes.pop("AutoTokenizer").endswith((".BertTokenizerFast", ".BertTokenizer")), order
        assert classes == {
            "AutoModel": f"{MODELING}Model",
            "AutoModelForMaskedLM": f"{MODELING}ForMaskedLM",
            "AutoModelForSequenceClassification": f"{MODELING}ForSequenceClassification",
            "AutoConfig": "bert_pooled_mlm.configuration_bert_pooled_mlm.BertPooledMLMConfig",
            "pipeline": f"{MODELING}ForMaskedLM",
        }, order
