"""Pictures of the reference and predicted boxes on their image."""
from collections.abc import Sequence
from PIL import Image, ImageDraw, ImageFont
from typing import Any

from ..case_pictures import (FONT_SIZE, GREY, LEGEND_HEIGHT, SKY_BLUE, VERMILION, YELLOW, Colour, draw_legend,
                             resampling_filter)
from ..row_images import open_rgb
from .box_text import Box

_REFERENCE, _HIT, _MISS = SKY_BLUE, YELLOW, VERMILION
_LEGEND = (('R reference', _REFERENCE), ('P right', _HIT), ('P wrong', _MISS))
# The longer side of the picture, in pixels.
_SIDE = 512


def draw_boxes(source: Any, index: int, references: Sequence[Box], predicted: Sequence[Box],
               is_right: Sequence[bool]) -> tuple[Image.Image, str]:
    """Draws the boxes on their image, numbered R1, R2, ... and P1, P2, ..., with a legend below.

    Args:
        source: The image as in the row; None without one.
        index: The index of the image; boxes on other images are numbered, but not drawn.
        references, predicted: Boxes in pixels of the image, clipped to it.
        is_right: Whether each predicted box is right.

    Returns:
        An RGB image, and the reason why the source could not be opened ('' if it could); the background is then grey.
    """
    image, problem = open_rgb(source)
    if image is None:
        far = [side for box in (*references, *predicted) for side in box.upright().corners[2:]]
        width = height = max(1, round(max(far, default=1)))
    else:
        width, height = image.size
    scale = _SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # The legend may be wider than the image.
    canvas = Image.new('RGB', (max(size[0], _SIDE // 2), size[1] + LEGEND_HEIGHT), 'white')
    picture = Image.new('RGB', size, GREY) if image is None else image.resize(size, resampling_filter(scale))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    for i, box in enumerate(references, 1):
        if box.image == index:
            _draw_box(draw, box.scaled(scale, scale), f'R{i}', _REFERENCE, size, font, 3)
    for i, (box, right) in enumerate(zip(predicted, is_right), 1):
        if box.image == index:
            _draw_box(draw, box.scaled(scale, scale), f'P{i}', _HIT if right else _MISS, size, font, 2)
    canvas.paste(picture, (0, 0))
    draw_legend(canvas, size[1], _LEGEND, outline='black')
    return canvas, problem


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, name: str, colour: Colour, size: tuple[int, int], font: Any,
              width: int) -> None:
    x1, y1, x2, y2 = box.upright().corners
    # PIL is slow for lines far outside the image.
    x1, x2 = (min(max(x, -9), size[0] + 9) for x in (x1, x2))
    y1, y2 = (min(max(y, -9), size[1] + 9) for y in (y1, y2))
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)
    # References are named in the upper left corner, predictions in the lower right one: the boxes often coincide.
    wide = draw.textlength(name, font=font) + 4
    left, top = (x1, y1) if name[0] == 'R' else (x2 - wide, y2 - 16)
    left, top = min(max(left, 0), size[0] - wide), min(max(top, 0), size[1] - 16)
    draw.rectangle((left, top, left + wide, top + 16), fill=colour)
    draw.text((left + 2, top + 8), name, fill='black', font=font, anchor='lm')
