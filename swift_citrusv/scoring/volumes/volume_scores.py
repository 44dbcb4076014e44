"""Dice, NSD and HD95 of two masks in three dimensions, in millimetres."""
import numpy as np
from dataclasses import dataclass
from scipy.spatial import KDTree

# Faster than SciPy's default of 10 for many queries.
_LEAF_SIZE = 32
# A distance that exceeds the tolerance only by rounding is within it.
_ROUNDING = 1 + 1e-9
# The columns of a case.
COLUMNS = ('dice', 'iou', 'precision', 'recall', 'nsd', 'hd95', 'intersection', 'union', 'volume', 'target_volume',
           'volume_difference', 'volume_error')
_PERFECT = ('dice', 'iou', 'precision', 'recall', 'nsd')


@dataclass(frozen=True, eq=False)
class Overlap:
    """The scores of a structure.

    Attributes:
        values: The columns (`COLUMNS`); volumes in millilitres.
        worst: The voxel where the surfaces are farthest apart, or the middle of the only mask: int [3]; None where both
            masks are empty.
    """
    values: dict[str, float]
    worst: tuple[int, int, int] | None


def volume_scores(predicted: np.ndarray, target: np.ndarray, affine: np.ndarray, tolerance: float) -> Overlap:
    """Scores a mask.

    The surface of a mask is the set of its voxels with a face to the outside; what is beyond the volume is outside.
    Distances are those between the centres of voxels in millimetres, by the affine, sheared or not. If both masks are
    empty, all scores are 1 and the HD95 is 0; if one is, all are 0 and the HD95 is the diagonal of the volume.

    Args:
        predicted, target: bool [i, j, k].
        affine: float [4, 4], from indices to millimetres.
        tolerance: Inclusive, of the NSD, in millimetres.
    """
    if predicted.shape != target.shape:
        raise ValueError(f'The prediction has the shape {predicted.shape} and the target {target.shape}.')
    axes = np.asarray(affine, np.float64)[:3, :3]
    shape = target.shape
    millilitres = abs(float(np.linalg.det(axes))) / 1000
    either = predicted | target
    box = _bounding_box(either)
    if box is None:
        values = dict.fromkeys(COLUMNS, 0.) | dict.fromkeys(_PERFECT, 1.)
        return Overlap(values, None)
    predicted, target = predicted[box], target[box]
    start = np.array([part.start for part in box])
    sizes = int(np.count_nonzero(predicted)), int(np.count_nonzero(target))
    intersection, union = int(np.count_nonzero(predicted & target)), int(np.count_nonzero(either[box]))
    values = dict.fromkeys(COLUMNS, 0.)
    difference = (sizes[0] - sizes[1]) * millilitres
    values |= {
        'union': float(union),
        'volume': sizes[0] * millilitres,
        'target_volume': sizes[1] * millilitres,
        'volume_difference': difference,
        'volume_error': abs(difference)
    }
    if not all(sizes):
        values['hd95'] = volume_diagonal(shape, affine)
        middle = np.argwhere(predicted | target).mean(axis=0).round().astype(int) + start
        return Overlap(values, tuple(middle.tolist()))
    points = [np.argwhere(surface_voxels(mask)) for mask in (predicted, target)]
    places = [part @ axes.T for part in points]
    trees = [KDTree(part, leafsize=_LEAF_SIZE) for part in places]
    to_target, to_predicted = trees[1].query(places[0])[0], trees[0].query(places[1])[0]
    near = np.count_nonzero(to_target <= tolerance * _ROUNDING) + np.count_nonzero(to_predicted <= tolerance
                                                                                   * _ROUNDING)
    values |= {
        'dice': 2 * intersection / sum(sizes),
        'iou': intersection / union,
        'precision': intersection / sizes[0],
        'recall': intersection / sizes[1],
        'nsd': near / (len(to_target) + len(to_predicted)),
        'hd95': float(max(np.percentile(to_target, 95), np.percentile(to_predicted, 95))),
        'intersection': float(intersection),
    }
    side = 0 if to_target.max() >= to_predicted.max() else 1
    worst = points[side][int((to_target, to_predicted)[side].argmax())] + start
    return Overlap(values, tuple(worst.tolist()))


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask with a face to the outside, bool [i, j, k] -> bool [i, j, k]."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return mask & ~inside


def volume_diagonal(shape: tuple[int, ...], affine: np.ndarray) -> float:
    """The longest diagonal of a volume in millimetres: longer than any distance between the centres of its voxels."""
    axes = np.asarray(affine, np.float64)[:3, :3] * np.asarray(shape)
    signs = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]])
    return float(np.linalg.norm(axes @ signs.T, axis=0).max())


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    found = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        if not len(places):
            return None
        found.append(slice(int(places[0]), int(places[-1]) + 1))
    return found[0], found[1], found[2]
