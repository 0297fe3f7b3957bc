# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Published BERTs that have a pooler: guesses for checkpoints that do not say where they come from.

From published configs; the lineage check holds for every entry, so that a wrong one costs a few megabytes of reading.
"""

from __future__ import annotations

from typing import NamedTuple


class KnownDonor(NamedTuple):
    """A repo on the Hub, with what tells whether a checkpoint can descend from it."""

    repo_id: str
    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12


KNOWN_DONORS = (
    KnownDonor("google-bert/bert-base-uncased", 30522),
    KnownDonor("google-bert/bert-base-cased", 28996),
    KnownDonor("google-bert/bert-large-uncased", 30522, 1024, 24),
    KnownDonor("google-bert/bert-large-cased", 28996, 1024, 24),
    KnownDonor("google-bert/bert-large-uncased-whole-word-masking", 30522, 1024, 24),
    KnownDonor("google-bert/bert-large-cased-whole-word-masking", 28996, 1024, 24),
    KnownDonor("google-bert/bert-base-multilingual-uncased", 105879),
    KnownDonor("google-bert/bert-base-multilingual-cased", 119547),
    KnownDonor("google-bert/bert-base-chinese", 21128),
    KnownDonor("google-bert/bert-base-german-cased", 30000),
    KnownDonor("hfl/chinese-bert-wwm", 21128),
    KnownDonor("hfl/chinese-bert-wwm-ext", 21128),
    KnownDonor("hfl/chinese-roberta-wwm-ext", 21128),
    KnownDonor("hfl/chinese-roberta-wwm-ext-large", 21128, 1024, 24),
    KnownDonor("hfl/chinese-macbert-base", 21128),
    KnownDonor("hfl/chinese-macbert-large", 21128, 1024, 24),
    KnownDonor("hfl/rbt3", 21128, 768, 3),
    KnownDonor("hfl/rbtl3", 21128, 1024, 3),
    KnownDonor("allenai/scibert_scivocab_uncased", 31090),
    KnownDonor("allenai/scibert_scivocab_cased", 31116),
    KnownDonor("dmis-lab/biobert-base-cased-v1.2", 28996),
    KnownDonor("emilyalsentzer/Bio_ClinicalBERT", 28996),
    KnownDonor("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", 30522),
    KnownDonor("nlpaueb/legal-bert-base-uncased", 30522),
)
# What the Hub's oldest models were called before repos had owners.
LEGACY_NAMES = {known.repo_id.split("/")[1] for known in KNOWN_DONORS if known.repo_id.startswith("google-bert/")}
