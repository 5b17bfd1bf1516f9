"""Predictions tables for tests: a model of known quality and a second one that differs from it by noise."""

from __future__ import annotations

import dataclasses

import numpy as np

from medge.predictions import Predictions


def table(
    count: int = 600, *, classes: int = 2, seed: int = 0, quality: float = 2.0, per_group: int = 2
) -> Predictions:
    """`quality` standard deviations between the right logit and the others; two images a patient."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    logits = rng.normal(size=(count, classes)) + quality * np.eye(classes)[labels]
    sha256 = tuple(f"{seed:08x}{k:056x}" for k in range(count))
    return Predictions(sha256, tuple(f"p{k // per_group}" for k in range(count)), labels, logits, {})


def noisy(of: Predictions, noise: float, *, seed: int = 1) -> Predictions:
    """The same images with normal noise on every logit."""
    return dataclasses.replace(of, logits=of.logits + noise * np.random.default_rng(seed).normal(size=of.logits.shape))


def rows(of: Predictions, at: list[int]) -> Predictions:
    """These rows in this order."""
    columns = {name: tuple(column[k] for k in at) for name, column in of.subgroups.items()}
    sha256, group = (tuple(column[k] for k in at) for column in (of.sha256, of.group))
    return Predictions(sha256, group, of.labels[at], of.logits[at], columns)
