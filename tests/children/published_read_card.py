"""Reads model cards, and what the Hub's client writes of the first, with the Hub's client."""

import json
import sys

from huggingface_hub import ModelCard

cards = [ModelCard.load(where) for where in sys.argv[1:]]
fields = ("library_name", "license", "language", "base_model", "pipeline_tag", "tags")
found = [
    [
        card.data.to_dict(),
        *(getattr(card.data, field) for field in fields),
        card.data.eval_results[0].metric_value,
        card.text,
    ]
    for card in (*cards, ModelCard(str(cards[0])))
]
print(json.dumps(found, default=str))
