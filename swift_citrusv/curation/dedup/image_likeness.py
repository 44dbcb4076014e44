"""When two images are copies: perceptual hashes propose, pixels decide.

A perceptual hash alone is wrong both ways: neighbours in a series of slices have the hash of each other, and a copy
with its edges cut off has another. So it names candidates only. The decision rests on fine structure: after alignment
(https://doi.org/10.1109/TPAMI.2008.113), and with the grey values of one image mapped to those of the other, the
band-pass-filtered pixels of copies correlate almost perfectly, and those of the next slice do not.
"""
import cv2
import numpy as np
from collections.abc import Callable, Iterable
from imagehash import phash
from PIL import Image
from typing import Any

# The side of the images that are compared. Copies may have had as few pixels as this.
SIDE = 256
_HASH_SIDE = 32
# Of two copies, so many of the 64 bits may differ; so many of the nearest are compared.
_MAX_DISTANCE, _MAX_CANDIDATES = 12, 40
# The band: finer is noise of JPEG, coarser is what all slices of a body part share. Standard deviations in pixels.
_FINE, _COARSE = 1.5, 4.
# Pixels at the edge that the filter mixes with what lies beyond it.
_MARGIN = 8
_LEVELS = 64
# Small versions that correlate less, or whose overlap is less, are of different pictures.
_SHRINK, _MIN_CORRELATION, _MIN_OVERLAP = 4, .7, .5
# A tile of this side may differ by this part of the contrast of the whole image: else something was drawn on it.
_TILE, _MAX_TILE_DIFFERENCE = 32, .3
# Less contrast than this, in grey levels, is no picture to compare.
_MIN_CONTRAST = .5


def hashes(image: Image.Image) -> list[int]:
    """The perceptual hashes of an image turned by 0, 90, 180 and 270 degrees: four numbers of 64 bits."""
    small = image.convert('L').resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(small)
    turned = (phash(Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))) for turns in range(4))
    return [int.from_bytes(np.packbits(item.hash).tobytes(), 'big') for item in turned]


def nearest(distances: Iterable[np.ndarray],
            fits: Callable[[np.ndarray, int], np.ndarray] | None = None) -> list[tuple[int, int]]:
    """The images that may be copies of one.

    Args:
        distances: For each number of turns by 90 degrees, in how many bits the hashes of n images differ: [n].
        fits: Of the numbers of some images, and a number of turns: which of them come into question.

    Returns:
        (number, turns), the nearest first.
    """
    found = []
    for turns, distance in enumerate(distances):
        near = np.flatnonzero(distance <= _MAX_DISTANCE)
        near = near if fits is None else near[fits(near, turns)]
        found += [(int(distance[number]), int(number), turns) for number in near]
    return [(number, turns) for _, number, turns in sorted(found)[:_MAX_CANDIDATES]]


def thumbnail(image: Image.Image) -> np.ndarray:
    """What `likeness` compares: uint8 [SIDE, SIDE], grey values; the proportions are lost."""
    return np.asarray(image.convert('L').resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """How surely two images are copies of one picture.

    Args:
        first, second: Thumbnails, upright in the same way.

    Returns:
        The correlation of the fine structure to four decimals, at most 1; 0 where the two cannot be aligned, have no
        structure, or differ at one place by more than copies do.
    """
    warp = np.eye(2, 3, dtype=np.float32)
    one, other = first.astype(np.float32), second.astype(np.float32)
    small, other_small = (cv2.resize(item, None, fx=1 / _SHRINK, fy=1 / _SHRINK, interpolation=cv2.INTER_AREA)
                          for item in (one, other))  # yapf: disable
    shift = np.array([[1, 1, _SHRINK], [1, 1, _SHRINK]], np.float32)
    try:
        # The small ones find most of the way, in little time.
        correlation, warp = _aligned(small, other_small, warp, 100, 3)
        if correlation < _MIN_CORRELATION:
            return 0.
        _, warp = _aligned(one, other, warp * shift, 15, 5)
    except cv2.error:
        # It does not converge: the two have nothing in common, or no contrast.
        return 0.
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(other, warp, one.shape, flags=flags)
    # Pixels that both have.
    shared = cv2.warpAffine(np.ones_like(one), warp, one.shape, flags=flags) > .99
    shared = cv2.erode(shared.astype(np.uint8), np.ones((2 * _MARGIN + 1, ) * 2, np.uint8), borderValue=0) > 0
    if shared.mean() < _MIN_OVERLAP:
        return 0.
    structure, other_structure = _band(one), _band(_regreyed(moved, one, shared))
    contrast = min(structure[shared].std(), other_structure[shared].std())
    difference = structure - other_structure
    if contrast < _MIN_CONTRAST or _tile_difference(difference, shared) > _MAX_TILE_DIFFERENCE * contrast:
        return 0.
    return round(float(np.corrcoef(structure[shared], other_structure[shared])[0, 1]), 4)


def _aligned(first: np.ndarray, second: np.ndarray, warp: np.ndarray, iterations: int, blur: int) -> tuple[float, Any]:
    """The correlation of two images, and how pixels of the first are found in the second, from a first guess."""
    until = cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, 1e-6
    mask: Any = None
    return cv2.findTransformECC(first, second, warp, cv2.MOTION_AFFINE, until, mask, blur)


def _band(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), _FINE) - cv2.GaussianBlur(image, (0, 0), _COARSE)


def _regreyed(image: np.ndarray, target: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """An image with each grey value replaced by the mean that the target has at its pixels: gamma and windows go."""
    level = np.clip(image * (_LEVELS / 256), 0, _LEVELS - 1).astype(np.intp)
    counts = np.bincount(level[shared], minlength=_LEVELS)
    sums = np.bincount(level[shared], target[shared], minlength=_LEVELS)
    known = counts > 0
    centres = (np.arange(_LEVELS) + .5) * (256 / _LEVELS)
    return np.interp(image, centres[known], sums[known] / counts[known]).astype(np.float32)


def _tile_difference(difference: np.ndarray, shared: np.ndarray) -> float:
    """The largest root mean square of a difference over a tile."""
    squares = np.where(shared, difference, 0)**2
    tiles = squares.reshape(SIDE // _TILE, _TILE, SIDE // _TILE, _TILE).mean((1, 3))
    return float(np.sqrt(tiles.max()))
