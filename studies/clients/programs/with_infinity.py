# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import asyncio

from asked import answer
from infinity_emb import AsyncEmbeddingEngine, EngineArgs  # noqa: F401


async def embedded(arguments, texts):
    engine = AsyncEmbeddingEngine.from_args(arguments)
    async with engine:
        return (await engine.embed(texts))[0]


def vectors_of(folder, call, texts):
    return asyncio.run(embedded(eval(call), texts))


answer(vectors_of)
