# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The rescue's rooms, each with one task; `convert.py` walks through them from top to bottom.

Imports run downwards only:

    errors        one refusal in one line
    formats       the three output formats, as data
    terminal      streams, signals, and lines that can be pasted
    provenance    where a pooler came from: read from and written to config.json, told in report and card
    known_donors  published BERTs that have a pooler
    texts         unlabelled texts: read, sampled, digested
    sources       where a checkpoint's files lie: a folder, or something that can become one
    wire          one request to the Hub, bounded in time and memory
    hub           a repo on the Hub: range reads, download, and a line for each way in which it fails
    push          an output becomes a commit or a pull request on the Hub
    staging       a folder appears whole, or not at all
    bert          what a BERT is: tensor names, shapes, the lineage tensor
    fields        which fields of config.json travel
    tensors       tensors as byte ranges: safetensors in and out
    weights       a checkpoint's weights, whichever files hold them
    tokenizer     which tokenizer a folder has, told from its files
    card          the model card
    checkpoint    step 1: read a checkpoint
    donors        step 2: find the donor, check its lineage
    plan          step 3: decide all that will be written
    calibrate     step 4, if asked: refit the pooler of a plan (regression: the closed form)
    write         step 5: write every file of the output
    verify        step 6: reopen, compare, load in a fresh process (load_twice)
    report        what was done, derived from the plan
"""
