"""The parts of the page that are ours: pictures under masks, the legend, and chips where an answer says `[SEG]`.

Each mask lies on its picture as two images of the size of its box: a tint, whose opacity the page changes, and an
outline. All text from users and models is escaped.
"""
import html
import numpy as np
from collections.abc import Iterator, Sequence
from PIL import Image
from typing import Any

from ..constants import SEG_TOKEN
from ..inference.overlays import mask_colour, outline
from ..inference.results import MaskResult
from .session import Picture, Session, Turn
from .texts import Words

# Where the server has the files and downloads of sessions.
ROUTE = 'citrusv-session'
OPACITY = 0.35

# ---- layers of a picture


def layers(mask: MaskResult, size: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """A mask as it is drawn.

    Args:
        mask: Not an empty one.
        size: (width, height) of its picture.

    Returns:
        (left, top) of its box; the inside and the outline in that box, uint8 {0, 255} [h, w] both.
    """
    left, top, width, height = (round(value) for value in mask.bbox)
    inside = np.ascontiguousarray(mask.array[top:top + height, left:left + width])
    edge = outline(inside, max(1, round(min(size) / 300)), (top, left, size[1], size[0]))
    return (left, top), inside * np.uint8(255), edge


def save_layers(session: Session, turn: Turn) -> None:
    """Writes what the page shows of an answer's masks, as `layer_name` names it."""
    pictures = session.pictures
    for number, mask in enumerate(turn.masks, 1):
        if mask.area:
            _, *pair = layers(mask, pictures[mask.image_index].size)
            for kind, values in zip(('fill', 'edge'), pair):
                image = Image.fromarray(values // 255)
                image.putpalette([0, 0, 0, *mask_colour(number)])
                image.save(session.path(layer_name(session, turn, number, kind)), 'PNG', transparency=0, bits=1)


def layer_name(session: Session, turn: Turn, number: int, kind: str) -> str:
    """The file of a mask's 'fill' or 'edge'."""
    return f'answer{session.turns.index(turn) + 1}_{number}_{kind}.png'


# ---- the view


def shown_pictures(session: Session, turn: Turn | None) -> list[tuple[int, Picture]]:
    """The pictures to show, each with its number in the conversation, from 1.

    Args:
        session: The conversation.
        turn: Those that came with it, and those that its answer draws on, or else the last one; None: the pending ones.
    """
    numbered = list(enumerate(session.pictures, 1))
    if turn is None:
        return list(enumerate(session.pending, len(numbered) + 1))
    until = turn.before + len(turn.pictures)
    drawn = {mask.image_index + 1 for mask in turn.masks}
    found = [(number, picture) for number, picture in numbered if turn.before < number <= until or number in drawn]
    return found or numbered[max(until - 1, 0):until]


def view_html(session: Session, turn: Turn | None, words: Words) -> str:
    """The pictures, with the masks of an answer."""
    figures = [_figure(session, number, picture, turn, words) for number, picture in shown_pictures(session, turn)]
    if not figures:
        return f'<div class="cv-empty">{html.escape(words.empty)}</div>'
    return f'<div class="cv-view">{"".join(figures)}</div>'


def _figure(session: Session, number: int, picture: Picture, turn: Turn | None, words: Words) -> str:
    width, height = picture.size
    stack = [f'<img class="cv-base" src="{_source(session, picture.file)}" alt="{html.escape(picture.title)}">']
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
    caption = f'<b>{html.escape(words.image.format(number))}</b> {html.escape(picture.title)}, {width} × {height}'
    button = f'<button type="button" class="cv-actual">{html.escape(words.actual_size)}</button>'
    return (f'<figure style="--w:{width};--h:{height}"><div class="cv-frame"><div class="cv-stack">{"".join(stack)}'
            f'</div></div><figcaption><span>{caption}</span>{button}</figcaption></figure>')


def _source(session: Session, name: str) -> str:
    # Relative, for servers behind a path of a proxy.
    return f'{ROUTE}/{session.token}/file/{name}'


# ---- the legend


def legend_html(session: Session, turn: Turn | None, words: Words) -> str:
    """A row for each mask of an answer, with a box to tick, and the downloads."""
    if turn is None or turn.state == 'waiting':
        return ''
    if not turn.masks:
        return f'<p class="cv-none">{html.escape(words.no_masks)}</p>'
    columns = [words.mask, words.phrase, words.area, words.score, words.image.format('').strip()]
    tick_all = f'<label><input type="checkbox" class="cv-all" checked> {html.escape(words.all)}</label>'
    head = ''.join(f'<th>{html.escape(column)}</th>' for column in columns)
    rows = ''.join(_row(i, mask, words) for i, mask in enumerate(turn.masks, 1))
    kinds = {'overlay': words.as_overlay, 'png': words.as_png, 'rle': words.as_rle, 'nifti': words.as_nifti}
    index = session.turns.index(turn)
    links = ''.join(f'<a class="cv-download" data-kind="{kind}" href="{ROUTE}/{session.token}/download/{index}/{kind}">'
                    f'{html.escape(text)}</a>' for kind, text in kinds.items())  # yapf: disable
    note = words.hidden if len(turn.masks) > 1 else ''
    return (f'<table class="cv-legend"><thead><tr><th>{tick_all}</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
            f'<div class="cv-downloads"><span>{html.escape(words.download)}</span>{links}</div>'
            f'<p class="cv-note">{html.escape(note)}</p><p class="cv-problem" role="alert"></p>')


def _row(number: int, mask: MaskResult, words: Words) -> str:
    area, score = (f'{mask.area:,}', f'{mask.score:.2f}') if mask.area else (words.empty_mask, '')
    box = (f'<input type="checkbox" class="cv-tick" data-mask="{number}" checked aria-label="'
           f'{html.escape(words.mask)} {number}">')
    cells = [box, chip(number), html.escape(mask.phrase), html.escape(area), score, str(mask.image_index + 1)]
    return f'<tr data-mask="{number}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def chip(number: int) -> str:
    """The number of a mask on its colour."""
    red, green, blue = mask_colour(number)
    # ITU-R BT.601.
    ink = '#000' if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else '#fff'
    return f'<mark style="background:#{red:02x}{green:02x}{blue:02x};color:{ink}">{number}</mark>'


# ---- the conversation


def chat(session: Session, words: Words) -> list[dict[str, Any]]:
    """The messages for Gradio's Chatbot, Markdown with the chips in it."""
    return [message for turn in session.turns for message in _messages(turn, words)]


def _messages(turn: Turn, words: Words) -> Iterator[dict[str, Any]]:
    names = [f'{words.image.format(number)}: {picture.title}'
             for number, picture in enumerate(turn.pictures, turn.before + 1)]  # yapf: disable
    lines = [f'<small>{_escaped(name)}</small>' for name in names]
    yield {'role': 'user', 'content': '\n'.join([*lines, _escaped(turn.question)])}
    answer = answer_html(turn.answer, len(turn.masks) if turn.state == 'done' else None)
    if turn.state == 'stopped':
        answer += f' <small>{html.escape(words.stopped)}</small>'
    elif turn.state == 'waiting':
        answer += '<span class="cv-caret"></span>'
    yield {'role': 'assistant', 'content': answer or html.escape(words.waiting)}


def answer_html(text: str, num_masks: int | None = None) -> str:
    """An answer as Markdown, each `[SEG]` as the chip of its mask.

    Args:
        text: The answer, or its beginning.
        num_masks: How many masks it has; None: not known yet. Without an image a `[SEG]` has none.
    """
    parts: Sequence[str] = text.split(SEG_TOKEN)
    pieces = [_escaped(parts[0])]
    for number, part in enumerate(parts[1:], 1):
        pieces.append(chip(number) if num_masks is None or number <= num_masks else _escaped(SEG_TOKEN))
        pieces.append(_escaped(part))
    return ''.join(pieces)


def _escaped(text: str) -> str:
    # `![` would fetch a picture from wherever the text says.
    return html.escape(text, quote=False).replace('![', '&#33;[')
