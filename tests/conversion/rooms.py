"""The converter's rooms, for the few tests of their insides: a definition that moves is a change here alone."""

import importlib

_converter = importlib.import_module("bert_pooled_mlm.convert")  # the package's `convert` is the function
bert = checkpoint = formats = known_donors = tensors = _converter
regression = texts = importlib.import_module("bert_pooled_mlm.calibration")
