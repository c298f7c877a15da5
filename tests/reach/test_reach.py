"""The rule of reach against the dense mask's own closure and against the gradient of a network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.config import ModelConfig
from longspan.reach.gradient import influencing_by_gradient
from longspan.reach.rule import connects, influencing, reaches_everything, summed_windows

schedules = st.lists(st.none() | st.integers(0, 4), min_size=1, max_size=4)


@st.composite
def documents(draw):
    """A length and the global tokens in it."""
    length = draw(st.integers(1, 20))
    chosen = draw(st.sets(st.integers(0, length - 1), max_size=3))
    return length, np.array(sorted(chosen), np.int64)


def by_paths(windows, length, positions):
    """(N, N) bool, row = influenced token: every path through the layers, one by one."""
    is_global = np.isin(np.arange(length), positions)
    distance = abs(np.arange(length)[:, None] - np.arange(length)[None, :])
    reached = np.eye(length, dtype=bool)
    for window in windows:
        seen = distance <= (length if window is None else window)
        seen |= is_global[:, None] | is_global[None, :]
        reached = (seen.astype(int) @ reached.astype(int)) > 0
    return reached


@given(schedules, documents())
def test_the_rule_is_what_all_paths_together_give(windows, document):
    length, positions = document
    reached = by_paths(windows, length, positions)
    for token in range(length):
        assert (influencing(windows, length, positions, token) == reached[token]).all()


@given(schedules, documents(), st.data())
@settings(max_examples=40)
def test_the_gradient_finds_the_same_tokens(windows, document, data):
    length, positions = document
    token = data.draw(st.integers(0, length - 1))
    projections = data.draw(st.sampled_from(["shared", "separate"]))
    norm = data.draw(st.sampled_from(["pre", "post"]))
    model = ModelConfig(
        num_layers=len(windows),
        window=tuple(windows),
        global_projections=projections,
        norm_position=norm,
    )
    found = influencing_by_gradient(model, length, positions, token)
    assert found.shape == (len(windows) + 1, length)
    for depth in range(len(windows)):  # what is left of the schedule above each layer's input
        expected = influencing(windows[depth:], length, positions, token)
        assert (found[depth] == expected).all(), depth
    assert found[-1].nonzero()[0].tolist() == [token]


def test_a_long_way_through_many_layers_is_still_found():
    model = ModelConfig(num_layers=24, window=32)
    length = 2 * 24 * 32 + 101
    found = influencing_by_gradient(model, length, np.array([], np.int64), length // 2)
    places = found[0].nonzero()[0]
    assert (places[0], places[-1]) == (length // 2 - 24 * 32, length // 2 + 24 * 32)


@given(schedules, documents(), st.data())
def test_two_sets_of_tokens_are_connected_where_every_pair_is(windows, document, data):
    length, positions = document
    token = st.integers(0, length - 1)
    sources = np.array(sorted(data.draw(st.sets(token, min_size=1))))
    targets = np.array(sorted(data.draw(st.sets(token, min_size=1))))
    pairs = by_paths(windows, length, positions)[np.ix_(targets, sources)]
    assert connects(windows, positions, sources, targets) == pairs.all()


@pytest.mark.parametrize(
    ("windows", "num_globals", "total", "everything"),
    [
        ([64, 64], 0, 128, False),
        ([64, 64], 1, 128, True),  # in through the global token, out in the next layer
        ([64], 1, 64, False),  # one layer: a local token sees its window and the global token
        ([64, None], 0, None, True),
    ],
)
def test_what_the_page_says(windows, num_globals, total, everything):
    assert summed_windows(windows) == total
    assert reaches_everything(windows, num_globals) == everything
