"""Random numbers follow from the place in the run, whatever was drawn before."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from longspan.training.randomness import PlacedRandomness, seed_at


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.fixture(autouse=True)
def generators():
    """Leave the generators of other tests alone."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def test_a_place_has_its_own_numbers_whatever_was_drawn_before():
    places = [(0, 7, 2, 3, 0), (0, 7, 2, 3, 1), (0, 7, 2, 4, 0), (0, 7, 3, 3, 0), (0, 8, 2, 3, 0)]
    drawn = []
    for place in places:
        seed_at(*place)
        drawn.append(draws())
    for generator in zip(*drawn, strict=True):
        assert len(set(generator)) == len(places)
    seed_at(*places[0])
    assert draws() == drawn[0]
    assert draws() != drawn[0]


def test_an_evaluation_draws_the_same_whatever_the_run_and_the_epoch():
    drawn = []
    for seed, epoch in ((0, 0), (0, 1), (1, 1)):
        randomness = PlacedRandomness(seed)
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=0)
        randomness.on_train_batch_start(trainer, None, None, 5)
        train = draws()
        randomness.on_validation_batch_start(trainer, None, None, 5)
        validation = draws()
        randomness.on_test_batch_start(trainer, None, None, 5)
        assert draws() == validation != train
        drawn.append((train, validation))
    assert len({train for train, _ in drawn}) == 3
    assert len({validation for _, validation in drawn}) == 1
