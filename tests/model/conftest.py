"""The donor's vectors of some texts, for anchored training."""

import pytest
from family import TEXTS


@pytest.fixture(scope="session")
def anchors(donor, tokenizer) -> list[dict]:
    from bert_pooled_mlm import anchor_rows

    return anchor_rows(donor, tokenizer, TEXTS, batch_size=2)
