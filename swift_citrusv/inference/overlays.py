"""Overlays: an image with the tinted and outlined masks of an answer, and a legend below it.

The picture keeps the image's size and holds no text, so it can be laid over the image. Large arrays stay in 8 bits: an
image of 100 megapixels takes about four times its own memory.
"""
import colorsys
import functools
import matplotlib
import numpy as np
import os
import re
import time
import warnings
from collections.abc import Sequence
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from typing import Any

from ..rows.drawing import colour
from ..settings import SettingError
from .results import MaskResult

_OPACITY = 0.35
# In pixels. The legend must be readable below an image of any size.
_MIN_WIDTH = 320
_MIN_FONT = 13
# Characters of a phrase.
_MAX_PHRASE = 150
# PNG compression. Compared with the default, a large image takes a third of the time and 10 % more bytes.
_COMPRESS_LEVEL = 2
_CJK_FONTS = re.compile('cjk|noto.*sc|wqy|wenquan|droidsansfallback|simhei|simsun|msyh|pingfang|heiti|sourcehan|han',
                        re.IGNORECASE)
_NO_GLYPH = '□'

# ---- one picture


def mask_colour(number: int) -> tuple[int, int, int]:
    """Returns the RGB colour (0 to 255) of a mask by its number, from 1; the first ten are those of `rows.drawing`."""
    if number <= 10:
        return colour(number - 1)
    # Steps of the golden ratio spread any number of hues evenly.
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 0.95))
    return red, green, blue


