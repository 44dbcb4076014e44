"""Pictures of boxes: those of the reference and those of the answer on their image."""
from collections.abc import Sequence
from PIL import Image, ImageDraw, ImageFont
from typing import Any

from ..image_facts import opened
from .box_text import Box

# Of Okabe and Ito: they differ for the colour-blind, too, and stand out from grey.
_REFERENCE, _HIT, _MISS = (86, 180, 233), (240, 228, 66), (213, 94, 0)
_LEGEND = (('R reference', _REFERENCE), ('P right', _HIT), ('P wrong', _MISS))
# The longer side of the picture, in pixels.
_SIDE = 512
_LINE = 20
_GREY = (96, 96, 96)


def boxes_picture(source: Any, index: int, references: Sequence[Box], predicted: Sequence[Box],
                  is_right: Sequence[bool]) -> tuple[Image.Image, str]:
    """An image with the boxes on it, numbered R1, R2, ... and P1, P2, ..., and a legend below.

    Args:
        source: The image as the row names it; None where there is none.
        index: Of the image in its row; boxes on others are counted and not drawn.
        references, predicted: Boxes in pixels of the image; what lies outside is cut off.
        is_right: For each predicted box, whether it is.

    Returns:
        RGB; and why the image could not be shown, '' where it could. The boxes are then drawn on grey.
    """
    image, problem = opened(source)
    if image is None:
        far = [side for box in (*references, *predicted) for side in box.upright().corners[2:]]
        side = max(1, round(max(far, default=1)))
        image = Image.new('RGB', (side, side), _GREY)
    scale = _SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # The legend is wider than some images.
    canvas = Image.new('RGB', (max(size[0], _SIDE // 2), size[1] + _LINE), 'white')
    picture = image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for i, box in enumerate(references, 1):
        if box.image == index:
            _draw(draw, box.scaled(scale, scale), f'R{i}', _REFERENCE, size, font, 3)
    for i, (box, right) in enumerate(zip(predicted, is_right), 1):
        if box.image == index:
            _draw(draw, box.scaled(scale, scale), f'P{i}', _HIT if right else _MISS, size, font, 2)
    canvas.paste(picture, (0, 0))
    _write_legend(ImageDraw.Draw(canvas), size[1], font)
    return canvas, problem


def _draw(draw: ImageDraw.ImageDraw, box: Box, name: str, colour: tuple[int, int, int], size: tuple[int, int],
          font: Any, width: int) -> None:
    x1, y1, x2, y2 = box.upright().corners
    # Far outside, PIL would draw for a long time.
    x1, x2 = (min(max(x, -9), size[0] + 9) for x in (x1, x2))
    y1, y2 = (min(max(y, -9), size[1] + 9) for y in (y1, y2))
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)
    # Names of references in the upper left corner, others in the lower right one: the boxes often agree.
    wide = draw.textlength(name, font=font) + 4
    left, top = (x1, y1) if name[0] == 'R' else (x2 - wide, y2 - 16)
    left, top = min(max(left, 0), size[0] - wide), min(max(top, 0), size[1] - 16)
    draw.rectangle((left, top, left + wide, top + 16), fill=colour)
    draw.text((left + 2, top + 8), name, fill='black', font=font, anchor='lm')


def _write_legend(draw: ImageDraw.ImageDraw, top: int, font: Any) -> None:
    left = 2.
    for text, colour in _LEGEND:
        draw.rectangle((left, top + 5, left + 10, top + 15), fill=colour, outline='black')
        draw.text((left + 15, top + 10), text, fill='black', font=font, anchor='lm')
        left += 30 + draw.textlength(text, font=font)
