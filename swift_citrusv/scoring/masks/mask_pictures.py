"""Pictures of cases of segmentation: what both masks have, what was missed, what is false."""
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from typing import Any

from ..image_facts import opened
from .surface_distance import outline

# Of Okabe and Ito: they differ for the colour-blind, too.
_AGREEMENT, _MISSED, _FALSE = (0, 158, 115), (86, 180, 233), (213, 94, 0)
_LEGEND = (('both', _AGREEMENT), ('missed', _MISSED), ('false', _FALSE))
_OPACITY = 0.4
# The longer side of an image in the picture, in pixels.
_SIDE = 384
_GAP = 4
_LINE = 20
_GREY = (96, 96, 96)


def comparison(source: Any, target: np.ndarray | None, predicted: np.ndarray | None) -> tuple[Image.Image, str]:
    """The image alone, beside it the image with both masks, and a legend below.

    The three areas are tinted and outlined.

    Args:
        source: The image as the row names it; None where there is none.
        target, predicted: bool [h, w], one of them at least; None for a mask that is not there.

    Returns:
        RGB; and why the image could not be shown, '' where it could. Masks are then drawn on grey.
    """
    known = target if target is not None else predicted
    assert known is not None
    image, problem = opened(source)
    height, width = known.shape
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    plain = Image.new('RGB', size, _GREY) if image is None else image.resize(size, _filter(scale))
    if image is not None and image.size != (width, height):
        problem = f'the image is {image.width} x {image.height} pixels, its masks are {width} x {height}'
    drawn = _draw(plain, _resized(target, known, size), _resized(predicted, known, size))
    canvas = Image.new('RGB', (2 * size[0] + _GAP, size[1] + _LINE), 'white')
    canvas.paste(plain, (0, 0))
    canvas.paste(drawn, (size[0] + _GAP, 0))
    _write_legend(canvas, size[1])
    return canvas, problem


def _filter(scale: float) -> Image.Resampling:
    # Enlarged, single pixels stay to be seen.
    return Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC


def _resized(mask: np.ndarray | None, known: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask is None:
        mask = np.zeros_like(known)
    # The mean of a box: of a small structure in a large image something is left.
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 0


def _draw(plain: Image.Image, target: np.ndarray, predicted: np.ndarray) -> Image.Image:
    pixels = np.asarray(plain).astype(np.float32)
    for inside, colour in ((target & predicted, _AGREEMENT), (target & ~predicted, _MISSED),
                           (predicted & ~target, _FALSE)):  # yapf: disable
        pixels[inside] = (1 - _OPACITY) * pixels[inside] + _OPACITY * np.array(colour, np.float32)
        pixels[outline(inside)] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))


def _write_legend(canvas: Image.Image, top: int) -> None:
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    left = 2.
    for text, colour in _LEGEND:
        draw.rectangle((left, top + 5, left + 10, top + 15), fill=colour)
        draw.text((left + 15, top + 10), text, fill='black', font=font, anchor='lm')
        left += 30 + draw.textlength(text, font=font)
