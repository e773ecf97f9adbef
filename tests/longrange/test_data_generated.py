import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.longrange.data import listops, pathfinder
from secateur.longrange.data.listops import VOCABULARY


def written(row) -> list[str]:
    return [VOCABULARY[token] for token in row.inputs[0]]


def solve(words: list[str]) -> int:
    """An evaluator of its own: a stack of open lists."""
    functions = {
        "[MAX": max,
        "[MIN": min,
        "[MED": lambda digits: int(np.median(digits)),
        "[SM": lambda digits: sum(digits) % 10,
    }
    stack: list[list] = [[]]
    for word in words:
        if word in functions:
            stack.append([functions[word]])
        elif word == "]":
            function, *digits = stack.pop()
            stack[-1].append(function(digits))
        else:
            stack[-1].append(int(word))
    assert len(stack) == 1 and len(stack[0]) == 1
    return stack[0][0]


def some(examples, number: int) -> list:
    return [next(examples) for _ in range(number)]


@given(seed=st.integers(0, 10_000), max_length=st.sampled_from([32, 100, 512, 2000]))
@settings(max_examples=12, deadline=None)
def test_listops_answers_are_those_of_an_evaluator(seed: int, max_length: int) -> None:
    for row in some(listops.draw_examples(np.random.default_rng(seed), max_length), 30):
        assert solve(written(row)) == row.label
        assert max_length // 4 < len(row.inputs[0]) < max_length


def test_listops_trees_are_as_deep_and_wide_as_published_and_use_every_word() -> None:
    rows = some(listops.draw_examples(np.random.default_rng(0), 2000), 200)
    deepest = widest = 0
    for row in rows:
        arguments = [0]
        for word in written(row):
            if word == "]":
                assert 2 <= arguments.pop() <= 10
                continue
            arguments[-1] += 1
            widest = max(widest, arguments[-1])
            if word.startswith("["):
                arguments.append(0)
            deepest = max(deepest, len(arguments))
    assert (deepest, widest) == (10, 10)  # digits at depth 10 stand within nine operators
    assert {word for row in rows for word in written(row)} == set(VOCABULARY[1:])
    assert {row.label for row in rows} == set(range(10))


def test_an_argument_is_an_operator_with_probability_a_quarter() -> None:
    levels, _ = listops.draw_trees(np.random.default_rng(0), 4000, 0, 10**9)
    assert levels[1].operator.mean() == pytest.approx(0.25, abs=0.01)
    assert not levels[9].operator.any()
    assert levels[0].arguments.mean() == pytest.approx(6, abs=0.2)


def test_listops_are_drawn_fast_enough_for_a_hundred_thousand() -> None:
    examples = listops.draw_examples(np.random.default_rng(0), 512)
    start = time.perf_counter()
    some(examples, 2000)
    assert time.perf_counter() - start < 6


@pytest.mark.parametrize("path_length", [6, 9, 14])
def test_the_label_of_a_pathfinder_picture_follows_from_where_its_dots_are(path_length: int) -> None:
    pictures = pathfinder.draw_pictures(np.random.default_rng(1), path_length)
    assert len(pictures.labels) >= 20
    assert pictures.labels.mean() == 0.5
    for dashes, dots, label in zip(pictures.dashes, pictures.dots, pictures.labels, strict=True):
        there = ~np.isnan(dashes[:, 0, 0])
        path = connected_dashes(dashes[there])
        touched = [np.linalg.norm(dashes[there] - dot, axis=-1).min(axis=1).argmin() for dot in dots]
        assert (path[touched[0]] == path[touched[1]]) == bool(label)


def connected_dashes(dashes: np.ndarray) -> np.ndarray:
    """Which dashes hang together where ends up to 1.5 pixels apart are joined: the least number of each component."""
    points = dashes[:, :1] + np.linspace(0, 1, 9)[None, :, None] * (dashes[:, 1:] - dashes[:, :1])
    apart = np.linalg.norm(points[:, None, :, None] - points[None, :, None], axis=-1).min(axis=(2, 3))
    component = np.arange(len(dashes))
    for _ in range(len(dashes)):
        component = np.where(apart < 1.5, component[None], len(dashes)).min(axis=1)
    return component


@pytest.mark.parametrize("path_length", [6, 9, 14])
def test_paths_have_their_length_and_distractors_a_third(path_length: int) -> None:
    dashes, path = pathfinder.draw_paths(np.random.default_rng(2), path_length)
    assert np.bincount(path)[:2].tolist() == [path_length] * 2
    assert set(np.bincount(path)[2:]) == {path_length // 3}
    assert not np.isnan(dashes[:, : 2 * path_length]).any()
    lengths = np.linalg.norm(dashes[:, :, 1] - dashes[:, :, 0], axis=-1)
    assert np.nanmax(np.abs(lengths - pathfinder.DASH)) < 1e-9
    distractors = ~np.isnan(dashes[:, 2 * path_length :, 0, 0])
    assert distractors.sum(axis=1).mean() > path_length // 3


def test_pictures_show_white_dots_and_dashes_with_soft_edges_on_black() -> None:
    pictures = pathfinder.draw_pictures(np.random.default_rng(3), 6)
    assert pictures.pixels.shape[1:] == (32, 32)
    for pixels, dots in zip(pictures.pixels, pictures.dots, strict=True):
        for x, y in dots.astype(int):
            assert pixels[y, x] >= 200
    assert 0.4 < (pictures.pixels == 0).mean() < 0.95
    assert len(np.unique(pictures.pixels)) > 8


def test_dots_are_no_nearer_to_each_other_than_their_size_in_either_class() -> None:
    pictures = pathfinder.draw_pictures(np.random.default_rng(4), 14)
    apart = np.linalg.norm(pictures.dots[:, 0] - pictures.dots[:, 1], axis=-1)
    assert apart.min() > 2 * pathfinder.DOT_RADIUS


def test_pathfinder_tokens_are_pixels_plus_one_and_neighbours_have_both_labels() -> None:
    rows = some(pathfinder.draw_examples(np.random.default_rng(5), 9), 40)
    assert all(row.inputs[0].shape == (1024,) and row.inputs[0].min() == 1 for row in rows)
    assert max(row.inputs[0].max() for row in rows) == 256
    assert all(first.label + second.label == 1 for first, second in zip(rows[::2], rows[1::2], strict=True))
