# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Linear probes of the studies, trained and evaluated by cross-validation."""

import torch
from torch.nn import functional


def probe(features, labels):
    """Logistic regression on standardised features with a ridge; returns the function from features to classes."""
    features = features.double()
    middle, spread = features.mean(0), features.std(0) + 1e-6
    inputs, classes = (features - middle) / spread, int(labels.max()) + 1
    weight = torch.zeros(classes, inputs.shape[1] + 1, dtype=torch.double, device=inputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, history_size=20, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = functional.cross_entropy(inputs @ weight[:, :-1].T + weight[:, -1], labels)
        value = value + 0.01 * weight[:, :-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = weight.detach()
    return lambda new: (((new.double() - middle) / spread) @ fitted[:, :-1].T + fitted[:, -1]).argmax(-1)


def by_fold(features, labels, folds=5):
    """For each fifth of the texts, which they are, and a probe that was trained on the others."""
    parts = [torch.arange(len(labels), device=labels.device) % folds == fold for fold in range(folds)]
    return [(test, probe(features[~test], labels[~test])) for test in parts]


def right_by_fold(probes, features, labels):
    """1 or 0 for each text: whether the probe whose training excluded it is right."""
    right = torch.zeros(len(labels), device=labels.device)
    for test, classify in probes:
        right[test] = (classify(features[test]) == labels[test]).float()
    return right
