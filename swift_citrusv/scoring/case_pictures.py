"""Common parts of the pictures of single cases: colours, scaling, legend."""
from collections.abc import Sequence
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# Okabe and Ito's palette, which stays distinguishable with colour blindness and stands out from grey.
SKY_BLUE, BLUISH_GREEN, YELLOW, VERMILION = (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0)
# The background if the image cannot be opened.
GREY = (96, 96, 96)
LEGEND_HEIGHT = 20
FONT_SIZE = 13


def resampling_filter(scale: float) -> Image.Resampling:
    """Nearest neighbour from a scale of 2, so that single pixels stay visible; else bicubic."""
    return Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC


def draw_legend(canvas: Image.Image,
                top: int,
                entries: Sequence[tuple[str, Colour]],
                outline: str | None = None) -> None:
    """Draws a line of colour samples with their names, `LEGEND_HEIGHT` pixels high.

    Args:
        canvas: An RGB image, changed in place.
        top: The first row of the legend.
        entries: (name, colour) pairs.
        outline: The colour of the border of the samples.
    """
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    left = 2.
    for name, colour in entries:
        draw.rectangle((left, top + 5, left + 10, top + 15), fill=colour, outline=outline)
        draw.text((left + 15, top + 10), name, fill='black', font=font, anchor='lm')
        left += 30 + draw.textlength(name, font=font)
