"""Polygons against matplotlib's point-in-polygon test."""
import numpy as np
import pytest
from matplotlib.path import Path as Outline
from support.decoded import decode, error_of


def star(seed: int, num_points: int, height: int, width: int) -> list[float]:
    """A star-shaped polygon about the image's centre; parts of it may lie outside."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(num_points)) * 2 * np.pi
    radii = 0.2 + 0.5 * rng.random(num_points)
    return np.stack([width / 2 + radii * width * np.cos(angles), height / 2 + radii * height * np.sin(angles)],
                    axis=1).ravel().tolist()


def pixel_centres(size: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[:size[0], :size[1]]
    return np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1)


def distance_to_outline(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    start, end = polygon, np.roll(polygon, -1, axis=0)
    along = ((points[:, None] - start) * (end - start)).sum(-1) / ((end - start)**2).sum(-1)
    nearest = start + along.clip(0, 1)[..., None] * (end - start)
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


@pytest.mark.parametrize('size', [(13, 47), (31, 123), (128, 96)])
@pytest.mark.parametrize('num_points', [3, 5, 12])
def test_polygons_against_point_in_polygon(size, num_points):
    for seed in range(8):
        flat = star(seed, num_points, *size)
        polygon = np.array(flat).reshape(-1, 2)
        mask = decode([flat], size).ravel()
        expected = Outline(polygon).contains_points(pixel_centres(size))
        # Only pixels whose centre lies on the outline, within the rasteriser's steps, may differ.
        differ = mask != expected
        assert distance_to_outline(pixel_centres(size)[differ], polygon).max(initial=0) < 0.75
        assert abs(int(mask.sum()) - int(expected.sum())) <= 0.05 * expected.sum() + num_points


def test_a_box_is_exact_and_polygons_merge():
    expected = np.zeros((31, 123), np.uint8)
    expected[5:20, 10:30] = 1
    box = [10, 5, 30, 5, 30, 20, 10, 20]
    assert np.array_equal(decode([box], (31, 123)), expected)
    assert np.array_equal(decode([box, box], (31, 123)), expected)
    expected[18:31, 100:123] = 1
    assert np.array_equal(decode([box, [100, 18, 123, 18, 123, 31, 100, 31]], (31, 123)), expected)
    assert np.array_equal(decode([[0, 0, 1, 0, 1, 1, 0, 1]], (1, 1)), [[1]])


def test_a_polygon_partly_outside_is_clipped():
    expected = np.zeros((31, 123), np.uint8)
    expected[:10, 113:] = 1
    assert np.array_equal(decode([[113, -50, 500, -50, 500, 10, 113, 10]], (31, 123)), expected)


BAD_POLYGONS = {
    'left': ([[-9, 0, -1, 0, -1, 9]], 'mask-outside', '-9.0'),
    'right': ([[123, 0, 130, 0, 130, 9]], 'mask-outside', '130.0'),
    'above': ([[0, -9, 9, -9, 9, 0]], 'mask-outside', '-9.0'),
    'below': ([[0, 31, 9, 31, 9, 40]], 'mask-outside', '40.0'),
    'second-outside': ([[0, 0, 9, 0, 9, 9], [200, 0, 201, 0, 201, 9]], 'mask-outside', 'polygon 1'),
    'around-the-corner': ([[-9, 3, 3, -9, -9, -9]], 'mask-outside', '[[-9, 3, 3'),
    'a-line': ([[5, 5, 5, 20, 5, 10]], 'mask-outside', '[[5, 5, 5'),
    'between-centres': ([[5.6, 5.6, 5.8, 5.6, 5.8, 5.8]], 'mask-outside', '5.6'),
    'too-long': ([[0, 0, 10**8, 0, 10**8, 5]], 'mask-polygon', '2e+08'),
    'too-long-together': ([[0, 0, 200, 5] * 3000], 'mask-polygon', 'outlines'),
    'too-far': ([[0, 0, 2**29, 0, 5, 5]], 'mask-polygon', '536870912'),
}


def test_bad_polygons():
    for name, (entry, kind, value) in BAD_POLYGONS.items():
        error = error_of(entry, (31, 123))
        assert error.kind == kind and value in error.problem, (name, error.problem)
