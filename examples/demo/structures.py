"""Images that ship inside scikit-image and pydicom, with structures found in them by classical methods.

Every mask is computed from the image itself with one threshold per image, so the same appearance has the same label
everywhere. Nothing is downloaded. Not used: the optic disc (a single one, without a closed border), the microaneurysms
(two lesions of a few pixels), the nuclei inside the stained glands (too faint for a threshold).
"""
import numpy as np
import pydicom
from dataclasses import dataclass
from pydicom.data import get_testdata_file
from scipy import ndimage
from skimage import color, data, filters, morphology, transform

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Structure:
    """A structure to segment: its stable id, its names, and its colour on the contact sheet."""

    id: str
    english: str
    chinese: str
    plural: bool
    colour: tuple[int, int, int]


STRUCTURES = {
    structure.id: structure
    for structure in (
        Structure('dab_tissue', 'DAB-stained tissue', 'DAB染色组织', False, (0, 200, 0)),
        Structure('stromal_nuclei', 'stromal nuclei', '间质细胞核', True, (255, 230, 0)),
        Structure('unstained_area', 'unstained area', '未染色区域', False, (255, 0, 220)),
        Structure('vessels', 'large vessels', '大血管', True, (0, 255, 0)),
        Structure('retinal_background', 'retinal background', '视网膜背景', False, (0, 190, 255)),
        Structure('dark_surround', 'dark surround', '周围暗区', False, (230, 230, 230)),
        Structure('lung', 'lung', '肺', False, (0, 220, 255)),
        Structure('bone', 'bone', '骨', False, (255, 230, 0)),
        Structure('soft_tissue', 'soft tissue', '软组织', False, (255, 80, 80)),
        Structure('cell', 'cell', '细胞', False, (255, 230, 0)),
        Structure('cell_background', 'empty background', '空白背景', False, (0, 160, 255)),
    )
}


@dataclass(frozen=True)
class Source:
    """One image with its structures and its split.

    Attributes:
        name: stable id of the image.
        origin: where it ships.
        modality: id of the modality.
        image: uint8 RGB `[H, W, 3]`.
        masks: structure id to bool `[H, W]`; no pixel is in two of them.
        held_out: `(x0, y0, x1, y1)` in source pixels; no training tile touches it.
        excluded: boxes that no tile touches, because labels there are uncertain.
        scale: source pixels per tile pixel.
        num_train: training tiles to draw.
        num_val: held-out tiles to draw, at most.
    """

    name: str
    origin: str
    modality: str
    image: np.ndarray
    masks: dict[str, np.ndarray]
    held_out: Box
    excluded: tuple[Box, ...]
    scale: float
    num_train: int
    num_val: int


def load_sources() -> list[Source]:
    """Loads the four images and finds their structures; takes several seconds."""
    return [_load_ihc(), _load_retina(), _load_ct(), _load_cell()]


def _load_ihc() -> Source:
    """Colon tissue, haematoxylin and DAB (512x512): stain separation, one threshold per stain."""
    image = data.immunohistochemistry()
    stains = color.rgb2hed(image)
    haematoxylin = filters.gaussian(stains[..., 0], 1.0)
    dab = filters.gaussian(stains[..., 2], 1.2)

    # The glands are filled: their pale nuclei belong to them, a white lumen does not.
    lumen = _smooth(filters.gaussian(color.rgb2gray(image), 1.5) > 0.77, 2)
    tissue = _without_specks(_smooth(dab > 0.04, 4), speck=200, hole=600) & ~_components_from(lumen, 60)
    tissue = _without_specks(_smooth(tissue, 2), speck=200, hole=150)
    # The glands' blurred brown rim looks like haematoxylin too, so nuclei stay a pixel away from it.
    nuclei = (haematoxylin > 0.026) & ~morphology.dilation(tissue, morphology.disk(1))
    nuclei = _without_specks(_smooth(nuclei, 2), speck=40, hole=40) & ~tissue
    unstained = _without_specks(~tissue & ~nuclei, speck=60, hole=0)
    masks = {'dab_tissue': tissue, 'stromal_nuclei': nuclei, 'unstained_area': unstained}
    return Source(
        'ihc',
        'skimage.data.immunohistochemistry',
        'ihc',
        image,
        masks,
        held_out=(256, 256, 512, 512),
        excluded=(),
        scale=0.75,
        num_train=120,
        num_val=22)


