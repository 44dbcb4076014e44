"""Distances between the outlines of two masks: NSD and HD95.

The outline of a mask is the set of its pixels with a 4-neighbour outside the mask or the image. Distances go from pixel
centre to the nearest pixel centre of the other outline. Both scores equal MONAI's (`compute_surface_dice` without
subvoxels, `compute_hausdorff_distance`), which the tests compare with; MONAI takes four to five times as long and
computes in float32.
"""
import numpy as np
from dataclasses import dataclass
from scipy.spatial import KDTree

# Faster than SciPy's default of 10 for many queries of a small tree.
_LEAF_SIZE = 32
# A distance that exceeds the tolerance only by rounding (3 * 0.1 and 0.3) is within it.
_ROUNDING = 1 + 1e-9


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """The distances between two outlines.

    Attributes:
        to_target: float64 [outline pixels of the prediction], the distance of each to the outline of the target.
        to_predicted: float64 [outline pixels of the target], the distance of each to the outline of the prediction.
    """
    to_target: np.ndarray
    to_predicted: np.ndarray

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice in [0, 1]: the share of both outlines within the tolerance of the other.

        Args:
            tolerance: Inclusive, in the unit of the distances.
        """
        both = np.concatenate([self.to_target, self.to_predicted])
        return float(np.count_nonzero(both <= tolerance * _ROUNDING) / len(both))

    def hd95(self) -> float:
        """The 95 % Hausdorff distance: the larger of the two directed 95th percentiles, linearly interpolated."""
        return float(max(np.percentile(self.to_target, 95), np.percentile(self.to_predicted, 95)))


def surface_distances(predicted: np.ndarray, target: np.ndarray, spacing: tuple[float, float]) -> SurfaceDistances:
    """The distances between the outlines of two masks.

    Args:
        predicted, target: bool [h, w], not empty.
        spacing: The distance between rows and between columns, in the unit of the result.

    Raises:
        ValueError: The shapes differ, or a mask is empty.
    """
    if predicted.shape != target.shape:
        raise ValueError(f'The prediction has shape {predicted.shape} and the target {target.shape}: give masks of one '
                         'size.')  # yapf: disable
    points = [np.argwhere(border_pixels(mask)) * np.asarray(spacing, np.float64) for mask in (predicted, target)]
    if not all(map(len, points)):
        raise ValueError('An empty mask has no outline: handle empty masks before.')
    trees = [KDTree(part, leafsize=_LEAF_SIZE) for part in points]
    return SurfaceDistances(trees[1].query(points[0])[0], trees[0].query(points[1])[0])


def border_pixels(mask: np.ndarray) -> np.ndarray:
    """The outline of a mask, bool [h, w] -> bool [h, w]: pixels with a 4-neighbour outside the mask or the image."""
    padded = np.pad(mask, 1)
    return mask & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def image_diagonal(shape: tuple[int, ...], spacing: tuple[float, float]) -> float:
    """The diagonal of an image, longer than any distance in it; the HD95 if one mask is empty.

    Args:
        shape: Height and width in pixels.
        spacing: As in `surface_distances`.
    """
    return float(np.hypot(shape[0] * spacing[0], shape[1] * spacing[1]))
