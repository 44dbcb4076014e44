"""Axial, coronal and sagittal slices of a volume with any order and direction of its axes.

Slices have the radiological orientation:

- axial: seen from the feet; the patient's right is on the left of the image, the front of the body at the top;
- coronal: seen from the front; the patient's right is on the left, the head at the top;
- sagittal: seen from the patient's left; the front of the body is on the left, the head at the top.

Slices are numbered from 0 along the axes of RAS+ coordinates, as in NIfTI: axial from the feet to the head, coronal
from the back to the front, sagittal from the patient's left to the right. An oblique volume is sliced along its own
axes, those nearest to the body's. Nothing is resampled: the pixels of a slice are the voxels of the file (even if they
are not square), and a mask of a slice is a mask of voxels.
"""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import FileError, import_medical

# For each plane its axis in RAS+, and the axes of the rows and columns of its image.
_PLANES = {'axial': (2, 1, 0), 'coronal': (1, 2, 0), 'sagittal': (0, 2, 1)}
PLANES = tuple(_PLANES)


@dataclass(frozen=True)
class SliceOrientation:
    """The position and orientation of the slices of a plane in an array.

    Attributes:
        shape: The shape of the array.
        axis: The array's axis along which slices are numbered.
        reverse: Whether slices are numbered against the direction of that axis.
        rows: The array's axis that runs down the image.
        rows_flipped: Whether the image reverses that axis.
        columns, columns_flipped: The same for the axis that runs to the right.
    """
    shape: tuple[int, int, int]
    axis: int = 2
    reverse: bool = False
    rows: int = 1
    rows_flipped: bool = False
    columns: int = 0
    columns_flipped: bool = False

    @classmethod
    def from_affine(cls, affine: np.ndarray, shape: Sequence[int], plane: str) -> 'SliceOrientation':
        """The slices of a plane.

        Args:
            affine: float [4, 4], from indices of the array to RAS+ millimetres.
            shape: The shape of the array, three axes.
            plane: 'axial', 'coronal' or 'sagittal'.

        Raises:
            FileError: The affine defines no orientation, or the plane is unknown.
        """
        if plane not in _PLANES:
            raise FileError(f'it has no plane {plane!r}', f'The planes are {", ".join(PLANES)}.', 'image-fragment')
        nibabel = import_medical('nibabel.orientations')
        orientation = nibabel.io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
        if np.isnan(orientation).any():
            raise FileError(f'its affine {np.asarray(affine).tolist()} does not define the orientation of the volume',
                            'Set the sform or the qform of its header.', 'medical-file')
        # For each axis of RAS+: the array's axis, and whether it has the same direction.
        axes = {int(world): (axis, sign > 0) for axis, (world, sign) in enumerate(orientation)}
        (axis, forwards), (rows, rows_up), (columns, columns_up) = (axes[world] for world in _PLANES[plane])
        # Down and to the right point to the feet, the back or the patient's left, all against RAS+.
        return cls((shape[0], shape[1], shape[2]), axis, not forwards, rows, rows_up, columns, columns_up)

    def __len__(self) -> int:
        return self.shape[self.axis]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a slice."""
        return self.shape[self.rows], self.shape[self.columns]

    def array_index(self, index: int) -> int:
        """The index of slice `index` along the array's axis."""
        return len(self) - 1 - index if self.reverse else index

    def to_image(self, values: np.ndarray) -> np.ndarray:
        """Orients a slice of the array (at `array_index(index)`, other axes in order) as an image, [h, w, ...]."""
        if self.rows > self.columns:
            values = values.swapaxes(0, 1)
        return values[::-1 if self.rows_flipped else 1, ::-1 if self.columns_flipped else 1]

    def from_image(self, image: np.ndarray) -> np.ndarray:
        """The inverse of `to_image`."""
        values = image[::-1 if self.rows_flipped else 1, ::-1 if self.columns_flipped else 1]
        return values.swapaxes(0, 1) if self.rows > self.columns else values


def shear_of(affine: np.ndarray) -> float:
    """The largest deviation of the angles between the axes of an affine [4, 4] from a right angle, in degrees."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    return float(np.degrees(np.arcsin(min(cosines, 1.))))
