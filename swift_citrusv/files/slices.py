"""Slices through a volume: axial, coronal and sagittal ones, whatever the order and direction of its axes.

Slices are shown as radiologists look at them:

- axial: from the feet; the patient's right is on the left of the image, the front of the body at its top;
- coronal: from the front; the patient's right is on the left, the head at the top;
- sagittal: from the patient's left; the front of the body is on the left, the head at the top.

They are counted from 0, along the axes of RAS+ coordinates, in which NIfTI gives positions: axial ones from the feet
to the head, coronal ones from the back to the front, sagittal ones from the patient's left to the right. A volume that
lies oblique is cut along its own axes, those nearest to the body's. Nothing is ever resampled: a slice has the voxels
of the file as its pixels (not square where they are not), and a mask of a slice is a mask of voxels.
"""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import FileError, import_medical

# Each with its axis in RAS+, and the axes that run down and along its rows when it is shown.
_PLANES = {'axial': (2, 1, 0), 'coronal': (1, 2, 0), 'sagittal': (0, 2, 1)}
PLANES = tuple(_PLANES)


@dataclass(frozen=True)
class SliceOrientation:
    """How the slices of a plane lie in an array.

    Attributes:
        shape: Of the array.
        axis: The array's axis along which slices are counted.
        backwards: Whether they are counted against the array's own direction.
        rows: The array's axis that runs down a slice.
        rows_flipped: Whether it is shown against its direction.
        columns, columns_flipped: The same for the axis that runs to the right.
    """
    shape: tuple[int, int, int]
    axis: int = 2
    backwards: bool = False
    rows: int = 1
    rows_flipped: bool = False
    columns: int = 0
    columns_flipped: bool = False

    @classmethod
    def of(cls, affine: np.ndarray, shape: Sequence[int], plane: str) -> 'SliceOrientation':
        """The view of a plane.

        Args:
            affine: float [4, 4], from indices of the array to RAS+ millimetres.
            shape: The array's three sizes.
            plane: 'axial', 'coronal' or 'sagittal'.

        Raises:
            FileError: The affine gives the array no orientation, or there is no such plane.
        """
        if plane not in _PLANES:
            raise FileError(f'it has no plane {plane!r}', f'The planes are {", ".join(PLANES)}.', 'image-fragment')
        nibabel = import_medical('nibabel.orientations')
        orientation = nibabel.io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
        if np.isnan(orientation).any():
            raise FileError(f'its affine {np.asarray(affine).tolist()} does not say how the volume lies in the body',
                            'Set the sform or the qform of its header.', 'medical-file')
        # Of each axis of RAS+: the array's axis, and whether that runs the same way.
        axes = {int(world): (axis, sign > 0) for axis, (world, sign) in enumerate(orientation)}
        (axis, forwards), (rows, rows_up), (columns, columns_up) = (axes[world] for world in _PLANES[plane])
        # Down and to the right are feet, back and the patient's left: against RAS+, each of them.
        return cls((shape[0], shape[1], shape[2]), axis, not forwards, rows, rows_up, columns, columns_up)

    def __len__(self) -> int:
        return self.shape[self.axis]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a slice."""
        return self.shape[self.rows], self.shape[self.columns]

    def place(self, index: int) -> int:
        """Where slice `index` lies along the array's axis."""
        return len(self) - 1 - index if self.backwards else index

    def show(self, values: np.ndarray) -> np.ndarray:
        """A slice as it is shown, [h, w, ...], from what the array holds at `place(index)`, its other axes in order."""
        if self.rows > self.columns:
            values = values.swapaxes(0, 1)
        return values[::-1 if self.rows_flipped else 1, ::-1 if self.columns_flipped else 1]

    def back(self, shown: np.ndarray) -> np.ndarray:
        """The inverse of `show`."""
        values = shown[::-1 if self.rows_flipped else 1, ::-1 if self.columns_flipped else 1]
        return values.swapaxes(0, 1) if self.rows > self.columns else values
