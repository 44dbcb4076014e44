"""Distances between the outlines of two masks: NSD and HD95.

The outline of a mask are its pixels that have a pixel outside of it above, below, left or right; what lies beyond the
image is outside. Distances go from pixel centre to pixel centre, to the nearest pixel of the other outline. Both are
those of MONAI (`compute_surface_dice` without subvoxels, `compute_hausdorff_distance`), which the tests compare with;
MONAI itself needs four to five times as long, and gives them in float32.
"""
import numpy as np
from dataclasses import dataclass
from scipy.spatial import KDTree

# One search for many points in a small tree: larger leaves than SciPy's 10 are faster.
_LEAF_SIZE = 32
# A distance that is the tolerance but for rounding (3 * 0.1 against 0.3) is within it.
_ROUNDING = 1 + 1e-9


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """What NSD and HD95 follow from.

    Attributes:
        to_target: float64 [outline pixels of the prediction], from each to the nearest of the target.
        to_predicted: float64 [outline pixels of the target], from each to the nearest of the prediction.
    """
    to_target: np.ndarray
    to_predicted: np.ndarray

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of both outlines that lies within a tolerance of the other, 0 to 1.

        Args:
            tolerance: Inclusive, in the unit of the distances.
        """
        both = np.concatenate([self.to_target, self.to_predicted])
        return float(np.count_nonzero(both <= tolerance * _ROUNDING) / len(both))

    def hd95(self) -> float:
        """The 95 % Hausdorff distance: the larger of the two directions' 95th percentiles, linearly interpolated."""
        return float(max(np.percentile(self.to_target, 95), np.percentile(self.to_predicted, 95)))


def surface_distances(predicted: np.ndarray, target: np.ndarray, spacing: tuple[float, float]) -> SurfaceDistances:
    """Measures from each outline to the other.

    Args:
        predicted, target: bool [h, w], neither of them empty: the caller has a rule for empty masks.
        spacing: From row to row and from column to column, in the unit that the distances shall have.

    Raises:
        ValueError: The shapes differ, or a mask is empty.
    """
    if predicted.shape != target.shape:
        raise ValueError(f'The prediction has shape {predicted.shape} and the target {target.shape}: give masks of one '
                         'image.')  # yapf: disable
    points = [np.argwhere(outline(mask)) * np.asarray(spacing, np.float64) for mask in (predicted, target)]
    if not all(map(len, points)):
        raise ValueError('An empty mask has no outline: score it by the rule for empty masks.')
    trees = [KDTree(part, leafsize=_LEAF_SIZE) for part in points]
    return SurfaceDistances(trees[1].query(points[0])[0], trees[0].query(points[1])[0])


def outline(mask: np.ndarray) -> np.ndarray:
    """bool [h, w]: the pixels of a mask, bool [h, w], that touch the outside with a side."""
    padded = np.pad(mask, 1)
    return mask & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def diagonal(shape: tuple[int, ...], spacing: tuple[float, float]) -> float:
    """The diagonal of an image, larger than any distance in it; stands for the HD95 where one mask is empty.

    Args:
        shape: Height and width in pixels.
        spacing: As in `surface_distances`.
    """
    return float(np.hypot(shape[0] * spacing[0], shape[1] * spacing[1]))
