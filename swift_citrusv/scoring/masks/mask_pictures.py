"""Pictures of segmentation cases: true positives, false negatives and false positives."""
import numpy as np
from PIL import Image
from typing import Any

from ..case_pictures import BLUISH_GREEN, GREY, LEGEND_HEIGHT, SKY_BLUE, VERMILION, draw_legend, resampling_filter
from ..row_images import open_rgb
from .surface_distance import border_pixels

_AGREEMENT, _MISSED, _FALSE = BLUISH_GREEN, SKY_BLUE, VERMILION
_LEGEND = (('both', _AGREEMENT), ('missed', _MISSED), ('false', _FALSE))
_OPACITY = 0.4
# The longer side of an image in the picture, in pixels.
_SIDE = 384
_GAP = 4


def draw_comparison(source: Any, target: np.ndarray | None, predicted: np.ndarray | None) -> tuple[Image.Image, str]:
    """Draws the image, the image with the tinted and outlined masks beside it, and a legend below.

    Args:
        source: The image as in the row; None without one.
        target, predicted: bool [h, w], at least one of them; None for a missing mask.

    Returns:
        An RGB image, and the reason why the source could not be opened or does not fit ('' if there is none). Without
        an image the background is grey.
    """
    known = target if target is not None else predicted
    assert known is not None
    image, problem = open_rgb(source)
    height, width = known.shape
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    plain = Image.new('RGB', size, GREY) if image is None else image.resize(size, resampling_filter(scale))
    if image is not None and image.size != (width, height):
        problem = f'the image is {image.width} x {image.height} pixels, its masks are {width} x {height}'
    drawn = _draw_masks(plain, _resized(target, known, size), _resized(predicted, known, size))
    canvas = Image.new('RGB', (2 * size[0] + _GAP, size[1] + LEGEND_HEIGHT), 'white')
    canvas.paste(plain, (0, 0))
    canvas.paste(drawn, (size[0] + _GAP, 0))
    draw_legend(canvas, size[1], _LEGEND)
    return canvas, problem


def _resized(mask: np.ndarray | None, known: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask is None:
        mask = np.zeros_like(known)
    # Box averaging keeps small structures of large images visible.
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 0


def _draw_masks(plain: Image.Image, target: np.ndarray, predicted: np.ndarray) -> Image.Image:
    pixels = np.asarray(plain).astype(np.float32)
    for inside, colour in ((target & predicted, _AGREEMENT), (target & ~predicted, _MISSED),
                           (predicted & ~target, _FALSE)):  # yapf: disable
        pixels[inside] = (1 - _OPACITY) * pixels[inside] + _OPACITY * np.array(colour, np.float32)
        pixels[border_pixels(inside)] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))
