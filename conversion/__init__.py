# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The converter's modules, each with one task. `pipeline` calls the steps in order.

A module imports only from those above it:

    errors        ConversionError: subject, reason, remedy
    terminal      signals, logging, strings that can be pasted
    formats       the three output formats, as data
    bert          what a BERT is: tensor names, shapes, the lineage tensor
    known_donors  published BERTs that have a pooler
    provenance    where a pooler came from: the config's `pooler_source`
    texts         unlabelled texts: read, sampled, hashed, tokenized for two models
    options       the arguments of a conversion, checked
    regression    the closed-form fit of a pooler to an encoder
    sources       where a checkpoint's files are read from: the protocol, a local folder
    hub           a repo on the Hub: listing, byte ranges, download, one line for each failure
    pages         the address of a model's page on the Hub
    push          uploads an output as a commit or a pull request
    tensors       a tensor as a range of bytes: compared, hashed, cast
    fields        which fields of config.json are kept
    pickles       tensors out of a PyTorch file
    weights       a checkpoint's weights: safetensors, pickles and shards are read, safetensors written
    tokenizer     which tokenizer a folder has, as its files tell
    card          the model card
    other_kinds   what is not a BERT checkpoint: what it is instead, and what to run first
    modules       a sentence-transformers model's own modules, which the output keeps
    staging       an output folder appears complete, or not at all
    opening       what a checkpoint's name names, and its config.json
    checkpoint    step 1: read a checkpoint
    origins       which donors to try
    lineage       whether a checkpoint descends from a donor
    donors        step 2: find the donor
    head          a donor's MLM head for the checkpoint's vocabulary
    graft         which pooler and MLM head the output gets, and from where
    plan          step 3: plan everything that is written
    calibrate     step 4, if asked: refit the pooler
    write         step 5: write every file of the output
    verification_process  a program: loads a folder as users do
    verify        step 6: reopen, compare, load in the verification process
    report        what was done, derived from the plan
    pipeline      one conversion from beginning to end
    command_line  arguments, what is printed, exit codes
"""

__version__ = "0.1.0"
