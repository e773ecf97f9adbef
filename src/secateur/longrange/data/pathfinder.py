"""Pathfinder: pictures of dashed paths; are the two dots the ends of one path?

Linsley et al. 2018, "Learning long-range spatial dependencies with horizontal gated recurrent units", at the 32×32
pixels of the Long Range Arena (Tay et al. 2021). The drawing is our own. Every picture has two paths of full length and
shorter distractors, whatever its label; only the dots differ. Dashes of a path are a gap apart, those of different
paths at least twice as far, so the answer can always be seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.longrange.data.rows import Row

SIDE = 32  # pixels; all lengths below are in pixels, and places are (x, y) from the upper left corner
DASH, GAP, THICKNESS, DOT_RADIUS = 2.0, 1.0, 0.9, 1.3

_CLEARANCE = 2.75  # between middle lines of different paths
_DOT_CLEARANCE = 3.25  # between the end of a full path and what is drawn later
_ENDS_APART = 4.0  # between any two ends, so that dots do not touch
_MARGIN = 1.5
_LOOK_AHEAD = 4  # dashes
_TURN = 0.9  # radians, most from one dash to the next
_DISTRACTING_DASHES = 20
_TRIES = 12
_PICTURES_AT_ONCE = 256
_CELLS = 2  # per pixel and direction, in the map of what is taken
_SUPERSAMPLING = 4

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Pictures:
    """Pictures and how they came about.

    Attributes:
        pixels: grey, (pictures, 32, 32), uint8.
        labels: 1 where the dots are at the ends of one path, (pictures,).
        dashes: their two ends, (pictures, dashes, 2, 2); NaN where there was no room for one.
        path: which path each dash is of, 0 and 1 the full ones, (dashes,).
        dots: the middles of both dots, (pictures, 2, 2).
    """

    pixels: NDArray[np.uint8]
    labels: Array
    dashes: Array
    path: Array
    dots: Array


def draw_examples(rng: np.random.Generator, path_length: int) -> Iterator[Row]:
    """Draw examples without end, half of them of each class in every pair of neighbours.

    Args:
        rng: the only source of randomness.
        path_length: dashes in a path.

    Yields:
        The pixels row by row as tokens, each its value plus 1.
    """
    while True:
        pictures = draw_pictures(rng, path_length)
        tokens = pictures.pixels.reshape(-1, SIDE * SIDE).astype(np.uint16) + np.uint16(1)
        for row, label in zip(tokens, pictures.labels, strict=True):
            yield Row((row,), int(label))


def draw_pictures(rng: np.random.Generator, path_length: int) -> Pictures:
    """Draw an even number of pictures, at most 256: those whose paths found room.

    Args:
        rng: the source of randomness.
        path_length: dashes in a path; distractors have a third.
    """
    dashes, path = draw_paths(rng, path_length)
    dashes = dashes[: len(dashes) // 2 * 2]
    first = rng.integers(0, 2, len(dashes) // 2)
    labels = np.stack([first, 1 - first], axis=1).ravel()
    ends = path_ends(dashes, path_length)  # (pictures, path, end, 2)
    one, other = rng.integers(0, 2, (2, len(dashes)))
    number = np.arange(len(dashes))
    target = rng.integers(0, 2, len(dashes))
    start = ends[number, target, one]
    stop = np.where(labels[:, None] == 1, ends[number, target, 1 - one], ends[number, 1 - target, other])
    dots = np.stack([start, stop], axis=1)
    return Pictures(render(dashes, dots), labels, dashes, path, dots)


def draw_paths(rng: np.random.Generator, path_length: int) -> tuple[Array, Array]:
    """Lay out two paths and distractors for up to 256 pictures.

    Args:
        rng: the source of randomness.
        path_length: dashes in a path.

    Returns:
        `dashes` and `path` of `Pictures`, of the pictures that have room for both paths and both pairs of ends.
    """
    distractor = path_length // 3
    lengths = [path_length] * 2 + [distractor] * (_DISTRACTING_DASHES // distractor)
    taken = np.zeros((_PICTURES_AT_ONCE, SIDE * _CELLS, SIDE * _CELLS), bool)
    laid = np.zeros((_PICTURES_AT_ONCE, 0, 2, 2))
    for index, length in enumerate(lengths):
        walk = walk_path(rng, taken, length)
        laid = np.concatenate([laid, walk], axis=1)
        if index < 2:
            _take(taken, walk[:, 0, 0], _DOT_CLEARANCE)
            _take(taken, walk[:, -1, 1], _DOT_CLEARANCE)
            whole = ~np.isnan(walk[:, -1, 0, 0])
            if index == 1:
                whole &= _have_ends_apart(path_ends(laid, path_length))
            taken, laid = taken[whole], laid[whole]
    return laid, np.repeat(np.arange(len(lengths)), lengths)


def path_ends(dashes: Array, path_length: int) -> Array:
    """Where the two full paths begin and end, (pictures, path, end, 2)."""
    first, second = dashes[:, :path_length], dashes[:, path_length : 2 * path_length]
    return np.stack([np.stack([walk[:, 0, 0], walk[:, -1, 1]], axis=1) for walk in (first, second)], axis=1)


def _have_ends_apart(ends: Array) -> Array:
    points = ends.reshape(len(ends), 4, 2)
    distance = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    distance[:, np.arange(4), np.arange(4)] = np.inf
    return (distance >= _ENDS_APART).all(axis=(1, 2))  # False for NaN: a path that found no room


def walk_path(rng: np.random.Generator, taken: Array, length: int) -> Array:
    """Let one path grow in each picture, its direction a random walk, and take the room it needs.

    Args:
        rng: the source of randomness.
        taken: what is taken already, (pictures, cells, cells); changed.
        length: dashes.

    Returns:
        (pictures, length, 2, 2). A path that finds no way on stops: the rest is NaN.
    """
    pictures = len(taken)
    walk = np.full((pictures, length, 2, 2), np.nan)
    direction = np.zeros(pictures)
    for step in range(length):
        turn = _TURN if step else np.pi
        heading = direction[:, None] + rng.uniform(-turn, turn, (pictures, _TRIES))
        along = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        if step:
            start = walk[:, None, step - 1, 1] + GAP * along
        else:
            start = rng.uniform(_MARGIN, SIDE - _MARGIN, (pictures, _TRIES, 2))
        candidates = np.stack([start, start + DASH * along], axis=2)  # (pictures, tries, 2, 2)
        free = _are_free(taken, candidates)
        # Of the dashes that are possible, the first from which the way straight on stays free for longest.
        ahead = DASH * along[:, :, None]  # (pictures, tries, 1, 2)
        onwards = [free & _are_free(taken, candidates + far * ahead) for far in range(1, _LOOK_AHEAD + 1)]
        chosen = (free + sum(np.logical_and.accumulate(onwards).astype(int))).argmax(axis=1)
        number = np.arange(pictures)
        walk[:, step] = np.where(free[number, chosen, None, None], candidates[number, chosen], np.nan)
        direction = heading[number, chosen]
        # The next dash may come near this one, no other may.
        if step:
            _take_dash(taken, walk[:, step - 1])
    _take_dash(taken, walk[:, -1])
    return walk


def _are_free(taken: Array, dashes: Array) -> Array:
    """Whether dashes (pictures, tries, 2, 2) are within the margins and off what is taken: (pictures, tries)."""
    points = np.stack([dashes[:, :, 0], dashes.mean(axis=2), dashes[:, :, 1]], axis=2)
    inside = np.logical_and.reduce((points >= _MARGIN) & (points <= SIDE - _MARGIN), axis=(2, 3))  # False for NaN
    cells = (np.where(inside[..., None, None], points, 0) * _CELLS).astype(np.int64)
    number = np.arange(len(taken))[:, None, None]
    return inside & ~taken[number, cells[..., 1], cells[..., 0]].any(axis=2)


def _take_dash(taken: Array, dashes: Array) -> None:
    for point in (dashes[:, 0], dashes.mean(axis=1), dashes[:, 1]):
        _take(taken, point, _CLEARANCE)


def _take(taken: Array, points: Array, radius: float) -> None:
    """Mark the cells around a point in each picture, (pictures, 2), as taken; NaN takes nothing."""
    reach = int(np.ceil(radius * _CELLS))
    offset = np.arange(-reach, reach + 1)
    there = np.flatnonzero(~np.isnan(points[:, 0]))
    cells = (points[there, None] * _CELLS).astype(np.int64) + offset[:, None]  # (points, offsets, xy)
    middles = (cells + 0.5) / _CELLS - points[there, None]
    close = (middles[:, :, None, 1] ** 2 + middles[:, None, :, 0] ** 2) <= radius**2
    within = (cells >= 0) & (cells < SIDE * _CELLS)
    which, row, column = np.nonzero(close & within[:, :, None, 1] & within[:, None, :, 0])
    taken[there[which], cells[which, row, 1], cells[which, column, 0]] = True


def render(dashes: Array, dots: Array) -> NDArray[np.uint8]:
    """Draw white dashes and dots on black, anti-aliased by supersampling.

    Args:
        dashes: (pictures, dashes, 2, 2), NaN for none.
        dots: (pictures, dots, 2).

    Returns:
        (pictures, 32, 32).
    """
    fine = SIDE * _SUPERSAMPLING
    canvas = np.zeros((len(dashes), fine, fine), bool)
    picture, which = np.nonzero(~np.isnan(dashes[:, :, 0, 0]))
    start, stop = dashes[picture, which, 0], dashes[picture, which, 1]
    middle, along = (start + stop) / 2, (stop - start) / DASH
    cells, offset = _patch(middle)  # (shapes, patch, patch, 2)
    lengthwise = np.abs((offset * along[:, None, None]).sum(-1))
    crosswise = np.abs(offset[..., 1] * along[:, None, None, 0] - offset[..., 0] * along[:, None, None, 1])
    _fill(canvas, picture, cells, (lengthwise <= DASH / 2) & (crosswise <= THICKNESS / 2))
    cells, offset = _patch(dots.reshape(-1, 2))
    _fill(canvas, np.repeat(np.arange(len(dots)), dots.shape[1]), cells, (offset**2).sum(-1) <= DOT_RADIUS**2)
    share = canvas.reshape(len(dashes), SIDE, _SUPERSAMPLING, SIDE, _SUPERSAMPLING).mean(axis=(2, 4))
    return np.rint(255 * share).astype(np.uint8)


def _patch(middles: Array) -> tuple[Array, Array]:
    """The fine pixels around each shape's middle, and how far theirs are from it: (shapes, patch, patch, 2) each."""
    reach = int(np.ceil(DOT_RADIUS * _SUPERSAMPLING)) + 1
    offset = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(offset, offset), axis=-1)
    cells = (middles * _SUPERSAMPLING).astype(np.int64)[:, None, None] + grid
    return cells, (cells + 0.5) / _SUPERSAMPLING - middles[:, None, None]


def _fill(canvas: Array, picture: Array, cells: Array, inside: Array) -> None:
    shape, row, column = np.nonzero(inside)
    canvas[picture[shape], cells[shape, row, column, 1], cells[shape, row, column, 0]] = True
