"""Puts a mask into the voxel grid of another map, by their affines."""
import numpy as np

from ...files.errors import FileError

# From DICOM's patient coordinates (LPS+) to RAS+.
LPS_TO_RAS = np.diag([-1., -1., 1., 1.])
# Voxels that are less than this share of a voxel apart are the same.
_TOLERANCE = .02


class GridMap:
    """Maps masks of one grid into another.

    Args:
        shape, affine: Of the source: voxels along each axis; float [4, 4], from indices to millimetres.
        target_shape, target_affine: Of the target.
        resample: Whether a grid with other voxels is resampled to the nearest; else it is an error.

    Raises:
        FileError: The voxels of the two are not the same, and `resample` is off.
    """

    def __init__(self,
                 shape: tuple[int, ...],
                 affine: np.ndarray,
                 target_shape: tuple[int, ...],
                 target_affine: np.ndarray,
                 resample: bool = False) -> None:
        self.shape, self.target_shape = shape, target_shape
        # From indices of the source to indices of the target.
        self.matrix = np.linalg.inv(target_affine) @ affine
        turned = np.rint(self.matrix)
        # The error at the far corner of the source, in voxels.
        corner = np.abs(self.matrix - turned)[:3] @ np.array([*shape, 1.])
        axes = np.abs(turned[:3, :3])
        self.is_exact = bool((corner <= _TOLERANCE).all() and (axes.sum(0) == 1).all() and (axes.sum(1) == 1).all())
        self.is_same = self.is_exact and shape == target_shape and bool(np.array_equal(turned, np.eye(4)))
        self._turned = turned.astype(np.int64)
        if not self.is_exact and not resample:
            raise FileError(
                f'its voxels are not those of the reference: shape {list(shape)} and {_voxel_text(affine)}, the '
                f'reference has {list(target_shape)} and {_voxel_text(target_affine)}',
                'Save both on the grid of the scan, '
                'or add --resample to take the nearest voxel.', 'medical-file')

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """A mask, bool in the shape of the source, as bool in the shape of the target.

        Raises:
            FileError: A voxel of the mask lies outside the target.
        """
        if self.is_same:
            return mask
        out = np.zeros(self.target_shape, bool)
        if self.is_exact:
            places = np.argwhere(mask) @ self._turned[:3, :3].T + self._turned[:3, 3]
            inside = ((places >= 0) & (places < self.target_shape)).all(axis=1)
            if not inside.all():
                raise FileError(f'{int((~inside).sum()):,} voxels of a mask lie outside the reference',
                                'Check that both '
                                'are of the same scan.', 'medical-file')
            out[tuple(places.T)] = True
            return out
        from scipy.ndimage import affine_transform
        inverse = np.linalg.inv(self.matrix)
        return affine_transform(
            mask.astype(np.uint8), inverse[:3, :3], inverse[:3, 3], self.target_shape, order=0, mode='constant') > 0


def _voxel_text(affine: np.ndarray) -> str:
    sizes = ' x '.join(f'{size:.4g}' for size in np.linalg.norm(affine[:3, :3], axis=0))
    origin = ', '.join(f'{value:.4g}' for value in affine[:3, 3])
    return f'voxels of {sizes} mm from ({origin})'
