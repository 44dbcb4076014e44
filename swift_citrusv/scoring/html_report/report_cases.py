"""The case cards of the report: the best, the worst and random cases, each with its picture and texts."""
import base64
import io
import math
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass, replace
from PIL import Image

from ..cases import PredictionError
from ..evaluate import Evaluation
from ..task import CaseCard, Measure
from .markup import definition_list, escaped, shortened, text_block

_NUM_SHOWN = 6
# Keeps the page below 3 MB with 18 pictures in base64.
_MAX_BYTES = 100_000
# Wide enough for two images side by side.
_MAX_WIDTH, _MAX_HEIGHT, _MAX_PIXELS = 800, 600, 330_000
_MAX_LINES = 20


@dataclass(frozen=True)
class SelectedCases:
    """Indices of the cases that the report shows.

    Attributes:
        best, worst: The best and the worst cases, the most extreme first; each at most half of the cases. Empty without
            a measure for single cases, or if all cases have the same value.
        others: Random other cases.
    """
    best: tuple[int, ...]
    worst: tuple[int, ...]
    others: tuple[int, ...]


def case_measure(evaluation: Evaluation) -> Measure | None:
    """The first measure that is defined for single cases and finite for some case; None if there is none."""
    for measure in evaluation.task.measures:
        if isinstance(measure, Measure) and measure.per_case is not None:
            values = evaluation.table.columns.get(measure.per_case)
            if values is not None and np.isfinite(values).any():
                return measure
    return None


def select_cases(values: np.ndarray | None, higher_is_better: bool, num_cases: int, seed: int) -> SelectedCases:
    """Selects the cases to show. Ties are broken at random.

    Args:
        values: float64 [num_cases]; cases with non-finite values are neither best nor worst. None for no values.
        higher_is_better: Whether higher values are better.
        num_cases: Number of cases.
        seed: Random seed.
    """
    order = np.random.default_rng(seed).permutation(num_cases)
    best: list[int] = []
    worst: list[int] = []
    if values is not None:
        known = order[np.isfinite(values[order])]
        if len(known) and values[known].min() < values[known].max():
            rising = known[np.argsort(values[known], kind='stable')].tolist()
            best, worst = (rising[::-1], rising) if higher_is_better else (rising, rising[::-1])
            best = best[:min(_NUM_SHOWN, len(rising) - len(rising) // 2)]
            worst = worst[:min(_NUM_SHOWN, len(rising) // 2)]
    taken = {*best, *worst}
    others = [case for case in order.tolist() if case not in taken][:_NUM_SHOWN]
    return SelectedCases(tuple(best), tuple(worst), tuple(sorted(others)))


def case_cards(evaluation: Evaluation, cases: Sequence[int], measure: Measure | None, group: str) -> str:
    """Cases side by side.

    Args:
        evaluation: The evaluation.
        cases: Indices of the cases.
        measure: The measure whose value each card shows.
        group: What the cases are ('best'), for the alt texts of the pictures.
    """
    rows, indices = evaluation.table.rows, evaluation.table.indices
    shown = [_case_card(evaluation, int(rows[case]), int(indices[case])) for case in cases]
    wide = any(item.picture is not None and item.picture.width > 1.5 * item.picture.height for item in shown)
    drawn = [_card_html(evaluation, case, item, measure, group) for case, item in zip(cases, shown)]
    return f'<div class="cards{" wide" if wide else ""}">{"".join(drawn)}</div>'


def image_data_url(picture: Image.Image) -> str:
    """A picture as a data URL: PNG if that is small, or else JPEG of at most 100 kB."""
    picture = _fitted(picture.convert('RGB'))
    content = _encoded(picture, 'PNG')
    kind = 'png'
    if len(content) > _MAX_BYTES // 2:
        kind = 'jpeg'
        # No chroma subsampling, because outlines are thin and coloured. No `optimize`: Pillow's buffer is too small for
        # noise.
        for quality in (90, 80, 65, 45):
            content = _encoded(picture, 'JPEG', quality=quality, subsampling=0)
            if len(content) <= _MAX_BYTES:
                break
        while len(content) > _MAX_BYTES:
            picture = picture.reduce(2)
            content = _encoded(picture, 'JPEG', quality=65)
    return f'data:image/{kind};base64,{base64.b64encode(content).decode("ascii")}'


def _fitted(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    scale = min(1., _MAX_WIDTH / width, _MAX_HEIGHT / height, math.sqrt(_MAX_PIXELS / (width * height)))
    if scale == 1:
        return picture
    return picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)


def _encoded(picture: Image.Image, kind: str, **settings: int | bool) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def _case_card(evaluation: Evaluation, row: int, index: int) -> CaseCard:
    pair = evaluation.pairs.pair(row)
    # Under its own id, where it has one.
    title = evaluation.table.row_title(row)
    try:
        return _titled(evaluation.task.show(pair, index), pair.name, title)
    except PredictionError as e:
        # Shown as it was scored: without its prediction.
        shown = evaluation.task.show(replace(pair, prediction=None), index)
        return _titled(replace(shown, lines=(*shown.lines, ('problem', str(e)))), pair.name, title)


def _titled(card: CaseCard, name: str, title: str) -> CaseCard:
    return replace(card, title=card.title.replace(name, title, 1))


def _card_html(evaluation: Evaluation, case: int, card: CaseCard, measure: Measure | None, group: str) -> str:
    table = evaluation.table
    name, title = table.case_name(case), shortened(card.title, 160)
    visible = [title, *(text for _, text in card.lines)]
    groups = [f'{column}: {texts[case]}' for column, texts in table.groups.items() if texts[case]]
    facts = ' · '.join(shortened(fact, 80) for fact in [*([] if table.names[table.rows[case]] in title else [name]),
                                                        *groups])  # yapf: disable
    flags = ''.join(f'<span class="flag">{escaped(flag)}</span>' for flag, cases in sorted(table.flags.items())
                    if case in cases and not any(flag in text for text in visible))  # yapf: disable
    picture = ''
    if card.picture is not None:
        about = '; '.join([title, *(f'{caption}: {shortened(text, 120)}' for caption, text in card.lines[:3])])
        url = image_data_url(card.picture)
        # Small pictures are enlarged without smoothing.
        small = ' class="small"' if card.picture.width < 200 else ''
        picture = (f'<img{small} src="{url}" width="{card.picture.width}" height="{card.picture.height}" '
                   f'alt="{escaped(f"{group} case, {about}")}">')  # yapf: disable
    lines = [(caption, text_block(text)) for caption, text in card.lines[:_MAX_LINES]]
    if len(card.lines) > _MAX_LINES:
        lines.append(('more', f'{len(card.lines) - _MAX_LINES} lines are not shown'))
    value = f'<span class="score">{escaped(_value_text(evaluation, case, measure))}</span>' if measure else ''
    texts = definition_list(lines)
    return (f'<article class="card"><div class="title"><h4 dir="auto">{escaped(title)}</h4>{value}</div>'
            f'<p class="dim" dir="auto">{escaped(facts)} {flags}</p>{picture}{texts}</article>')


def _value_text(evaluation: Evaluation, case: int, measure: Measure) -> str:
    assert measure.per_case is not None
    value = float(evaluation.table.columns[measure.per_case][case])
    if math.isnan(value):
        return f'{measure.label} not defined'
    return f'{measure.label} {value * (100 if measure.percent else 1):.{measure.digits}f}{" %" * measure.percent}'