def draw_overlay(image: Image.Image, masks: Sequence[tuple[int, MaskResult]]) -> Image.Image:
    """Draws an image with its masks and a legend.

    Args:
        image: The image, RGB.
        masks: Each with its number in the answer, from 1, which selects its colour. An empty mask appears in the
            legend only.

    Returns:
        An RGB image. Its first `image.height` rows and `image.width` columns are the picture; the legend is below.
    """
    legend = _legend(max(image.width, _MIN_WIDTH), max(min(image.width, 2 * image.height) // 55, _MIN_FONT), masks)
    canvas = Image.new('RGB', (legend.width, image.height + legend.height), 'white')
    canvas.paste(image, (0, 0))
    # All tints first, so that none covers the outline of another mask.
    for number, mask in masks:
        if mask.area:
            left, top, inside = _cropped(mask)
            canvas.paste(mask_colour(number), (left, top), Image.fromarray(inside * np.uint8(round(255 * _OPACITY))))
    thickness = max(1, round(min(image.size) / 300))
    for number, mask in masks:
        if mask.area:
            left, top, inside = _cropped(mask)
            edge = outline(inside, thickness, (top, left, *image.size[::-1]))
            canvas.paste(mask_colour(number), (left, top), Image.fromarray(edge))
    canvas.paste(legend, (0, image.height))
    return canvas


def _cropped(mask: MaskResult) -> tuple[int, int, np.ndarray]:
    """Returns the left, the top and the pixels, uint8 {0, 1} [h, w], of the mask's box."""
    left, top, width, height = (round(value) for value in mask.bbox)
    return left, top, np.ascontiguousarray(mask.array[top:top + height, left:left + width])


def outline(inside: np.ndarray, thickness: int, place: tuple[int, int, int, int]) -> np.ndarray:
    """Returns the pixels of a mask within `thickness` of a pixel outside it; the image border is not outside.

    Args:
        inside: The box of a mask, uint8 {0, 1} [h, w].
        thickness: Thickness in pixels, >= 1.
        place: Top and left of the box in its image, and height and width of the image, in pixels.

    Returns:
        uint8 {0, 255} [h, w].
    """
    top, left, height, width = place
    rest = (height - top - inside.shape[0], width - left - inside.shape[1])
    core = inside
    for axis, before, after in ((0, top, rest[0]), (1, left, rest[1])):
        # Edge pixels are repeated where the box touches the image's border; elsewhere the padding is zero.
        core = _pad(core, axis, thickness, core_before=before == 0, core_after=after == 0)
        core = _erode(core, axis, 2 * thickness + 1)
    return (inside & (1 - core)) * np.uint8(255)


def _pad(pixels: np.ndarray, axis: int, size: int, *, core_before: bool, core_after: bool) -> np.ndarray:
    ends = np.take(pixels, [0, -1], axis=axis)
    parts = [np.take(ends, [0] * size, axis=axis) * np.uint8(core_before), pixels,
             np.take(ends, [1] * size, axis=axis) * np.uint8(core_after)]  # yapf: disable
    return np.concatenate(parts, axis=axis)


def _erode(pixels: np.ndarray, axis: int, window: int) -> np.ndarray:
    """Minimum over sliding windows along an axis, which becomes `window - 1` shorter. Takes log2(window) steps."""
    pixels = np.swapaxes(pixels, 0, axis)
    reach = 1
    while reach < window:
        step = min(reach, window - reach)
        pixels = pixels[:-step] & pixels[step:]
        reach += step
    return np.swapaxes(pixels, 0, axis)


# ---- its legend


def _legend(width: int, size: int, masks: Sequence[tuple[int, MaskResult]]) -> Image.Image:
    pad, line = size // 2, round(1.4 * size)
    indent = 2 * pad + size
    blocks = []
    for number, mask in masks:
        facts = f'{mask.area:,} px, score {mask.score:.2f}' if mask.area else 'empty: not in the image'
        phrase = mask.phrase if len(mask.phrase) <= _MAX_PHRASE else mask.phrase[:_MAX_PHRASE] + '…'
        text, font = _readable(f'{number}  {phrase or "(no phrase)"}  ({facts})', size)
        blocks.append((number, _wrapped(text, font, width - indent - pad), font))
    height = sum(len(lines) for _, lines, _ in blocks) * line + 2 * pad
    strip = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(strip)
    top = pad
    for number, lines, font in blocks:
        draw.rectangle((pad, top + line - size - 1, pad + size, top + line - 1), fill=mask_colour(number))
        for text in lines:
            draw.text((indent, top + line - 1), text, fill='black', font=font, anchor='ld')
            top += line
    return strip


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Wraps text to lines of at most `width` pixels, at spaces if possible."""
    lines: list[str] = []
    while text:
        end = len(text)
        while end > 1 and font.getlength(text[:end]) > width:
            end = min(end - 1, round(end * width / font.getlength(text[:end])) or 1)
        if end < len(text):
            space = text.rfind(' ', 1, end + 1)
            end = space if space > end // 2 else end
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return lines


def _readable(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Returns the text and the first installed font with all its glyphs; missing glyphs become boxes."""
    needed = {ord(character) for character in text}
    path = min(_fonts(), key=lambda path: len(needed - _characters(path)))
    missing = needed - _characters(path)
    if missing:
        shown = ''.join(chr(code) for code in sorted(missing))
        warnings.warn(
            f'No installed font has {shown[:20]!r}: legends of overlays show {_NO_GLYPH} instead. Install one '
            '(Debian: fonts-noto-cjk, fonts-wqy-microhei).',
            stacklevel=2)
        text = ''.join(_NO_GLYPH if ord(character) in missing else character for character in text)
    return text, ImageFont.truetype(path, size)


@functools.cache
def _fonts() -> tuple[str, ...]:
    """Returns matplotlib's sans-serif font, then the system's fonts, Chinese ones first."""
    own = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    found = sorted(font_manager.findSystemFonts(), key=lambda path: (_CJK_FONTS.search(path) is None, path))
    return own, *found


@functools.cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except RuntimeError:  # FreeType cannot read this font
        return frozenset()


# ---- files


def check_overlay_dir(folder: str) -> None:
    """Creates the folder of overlays.

    Raises:
        SettingError: The folder cannot be created or written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise SettingError(f'Setting overlay_dir={folder!r} cannot be created: {e}. Name another folder.') from e
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingError(f'Setting overlay_dir={folder!r} cannot be written to. Name another folder.')


def save_overlays(folder: str, name: str | None, images: Sequence[Image.Image],
                  masks: Sequence[MaskResult]) -> list[dict[str, Any]]:
    """Writes a PNG for each image with masks of an answer.

    Args:
        folder: The output folder; created if missing.
        name: Name of the row or the answer; by default the time.
        images: The images of the conversation, RGB at their original size.
        masks: The masks of the answer, in order.

    Returns:
        For each file {'image_index': from 0, 'path': absolute path}. Existing files are never overwritten: a number is
        appended to a name that exists, also if another process wrote it.
    """
    os.makedirs(folder, exist_ok=True)
    stem = re.sub(r'[^\w.()-]+', '-', name or f'answer-{time.strftime("%Y%m%d-%H%M%S")}')[-120:]
    written = []
    for index in sorted({mask.image_index for mask in masks}):
        here = [(number, mask) for number, mask in enumerate(masks, 1) if mask.image_index == index]
        picture = draw_overlay(images[index], here)
        path = _save(picture, os.path.abspath(os.path.join(folder, f'{stem}_image{index + 1}')))
        written.append({'image_index': index, 'path': path})
    return written


def _save(picture: Image.Image, stem: str) -> str:
    number = 1
    while True:
        path = f'{stem}.png' if number == 1 else f'{stem}_{number}.png'
        try:
            file = open(path, 'xb')
        except FileExistsError:
            number += 1
            continue
        with file:
            picture.save(file, 'PNG', compress_level=_COMPRESS_LEVEL)
        return path
