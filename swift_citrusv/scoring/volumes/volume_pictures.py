"""Pictures of a label in a scan: three planes with the outlines of reference and prediction."""
import numpy as np
from PIL import Image

from ...files.errors import IMAGE_ERRORS, import_medical
from ...files.slices import PLANES, SliceOrientation
from ...files.windowing import apply_window
from .grids import GridMap
from .label_volume import LabelVolume

_TARGET, _PREDICTED, _BOTH = (0, 158, 115), (213, 94, 0), (240, 228, 66)
# Longest side of a plane in pixels, and the gap between planes.
_SIDE, _GAP = 320, 6


def draw_planes(image: str | None, volume: LabelVolume, target: np.ndarray | None, predicted: np.ndarray | None,
                place: tuple[int, int, int] | None) -> tuple[Image.Image, str]:
    """The axial, coronal and sagittal plane through a voxel, in true proportions.

    The outline of the reference is green, that of the prediction orange, and where they coincide yellow.

    Args:
        image: A NIfTI file of the scan, for the background; None for none.
        volume: The reference, for shape and affine.
        target, predicted: bool [i, j, k]; None for no mask.
        place: The voxel; by default the middle.

    Returns:
        The picture, and why it has no background; '' if it has one or none was asked for.
    """
    background, problem = _background(image, volume)
    place = place or tuple(size // 2 for size in volume.shape)  # type: ignore[assignment]
    assert place is not None
    zooms = np.linalg.norm(volume.affine[:3, :3], axis=0)
    planes = []
    for plane in PLANES:
        view = SliceOrientation.from_affine(volume.affine, volume.shape, plane)
        number = place[view.axis]
        grey = np.zeros(view.size, np.uint8)
        if background is not None:
            grey = apply_window(view.to_image(np.moveaxis(background, view.axis, 0)[number]))
        drawn = np.repeat(grey[..., None], 3, axis=2)
        outlines = [None if mask is None else _outline(view.to_image(np.moveaxis(mask, view.axis, 0)[number]))
                    for mask in (target, predicted)]  # yapf: disable
        # Enlarged first, so that outlines stay thin and pixels keep their true proportions.
        planes.append(_scaled(drawn, outlines, (float(zooms[view.rows]), float(zooms[view.columns]))))
    height = max(part.height for part in planes)
    joined = Image.new('RGB', (sum(part.width for part in planes) + _GAP * (len(planes) - 1), height))
    left = 0
    for part in planes:
        joined.paste(part, (left, (height - part.height) // 2))
        left += part.width + _GAP
    return joined, problem


def _background(image: str | None, volume: LabelVolume) -> tuple[np.ndarray | None, str]:
    if image is None:
        return None, ''
    try:
        scan = import_medical('nibabel').load(image)
        values = np.asanyarray(scan.dataobj)
        while values.ndim > 3:
            values = values[..., 0]
        same = GridMap(values.shape, scan.affine, volume.shape, volume.affine).is_same
    except IMAGE_ERRORS as e:
        return None, f'the scan cannot be shown: {type(e).__name__}'
    return (values, '') if same else (None, 'the scan has other voxels than the reference')


def _outline(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    return mask & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def _scaled(picture: np.ndarray, outlines: list[np.ndarray | None], pixel: tuple[float, float]) -> Image.Image:
    height, width = picture.shape[0] * pixel[0], picture.shape[1] * pixel[1]
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
    drawn = np.array(image)
    marks = [np.zeros(drawn.shape[:2], bool) if outline is None else
             np.array(Image.fromarray(outline).resize(size, Image.Resampling.NEAREST), bool)
             for outline in outlines]  # yapf: disable
    for mark, colour in ((marks[0], _TARGET), (marks[1], _PREDICTED), (marks[0] & marks[1], _BOTH)):
        drawn[mark] = colour
    return Image.fromarray(drawn)