def _load_retina() -> Source:
    """Colour fundus photograph (1411x1411): black top-hat of the green channel, hysteresis threshold."""
    image = data.retina()
    # At half resolution large vessels are still 4-8 pixels wide, and the filters cost a quarter.
    small = transform.downscale_local_mean(image.astype(float), (2, 2, 1))
    field = filters.gaussian(small[..., 0], 2, preserve_range=True) > 40
    # Outside the field, repeat the nearest retina pixel: other fillings make the rim look like a vessel, or hide one.
    _, nearest = ndimage.distance_transform_edt(~morphology.erosion(field, morphology.disk(3)), return_indices=True)
    green = filters.gaussian(small[..., 1][tuple(nearest)], 1, preserve_range=True)
    closed = morphology.closing(green, morphology.disk(10))
    # Relative depth, so that one threshold fits the darker periphery and the bright centre.
    depth = (closed - green) / closed * field
    vessels = filters.apply_hysteresis_threshold(depth, 0.135, 0.22)
    vessels = _without_specks(_smooth(vessels, 1), speck=200, hole=30)

    height, width = image.shape[:2]
    field, vessels = (np.kron(mask, np.ones((2, 2), bool))[:height, :width] for mask in (field, vessels))
    # Smooths the two-pixel steps of the doubling.
    field, vessels = (filters.gaussian(mask.astype(float), 1.5) > 0.5 for mask in (field, vessels))
    masks = {'vessels': vessels & field, 'retinal_background': field & ~vessels, 'dark_surround': ~field}
    return Source(
        'retina',
        'skimage.data.retina',
        'fundus',
        image,
        masks,
        held_out=(0, 0, 705, 660),
        excluded=((120, 510, 400, 800), (1120, 100, 1260, 250)),
        scale=1.0,
        num_train=140,
        num_val=24)


def _load_ct() -> Source:
    """Chest CT at the level of a vertebra (128x128): Hounsfield thresholds."""
    path = get_testdata_file('CT_small.dcm', download=False)
    assert isinstance(path, str)
    dataset = pydicom.dcmread(path)
    hounsfield = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    smoothed = filters.gaussian(hounsfield, 0.6, preserve_range=True)
    lung = _without_specks(_smooth(smoothed < -400, 1), speck=40, hole=60)
    # The contrast-filled aorta is as dense as cancellous bone, but only bone is connected to dense cortex.
    bone = filters.apply_hysteresis_threshold(smoothed, 150, 300)
    bone = _without_specks(_smooth(bone, 1), speck=20, hole=40) & ~lung
    window = np.clip((hounsfield + 600) / 1400, 0, 1)
    image = np.repeat((255 * window).round().astype(np.uint8)[..., None], 3, axis=2)
    # The right half has the aorta, so training shows that not everything bright is bone.
    masks = {'lung': lung, 'bone': bone, 'soft_tissue': ~lung & ~bone}
    return Source(
        'ct',
        'pydicom CT_small.dcm',
        'ct',
        image,
        masks,
        held_out=(0, 0, 62, 128),
        excluded=(),
        scale=0.4,
        num_train=80,
        num_val=14)


def _load_cell() -> Source:
    """One cell in quantitative phase microscopy (660x550): Otsu's threshold."""
    image = data.cell()
    smoothed = filters.gaussian(image, 2, preserve_range=True)
    cell = _without_specks(_smooth(smoothed > filters.threshold_otsu(smoothed), 3), speck=500, hole=5000)
    masks = {'cell': cell, 'cell_background': ~cell}
    return Source(
        'cell',
        'skimage.data.cell',
        'microscopy',
        np.repeat(image[..., None], 3, axis=2),
        masks,
        held_out=(425, 0, 550, 660),
        excluded=(),
        scale=0.75,
        num_train=50,
        num_val=10)


def _smooth(mask: np.ndarray, radius: int) -> np.ndarray:
    """Closing, then opening: removes notches and spurs thinner than twice the radius."""
    disk = morphology.disk(radius)
    return morphology.opening(morphology.closing(mask, disk), disk)


def _without_specks(mask: np.ndarray, speck: int, hole: int) -> np.ndarray:
    """Drops components below `speck` pixels and fills holes below `hole` pixels."""
    mask = _components_from(mask, speck)
    return ~_components_from(~mask, hole)


def _components_from(mask: np.ndarray, num_pixels: int) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    return mask & (sizes >= num_pixels)[labels]
