"""Learning rates and the order of examples."""

import math
from functools import lru_cache

import numpy as np

from secateur.longrange.config import TrainingOptions

AFTER_SWITCH = 0.5


def learning_rate(options: TrainingOptions, step: int, switched: bool) -> float:
    """The rate of a step: a linear rise over `warmup` steps, then `lr_decay`; half of it once attention is sparse.

    Args:
        options: of the training.
        step: from 0.
        switched: whether attention is sparse.
    """
    rate = options.learning_rate * (AFTER_SWITCH if switched else 1.0)
    if step < options.warmup:
        return rate * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.num_train_steps - options.warmup)
    if options.lr_decay == "linear":
        return rate * (1 - done)
    return rate * (1 + math.cos(math.pi * done)) / 2 if options.lr_decay == "cosine" else rate


def batch_of_step(examples: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Indices of a step's examples: each epoch is a permutation of its own; steps across its end take from the next.

    Args:
        examples: how many there are.
        batch_size: how many a step takes.
        step: from 0.
        seed: of the permutations.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = np.divmod(places, examples)
    return np.concatenate([_permutation(examples, epoch, seed)[within[epochs == epoch]] for epoch in np.unique(epochs)])


@lru_cache(maxsize=2)
def _permutation(examples: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(examples)
