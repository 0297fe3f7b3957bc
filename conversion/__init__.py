# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The rescue's rooms, each with one task; `convert.py` walks through them from top to bottom.

A room imports only from those above it:

    errors        one refusal in one line
    terminal      streams, signals, and lines that can be pasted
    formats       the three output formats, as data
    bert          what a BERT is: tensor names, shapes, the lineage tensor
    fields        which fields of config.json travel
    known_donors  published BERTs that have a pooler
    provenance    where a pooler came from: read from and written to config.json, told in report and card
    texts         unlabelled texts: read, sampled, digested, tokenized for two models
    regression    the closed form of a pooler's fit to an encoder
    sources       where a checkpoint's files lie: a folder, or something that can become one
    wire          one request to the Hub, bounded in time and memory
    hub           a repo on the Hub: range reads, download, and a line for each way in which it fails
    push          an output becomes a commit or a pull request on the Hub
    tensors       a tensor as a range of bytes: compared, hashed, cast
    pickles       tensors out of a PyTorch file
    weights       a checkpoint's weights: safetensors, pickles, shards in, safetensors out
    tokenizer     which tokenizer a folder has, told from its files
    card          the model card
    other_kinds   what is not a BERT checkpoint: what it is instead, and what to run first
    staging       a folder appears whole, or not at all
    opening       what a checkpoint's name stands for, and its config.json
    checkpoint    step 1: read a checkpoint
    origins       whom to ask for the pooler
    donors        step 2: find the donor, check its lineage
    plan          step 3: decide all that will be written
    calibrate     step 4, if asked: refit the pooler of a plan
    write         step 5: write every file of the output
    load_twice    a program: loads a folder as users do
    verify        step 6: reopen, compare, run load_twice in a fresh process
    report        what was done, derived from the plan
"""
