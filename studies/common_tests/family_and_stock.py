# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""transformers' common model tests: one test class for each class of the family and for its stock BERT counterpart.

run.py puts transformers' `tests` on the path and runs this file with pytest.
"""

import functools
import re
import unittest
import unittest.mock

import bert_pooled_mlm
import transformers
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from transformers.models.auto import modeling_auto

TASKS = ["MaskedLM", "MultipleChoice", "NextSentencePrediction", "QuestionAnswering", "SequenceClassification"]
TASKS += ["TokenClassification"]
# The tests look a class's labels up by its name.
for task in TASKS:
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", task).upper()
    getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES")["bert_pooled_mlm"] = f"BertPooledMLMFor{task}"
modeling_auto.MODEL_MAPPING_NAMES["bert_pooled_mlm"] = "BertPooledMLMModel"
# These load a checkpoint without weights, which the family rejects because its pooler would be random.
WITHOUT_WEIGHTS = {"test_can_init_all_missing_weights", "test_model_weights_reload_no_missing_tied_weights"}


class Tester:
    """A tiny model and its batch, as in transformers' own tests of BERT."""

    batch_size, seq_length, num_choices, is_training = 13, 7, 4, True
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_labels = 99, 32, 2, 4, 3

    def __init__(self, parent, cls):
        self.parent, self.config_class = parent, cls.config_class
        # Tests of 4.57 look for the attentions in `outputs[-1]`, where `BertPooledMLMModel` has its logits.
        self.fields = {"return_logits": False} if cls is bert_pooled_mlm.BertPooledMLMModel else {}

    def get_config(self):
        return self.config_class(
            vocab_size=self.vocab_size, hidden_size=self.hidden_size, num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads, intermediate_size=37, hidden_act="gelu",
            hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, max_position_embeddings=512,
            type_vocab_size=16, is_decoder=False, initializer_range=0.02, **self.fields,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self):
        ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        types, mask = ids_tensor([*ids.shape], 16), random_attention_mask([*ids.shape])
        return self.get_config(), {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


class Common(ModelTesterMixin):
    config_class = None
    test_torchscript = False  # removed in transformers 5

    def setUp(self):
        cls = self.all_model_classes[0]
        # These thaw all parameters, and on 4.57 expect a gradient of each.
        self.test_all_params_have_gradient = getattr(cls, "pooler_is_trained", True)
        self.model_tester = Tester(self, cls)
        self.config_tester = ConfigTester(self, config_class=self.config_class, hidden_size=37)

        if self._testMethodName in WITHOUT_WEIGHTS and self.config_class is not transformers.BertConfig:
            allowed = functools.partial(cls.from_pretrained, allow_missing_pooler=True)
            self.enterContext(unittest.mock.patch.object(cls, "from_pretrained", allowed))

    def test_config(self):
        self.config_tester.run_common_tests()


for head in [*(f"For{task}" for task in TASKS), "Model"]:
    for cls in (getattr(bert_pooled_mlm, f"BertPooledMLM{head}"), getattr(transformers, f"Bert{head}")):
        members = {"all_model_classes": (cls,), "config_class": cls.config_class}
        globals()[f"Test{cls.__name__}"] = type(f"Test{cls.__name__}", (Common, unittest.TestCase), members)
