"""What a viewer must know of an image's place: the size of its pixels, and which side of the body is where."""
import numpy as np
from dataclasses import dataclass
from typing import Any

from ..files.slices import SliceOrientation

# Edges of a slice in the radiological convention: left, right, top, bottom.
_PLANE_EDGES = {'axial': 'RLAP', 'coronal': 'RLHF', 'sagittal': 'APHF'}
_OPPOSITE = {'R': 'L', 'L': 'R', 'A': 'P', 'P': 'A', 'H': 'F', 'F': 'H'}
# Below this share of a unit vector, an axis has no clear direction.
_CLEAR = .6


@dataclass(frozen=True)
class Geometry:
    """The place of an image.

    Attributes:
        spacing: The distance from row to row and from column to column in millimetres; None where unknown.
        aspect: The height of a pixel divided by its width.
        edges: The letters of the left, right, upper and lower edge (R, L, A, P, H, F; ' ' for an unclear one); '' where
            the orientation is unknown.
    """
    spacing: tuple[float, float] | None = None
    aspect: float = 1.
    edges: str = ''

    def shown_size(self, size: tuple[int, int]) -> tuple[float, float]:
        """The width and height in which pixels have their true proportions: the smaller side of a pixel is 1."""
        width, height = size
        return (width, height * self.aspect) if self.aspect >= 1 else (width / self.aspect, height)

    def area(self, pixels: int) -> float | None:
        """Square millimetres; None where the size of a pixel is unknown."""
        return None if self.spacing is None else pixels * self.spacing[0] * self.spacing[1]


def of_spacing(spacing: Any, edges: str = '') -> Geometry:
    """The geometry of pixels of a size; None and sizes that are not positive count as unknown."""
    if spacing is None or len(spacing) != 2 or not all(np.isfinite(value) and value > 0 for value in spacing):
        return Geometry(None, 1., edges)
    rows, columns = float(spacing[0]), float(spacing[1])
    return Geometry((rows, columns), rows / columns, edges)


def of_plane(affine: np.ndarray, view: SliceOrientation, plane: str, is_oriented: bool = True) -> Geometry:
    """The geometry of a slice of a volume.

    Args:
        affine: float [4, 4], from indices to RAS+ millimetres.
        view: The slices.
        plane: Their plane.
        is_oriented: Whether the file states its orientation.
    """
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    return of_spacing((zooms[view.rows], zooms[view.columns]), _PLANE_EDGES[plane] if is_oriented else '')


def of_frame(header: Any, spacing: Any, directions: Any) -> Geometry:
    """The geometry of a DICOM frame as it is stored.

    Args:
        header: The pydicom `Dataset`.
        spacing: PixelSpacing of the frame, or None.
        directions: ImageOrientationPatient of the frame, [6], or None.
    """
    if directions is not None:
        right, down = _letter(directions[:3]), _letter(directions[3:])
    else:
        words: Any = header.get('PatientOrientation') or ()
        right, down = (str(words[0])[:1], str(words[1])[:1]) if len(words) == 2 else ('', '')
    edges = ''.join(_OPPOSITE.get(letter, ' ') + (letter if letter in _OPPOSITE else ' ') for letter in (right, down))
    edges = edges if edges.strip() else ''
    found = of_spacing(spacing, edges)
    if found.spacing is not None:
        return found
    # Of the detector, or a ratio alone: enough for the proportions, not for an area in the body.
    for name in ('ImagerPixelSpacing', 'NominalScannedPixelSpacing', 'PixelAspectRatio'):
        try:
            values = [float(value) for value in header.get(name) or ()]
        except (TypeError, ValueError):
            continue
        if len(values) == 2 and all(value > 0 for value in values):
            return Geometry(None, values[0] / values[1], edges)
    return found


def _letter(direction: np.ndarray) -> str:
    """The side of the body to which a direction in DICOM's coordinates (LPS+) points; '' if it is unclear."""
    axis = int(np.argmax(np.abs(direction)))
    if abs(direction[axis]) < _CLEAR:
        return ''
    return ('LR', 'PA', 'HF')[axis][int(direction[axis] < 0)]
