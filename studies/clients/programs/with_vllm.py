# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
from asked import answer
from vllm import LLM  # noqa: F401


def vectors_of(folder, call, texts):
    return [output.outputs.embedding for output in eval(call).embed(texts)]


if __name__ == "__main__":  # its engine is another process, which imports this file
    answer(vectors_of)
