# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Published BERTs that have a pooler: guesses for checkpoints that do not say where they come from.

From published configs; the lineage check holds for every entry, so that a wrong one costs a few megabytes of reading.
"""

from __future__ import annotations

import re
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
    KnownDonor("tohoku-nlp/bert-base-japanese", 32000),
    KnownDonor("tohoku-nlp/bert-base-japanese-whole-word-masking", 32000),
    KnownDonor("cl-tohoku/bert-base-japanese-v2", 32768),
    KnownDonor("cl-tohoku/bert-base-japanese-v3", 32768),
    KnownDonor("cl-tohoku/bert-large-japanese", 32768, 1024, 24),
    KnownDonor("klue/bert-base", 32000),
    KnownDonor("beomi/kcbert-base", 30000),
    KnownDonor("kykim/bert-kor-base", 42000),
    KnownDonor("neuralmind/bert-base-portuguese-cased", 29794),
    KnownDonor("neuralmind/bert-large-portuguese-cased", 29794, 1024, 24),
    KnownDonor("aubmindlab/bert-base-arabertv2", 64000),
    KnownDonor("aubmindlab/bert-base-arabertv02", 64000),
    KnownDonor("aubmindlab/bert-large-arabertv2", 64000, 1024, 24),
    KnownDonor("CAMeL-Lab/bert-base-arabic-camelbert-mix", 30000),
    KnownDonor("asafaya/bert-large-arabic", 32000, 1024, 24),
    KnownDonor("deepset/gbert-base", 31102),
    KnownDonor("deepset/gbert-large", 31102, 1024, 24),
    KnownDonor("dbmdz/bert-base-turkish-cased", 32000),
    KnownDonor("dbmdz/bert-base-turkish-128k-uncased", 128000),
    KnownDonor("dbmdz/bert-base-italian-xxl-cased", 31102),  # by its tokenizer; its config.json has 32102
    KnownDonor("DeepPavlov/rubert-base-cased", 119547),
    KnownDonor("indobenchmark/indobert-base-p1", 50000),
    KnownDonor("indolem/indobert-base-uncased", 31923),
    KnownDonor("KB/bert-base-swedish-cased", 50325),
    KnownDonor("NbAiLab/nb-bert-base", 119547),
    KnownDonor("TurkuNLP/bert-base-finnish-uncased-v1", 50101),
    KnownDonor("GroNLP/bert-base-dutch-cased", 30073),
    KnownDonor("HooshvareLab/bert-base-parsbert-uncased", 100000),
    KnownDonor("nlpaueb/bert-base-greek-uncased-v1", 35000),
    KnownDonor("ixa-ehu/berteus-base-cased", 50099),
    KnownDonor("google/muril-base-cased", 197285),
    KnownDonor("sentence-transformers/LaBSE", 501153),
    KnownDonor("anferico/bert-for-patents", 39859, 1024, 24),
    KnownDonor("yiyanghkust/finbert-pretrain", 30873),
    KnownDonor("hfl/minirbt-h256", 21128, 256, 6),
    KnownDonor("hfl/chinese-lert-large", 21128, 1024, 24),
    KnownDonor("prajjwal1/bert-tiny", 30522, 128, 2),
    KnownDonor("prajjwal1/bert-mini", 30522, 256, 4),
    KnownDonor("google/bert_uncased_L-4_H-128_A-2", 30522, 128, 4),
    KnownDonor("microsoft/MiniLM-L12-H384-uncased", 30522, 384, 12),
)
# Published without a pooler, by their load logs and by reports of their users.
WITHOUT_POOLER = re.compile(
    r"(dccuchile/)?bert-base-spanish-wwm-cased|uer/chinese_roberta_L-\d+_H-\d+|ckiplab/bert-base-chinese(-\w+)*|"
    r"SpanBERT/spanbert-large-cased"
)

# What the Hub's oldest models were called before repos had owners.
LEGACY_NAMES = {known.repo_id.split("/")[1] for known in KNOWN_DONORS if known.repo_id.startswith("google-bert/")}


def without_pooler(name: str) -> bool:
    """Whether a repo is known to hold no pooler, so that none can be lost."""
    return WITHOUT_POOLER.fullmatch(name) is not None
