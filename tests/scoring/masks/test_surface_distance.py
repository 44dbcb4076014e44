"""NSD and HD95 against MONAI, a brute force, and cases worked out by hand."""
import functools
import numpy as np
import pytest
import torch
import warnings
from collections.abc import Callable
from scipy.ndimage import gaussian_filter
from typing import Any

from swift_citrusv.scoring.masks.surface_distance import (SurfaceDistances, border_pixels, image_diagonal,
                                                          surface_distances)

SPACINGS = [(1., 1.), (0.7, 0.7), (3., 0.5)]
TOLERANCES = [0., 1., 2., 2.1]


def smooth(seed: int, shape: tuple[int, int], share: float) -> np.ndarray:
    """A mask of blobs that covers a share of the image; often it touches the border."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return field > np.quantile(field, 1 - share)


def box(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predictions and targets."""
    shape = (31, 23)
    whole = np.ones(shape, bool)
    point, corner = box(shape, slice(15, 16), slice(4, 5)), box(shape, slice(0, 1), slice(22, 23))
    middle = box(shape, slice(8, 20), slice(6, 15))
    ring = middle & ~box(shape, slice(11, 16), slice(9, 12))
    rng = np.random.default_rng(3)
    found = {
        'the same': (middle, middle),
        'single pixels': (point, corner),
        'a pixel and a box': (point, middle),
        'touching boxes': (middle, box(shape, slice(20, 25), slice(6, 15))),
        'at the border': (box(shape, slice(0, 9), slice(0, 9)), box(shape, slice(0, 7), slice(3, 23))),
        'the whole image': (whole, middle),
        'both the whole image': (whole, whole),
        'a hole': (ring, middle),
        'a line': (box(shape, slice(5, 6), slice(0, 23)), box(shape, slice(0, 31), slice(7, 8))),
        'noise': (rng.random(shape) < 0.5, rng.random(shape) < 0.3),
    }
    for seed in range(6):
        found[f'blobs {seed}'] = smooth(seed, (47, 61), 0.2), smooth(seed + 100, (47, 61), 0.1 + 0.1 * seed)
    return found


PAIRS = pairs()


@functools.lru_cache
def outlines(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The outline pixels of a pair, float64 [number, 2] each, by a loop over pixels."""
    edges = []
    for mask in PAIRS[name]:
        edge = []
        for y, x in np.argwhere(mask):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [0 <= v < mask.shape[0] and 0 <= u < mask.shape[1] and mask[v, u] for v, u in around]
            if not all(inside):
                edge.append((y, x))
        edges.append(np.array(edge, np.float64))
    return edges[0], edges[1]


def brute_force(name: str, spacing: tuple[float, float]) -> SurfaceDistances:
    """The minimum over all pairs of outline pixels."""
    first, second = outlines(name)
    difference = (first[:, None] - second) * np.array(spacing)
    distances = np.sqrt(difference[..., 0]**2 + difference[..., 1]**2)
    return SurfaceDistances(distances.min(axis=1), distances.min(axis=0))


def in_monai(function: Callable[..., torch.Tensor], predicted: np.ndarray, target: np.ndarray, *args: Any,
             **kwargs: Any) -> float:
    batch = [torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (predicted, target)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        return float(function(*batch, *args, include_background=True, **kwargs))


@pytest.mark.parametrize('name', PAIRS)
def test_distances_equal_brute_force(name):
    for spacing in SPACINGS:
        found, wanted = surface_distances(*PAIRS[name], spacing), brute_force(name, spacing)
        np.testing.assert_allclose(found.to_target, wanted.to_target, rtol=1e-12, err_msg=str(spacing))
        np.testing.assert_allclose(found.to_predicted, wanted.to_predicted, rtol=1e-12, err_msg=str(spacing))


@pytest.mark.parametrize('name', PAIRS)
def test_scores_equal_monai(name):
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    predicted, target = PAIRS[name]
    for spacing in SPACINGS:
        found = surface_distances(predicted, target, spacing)
        hd95 = in_monai(compute_hausdorff_distance, predicted, target, percentile=95, spacing=spacing)
        assert found.hd95() == pytest.approx(hd95, rel=1e-5, abs=1e-6), spacing
        for tolerance in TOLERANCES:
            # MONAI has float32, in which 3 * 0.7 may be on either side of 2.1.
            if (tolerance, spacing) == (2.1, (0.7, 0.7)):
                continue
            nsd = in_monai(compute_surface_dice, predicted, target, [tolerance], spacing=spacing)
            assert found.nsd(tolerance) == pytest.approx(nsd, rel=1e-6), (spacing, tolerance)


def test_scores_by_hand():
    shape = (20, 20)
    # Two columns of five pixels, three apart.
    first, second = box(shape, slice(5, 10), slice(4, 5)), box(shape, slice(5, 10), slice(7, 8))
    found = surface_distances(first, second, (1., 1.))
    assert (found.nsd(2.9), found.nsd(3.), found.hd95()) == (0., 1., 3.)
    # Columns are 0.1 apart: 3 * 0.1 is above 0.3 in floating point.
    found = surface_distances(first, second, (5., 0.1))
    assert 3 * 0.1 > 0.3 and found.nsd(0.3) == 1.
    assert found.hd95() == pytest.approx(0.3)
    # One direction only is far: a box, and the box with a pixel ten rows below it.
    square = box(shape, slice(2, 6), slice(2, 6))
    far = square | box(shape, slice(15, 16), slice(3, 4))
    found = surface_distances(far, square, (1., 1.))
    assert found.to_predicted.max() == 0 and found.to_target.max() == 10
    # 12 outline pixels at distance 0 and one at 10: the 95th percentile lies at place 0.95 * 12 = 11.4.
    assert found.hd95() == pytest.approx(0.4 * 10)
    assert found.nsd(2.) == pytest.approx(24 / 25)


def test_border_pixels():
    assert border_pixels(np.ones((4, 5), bool)).sum() == 14
    assert border_pixels(box((5, 5), slice(1, 4), slice(1, 4))).sum() == 8
    assert not border_pixels(np.zeros((3, 3), bool)).any()


def test_the_diagonal_exceeds_all_distances():
    shape = (7, 11)
    corners = box(shape, slice(0, 1), slice(0, 1)), box(shape, slice(6, 7), slice(10, 11))
    for spacing in SPACINGS:
        assert surface_distances(*corners, spacing).hd95() < image_diagonal(shape, spacing)
    assert image_diagonal((3, 4), (1., 1.)) == 5. and image_diagonal((3, 4), (2., 2.)) == 10.


def test_empty_masks_and_different_shapes_raise():
    mask, empty = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    with pytest.raises(ValueError, match='empty mask'):
        surface_distances(mask, empty, (1., 1.))
    with pytest.raises(ValueError, match=r'\(3, 3\).*\(4, 3\)'):
        surface_distances(mask, np.ones((4, 3), bool), (1., 1.))
