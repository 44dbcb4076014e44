"""The pictures of `citrusv check-data`: masks drawn on their images, with the sentence of each mask."""
import numpy as np
import textwrap
from collections.abc import Sequence
from pathlib import Path
from PIL import Image, ImageDraw, ImageFont

from ..files.images import open_image, to_rgb
from ..files.orientation import ImageSize
from ..rows.columns import ColumnRules
from ..rows.contract import parse_row
from ..rows.drawing import colour, overlay, tile
from ..rows.layouts import standard_row
from ..rows.masks import decode_mask, resize_mask
from ..rows.records import Record, parse_record
from .check_rows import media_references, seg_sentences
from .row_input import named_files, place_name, placed_records, split_place

_SIDE = 512
_SHEET_SIDE = 256
_SHEET_COLUMNS = 4
_LINE_HEIGHT = 14
_MAX_LINES = 12
# PIL's default font is Latin only. The first of these that is installed also has Chinese glyphs.
_FONTS = ('NotoSansCJK-Regular.ttc', 'wqy-microhei.ttc', 'wqy-zenhei.ttc', 'DroidSansFallbackFull.ttf', 'msyh.ttc',
          'simhei.ttf', 'PingFang.ttc')
_Line = tuple[str, tuple[int, int, int]]


def draw_rows(paths: Sequence[str],
              mask_lines: Sequence[int],
              num_rows: int,
              folder: Path,
              rules: ColumnRules = ColumnRules()) -> list[Path]:
    """Draws rows of some files, evenly spaced among those with masks.

    Args:
        paths: The files.
        mask_lines: Places of the good rows with masks (`row_input.placed_records`), ascending.
        num_rows: The maximum number of rows to draw.
        folder: Output folder, created if needed. It gets 'row_<line>.png' for each row
            ('row_<file>-<line>.png' from the second file on), 'sheet.png' with all rows, and
            'captions.txt' with the sentences, for scripts that no installed font has.
        rules: How the columns are read.

    Returns:
        The paths of the pictures; empty if no row has masks.
    """
    wanted = set(evenly_spaced(mask_lines, num_rows))
    if not wanted:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    pictures, small, captions = [], [], []
    names = named_files(paths)
    for place, record in placed_records(paths):
        if place not in wanted:
            continue
        file, number = split_place(place)
        panels = _panels(record, place_name(place, names), rules)
        captions += [text for _, _, lines in panels for text, _ in lines]
        pictures.append(folder / (f'row_{file + 1}-{number}.png' if file else f'row_{number}.png'))
        _grid([_panel(*panel, _SIDE) for panel in panels], len(panels)).save(pictures[-1])
        small += [_panel(*panel, _SHEET_SIDE) for panel in panels]
        if len(pictures) == len(wanted):
            break
    pictures.append(folder / 'sheet.png')
    _grid(small, min(_SHEET_COLUMNS, len(small))).save(pictures[-1])
    (folder / 'captions.txt').write_text('\n'.join(captions) + '\n', encoding='utf-8')
    return pictures


def evenly_spaced(values: Sequence[int], count: int) -> list[int]:
    """Returns `count` evenly spaced values, including the first and the last; all values if there are fewer."""
    if len(values) <= count:
        return list(values)
    if count == 1:
        return [values[0]]
    return [values[i * (len(values) - 1) // (count - 1)] for i in range(count)]


def _panels(record: Record, row_id: str, rules: ColumnRules) -> list[tuple[np.ndarray, list[np.ndarray], list[_Line]]]:
    """For each image with masks: RGB pixels, masks, and the coloured text lines below the image."""
    row = standard_row(parse_record(record, row_id, rules), row_id)
    sample = parse_row(row, row_id=row_id)
    references = media_references(row, 'image')
    sentences = seg_sentences(row['messages'])
    panels = []
    for index in sample.seg_images:
        with open_image(references[index]) as image:
            pixels = np.array(to_rgb(image))
        masks: list[np.ndarray] = []
        title = row_id if len(references) == 1 else f'{row_id}, images[{index}]'
        lines: list[_Line] = [(f'{title}, {pixels.shape[1]} x {pixels.shape[0]}', (0, 0, 0))]
        for position, (entry, image_index) in enumerate(zip(sample.masks, sample.mask_images)):
            if image_index == index:
                mask = decode_mask(entry, size=ImageSize.of(image), row=row_id, position=position)
                empty = '' if mask.any() else ' (empty)'
                lines.append((f'masks[{position}]{empty}: {sentences[position]}', colour(len(masks))))
                masks.append(mask)
        panels.append((pixels, masks, lines))
    return panels


def _panel(pixels: np.ndarray, masks: list[np.ndarray], lines: list[_Line], side: int) -> Image.Image:
    """Scales the overlay to fit a square of `side` pixels, and draws the text lines below it."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    resized = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    drawn = Image.fromarray(overlay(resized, [_resize_mask(mask, (height, width)) for mask in masks]))
    wrapped = [(part, ink) for text, ink in lines for part in _wrap_text(text, side)]
    if len(wrapped) > _MAX_LINES:
        wrapped = [*wrapped[:_MAX_LINES - 1], (f'... and {len(wrapped) - _MAX_LINES + 1} more lines', (0, 0, 0))]
    canvas = Image.new('RGB', (side, side + _LINE_HEIGHT * len(wrapped) + 4), 'white')
    canvas.paste(drawn, ((side - width) // 2, (side - height) // 2))
    draw = ImageDraw.Draw(canvas)
    for i, (text, ink) in enumerate(wrapped):
        draw.text((2, side + 2 + i * _LINE_HEIGHT), text, fill=ink, font=_font(text))
    return canvas


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes the mask to `size`. Unlike in a training target, every foreground pixel stays visible."""
    shown = resize_mask(mask, size)
    if size[0] < mask.shape[0]:
        rows, columns = mask.nonzero()
        shown[rows * size[0] // mask.shape[0], columns * size[1] // mask.shape[1]] = 1
    return shown


def _wrap_text(text: str, width: int) -> list[str]:
    # A Latin letter is about 5.5 pixels wide, a Chinese character 12.
    return textwrap.wrap(text, 2 * width // (11 if text.isascii() else 24)) or ['']


def _grid(panels: list[Image.Image], columns: int) -> Image.Image:
    """Tiles panels of one width in a grid; each is padded to the height of the tallest."""
    height = max(panel.height for panel in panels)
    equal = []
    for panel in panels:
        equal.append(Image.new('RGB', (panel.width, height), 'white'))
        equal[-1].paste(panel)
    return tile(equal, columns)


def _font(text: str) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    if not text.isascii():
        for name in _FONTS:
            try:
                return ImageFont.truetype(name, 11)
            except OSError:
                continue
    return ImageFont.load_default()
