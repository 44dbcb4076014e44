"""HTML of the page: images under masks, the legend of the masks, and chips in place of `[SEG]` tokens.

Each mask is drawn as two images of the size of its box: a fill, whose opacity the page changes, and an outline. Text
from users and models is escaped.
"""
import html
import numpy as np
from collections.abc import Iterator, Sequence
from PIL import Image
from typing import Any

from ..constants import SEG_TOKEN
from ..inference.overlays import mask_colour, outline
from ..inference.results import MaskResult
from .session import InputImage, Session, Turn
from .texts import PageTexts

# URL path of the files and downloads of sessions.
ROUTE = 'citrusv-session'
OPACITY = 0.35

# ---- layers of an image


def mask_layers(mask: MaskResult, size: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Returns the images that draw a mask.

    Args:
        mask: A mask that is not empty.
        size: (width, height) of its image.

    Returns:
        (left, top) of the mask's box; the fill and the outline in that box, both uint8 {0, 255} [h, w].
    """
    left, top, width, height = (round(value) for value in mask.bbox)
    inside = np.ascontiguousarray(mask.array[top:top + height, left:left + width])
    edge = outline(inside, max(1, round(min(size) / 300)), (top, left, size[1], size[0]))
    return (left, top), inside * np.uint8(255), edge


def save_layers(session: Session, turn: Turn) -> None:
    """Writes the layers of an answer's masks as PNG files, named by `layer_name`."""
    images = session.images
    for number, mask in enumerate(turn.masks, 1):
        if mask.area:
            _, *pair = mask_layers(mask, images[mask.image_index].size)
            for kind, values in zip(('fill', 'edge'), pair):
                image = Image.fromarray(values // 255)
                image.putpalette([0, 0, 0, *mask_colour(number)])
                image.save(session.path(layer_name(session, turn, number, kind)), 'PNG', transparency=0, bits=1)


def layer_name(session: Session, turn: Turn, number: int, kind: str) -> str:
    """Returns the file name of a mask's 'fill' or 'edge'."""
    return f'answer{session.turns.index(turn) + 1}_{number}_{kind}.png'


# ---- the view


def shown_images(session: Session, turn: Turn | None) -> list[tuple[int, InputImage]]:
    """Returns the images to show, each with its number in the conversation, from 1.

    Args:
        session: The conversation.
        turn: Shows the images of this turn and those with masks of its answer, or else the image before it; None: the
            pending images.
    """
    numbered = list(enumerate(session.images, 1))
    if turn is None:
        return list(enumerate(session.pending, len(numbered) + 1))
    until = turn.num_previous + len(turn.images)
    drawn = {mask.image_index + 1 for mask in turn.masks}
    found = [(number, image) for number, image in numbered if turn.num_previous < number <= until or number in drawn]
    return found or numbered[max(until - 1, 0):until]


def view_html(session: Session, turn: Turn | None, texts: PageTexts) -> str:
    """Returns the HTML of the images, with the masks of an answer."""
    figures = [_figure(session, number, image, turn, texts) for number, image in shown_images(session, turn)]
    if not figures:
        return f'<div class="cv-empty">{html.escape(texts.empty)}</div>'
    return f'<div class="cv-view">{"".join(figures)}</div>'


def _figure(session: Session, number: int, image: InputImage, turn: Turn | None, texts: PageTexts) -> str:
    width, height = image.size
    shown_width, shown_height = image.geometry.shown_size(image.size)
    stack = [f'<img class="cv-base" src="{_source(session, image.file)}" alt="{html.escape(image.title)}">']
    if turn is not None:
        masks = [(i, mask) for i, mask in enumerate(turn.masks, 1) if mask.image_index + 1 == number and mask.area]
        for kind in ('fill', 'edge'):
            for i, mask in masks:
                left, top, box_width, box_height = mask.bbox
                place = ';'.join(f'{name}:{100 * value:.6f}%' for name, value in (
                    ('left', left / width), ('top', top / height), ('width', box_width / width),
                    ('height', box_height / height)))  # yapf: disable
                source = _source(session, layer_name(session, turn, i, kind))
                stack.append(f'<img class="cv-{kind}" data-mask="{i}" src="{source}" alt="" style="{place}">')
    for side, letter in zip(('left', 'right', 'top', 'bottom'), image.geometry.edges):
        if letter.strip():
            label = html.escape(texts.sides[letter])
            stack.append(f'<span class="cv-edge cv-{side}" title="{label}" aria-label="{label}">{letter}</span>')
    caption = f'<b>{html.escape(texts.image.format(number))}</b> {html.escape(image.title)}, {width} × {height}'
    if image.geometry.spacing is not None:
        rows, columns = image.geometry.spacing
        caption += f', {columns:.3g} × {rows:.3g} mm'
    button = f'<button type="button" class="cv-actual">{html.escape(texts.actual_size)}</button>'
    # Scrolled by keys and wheel, see page.js.
    slices = ' tabindex="0" data-slices="1"' if turn is None and image.slice is not None else ''
    return (f'<figure style="--w:{shown_width:g};--h:{shown_height:g}"><div class="cv-frame"{slices}>'
            f'<div class="cv-stack">{"".join(stack)}'
            f'</div></div><figcaption><span>{caption}</span>{button}</figcaption></figure>')


def _source(session: Session, name: str) -> str:
    # Relative, so that it works behind a reverse proxy with a path.
    return f'{ROUTE}/{session.token}/file/{name}'


# ---- the legend


def legend_html(session: Session, turn: Turn | None, texts: PageTexts) -> str:
    """Returns the HTML of the legend: a row with a checkbox for each mask of an answer, and the downloads."""
    if turn is None or turn.state == 'waiting':
        return ''
    if not turn.masks:
        return f'<p class="cv-none">{html.escape(texts.no_masks)}</p>'
    columns = [texts.mask, texts.phrase, texts.area, texts.score, texts.image.format('').strip()]
    tick_all = f'<label><input type="checkbox" class="cv-all" checked> {html.escape(texts.all)}</label>'
    head = ''.join(f'<th>{html.escape(column)}</th>' for column in columns)
    images = session.images
    rows = ''.join(_legend_row(i, mask, images[mask.image_index], texts) for i, mask in enumerate(turn.masks, 1))
    kinds = {'overlay': texts.as_overlay, 'png': texts.as_png, 'rle': texts.as_rle, 'nifti': texts.as_nifti}
    if any(images[mask.image_index].upload.is_dicom for mask in turn.masks):
        kinds['seg'] = texts.as_seg
    index = session.turns.index(turn)
    links = ''.join(f'<a class="cv-download" data-kind="{kind}" href="{ROUTE}/{session.token}/download/{index}/{kind}">'
                    f'{html.escape(text)}</a>' for kind, text in kinds.items())  # yapf: disable
    note = texts.hidden if len(turn.masks) > 1 else ''
    return (f'<table class="cv-legend"><thead><tr><th>{tick_all}</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
            f'<div class="cv-downloads"><span>{html.escape(texts.download)}</span>{links}</div>'
            f'<p class="cv-note">{html.escape(note)}</p><p class="cv-problem" role="alert"></p>')


def area_text(pixels: int, image: InputImage, texts: PageTexts) -> str:
    """An area in square millimetres or centimetres where the size of a pixel is known, else in pixels."""
    area = image.geometry.area(pixels)
    if area is None:
        return texts.pixels.format(f'{pixels:,}')
    return f'{area / 100:,.2f} cm²' if area >= 100 else f'{area:.1f} mm²'


def _legend_row(number: int, mask: MaskResult, image: InputImage, texts: PageTexts) -> str:
    area, score = (area_text(mask.area, image, texts), f'{mask.score:.2f}') if mask.area else (texts.empty_mask, '')
    box = (f'<input type="checkbox" class="cv-tick" data-mask="{number}" checked aria-label="'
           f'{html.escape(texts.mask)} {number}">')
    area = f'<span title="{html.escape(texts.pixels.format(f"{mask.area:,}"))}">{html.escape(area)}</span>'
    cells = [box, chip(number), html.escape(mask.phrase), area, score, str(mask.image_index + 1)]
    return f'<tr data-mask="{number}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def chip(number: int) -> str:
    """Returns the HTML of a chip: the number of a mask on its colour."""
    red, green, blue = mask_colour(number)
    # Luma by ITU-R BT.601.
    ink = '#000' if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else '#fff'
    return f'<mark style="background:#{red:02x}{green:02x}{blue:02x};color:{ink}">{number}</mark>'


# ---- the conversation


def chatbot_messages(session: Session, texts: PageTexts) -> list[dict[str, Any]]:
    """Returns the messages for Gradio's Chatbot, as Markdown with chips."""
    return [message for turn in session.turns for message in _messages(turn, texts)]


def _messages(turn: Turn, texts: PageTexts) -> Iterator[dict[str, Any]]:
    names = [f'{texts.image.format(number)}: {image.title}'
             for number, image in enumerate(turn.images, turn.num_previous + 1)]  # yapf: disable
    lines = [f'<small>{_escaped(name)}</small>' for name in names]
    yield {'role': 'user', 'content': '\n'.join([*lines, _escaped(turn.question)])}
    answer = answer_html(turn.answer, len(turn.masks) if turn.state == 'done' else None)
    if turn.state == 'stopped':
        answer += f' <small>{html.escape(texts.stopped)}</small>'
    elif turn.state == 'waiting':
        answer += '<span class="cv-caret"></span>'
    yield {'role': 'assistant', 'content': answer or html.escape(texts.waiting)}


def answer_html(text: str, num_masks: int | None = None) -> str:
    """Returns an answer as Markdown, with each `[SEG]` replaced by the chip of its mask.

    Args:
        text: The answer so far.
        num_masks: Number of masks; None: not known yet. Without an image a `[SEG]` has no mask.
    """
    parts: Sequence[str] = text.split(SEG_TOKEN)
    parts_html = [_escaped(parts[0])]
    for number, part in enumerate(parts[1:], 1):
        parts_html.append(chip(number) if num_masks is None or number <= num_masks else _escaped(SEG_TOKEN))
        parts_html.append(_escaped(part))
    return ''.join(parts_html)


def _escaped(text: str) -> str:
    # `![` would load an image from any URL in the text.
    return html.escape(text, quote=False).replace('![', '&#33;[')
