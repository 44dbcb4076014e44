"""Cases as the report shows them: the best, the worst and some at random, each with its picture and its texts."""
import base64
import io
import math
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass, replace
from PIL import Image

from ..cases import PredictionError
from ..evaluate import Evaluation
from ..task import Measure, Shown
from .markup import escaped, folded, items, shortened

_NUM_SHOWN = 6
# 18 pictures make less than 3 MB, as base64 and with the rest of the page.
_MAX_BYTES = 100_000
# A picture with two images beside each other is wide, and may be.
_MAX_WIDTH, _MAX_HEIGHT, _MAX_PIXELS = 800, 600, 330_000
_MAX_LINES = 20


@dataclass(frozen=True)
class Chosen:
    """Numbers of the cases that are shown.

    Attributes:
        best, worst: By the value, from the best and from the worst on; at most half of the cases each. None are with
            no measure for single cases, or where all cases are alike.
        others: Drawn from the rest.
    """
    best: tuple[int, ...]
    worst: tuple[int, ...]
    others: tuple[int, ...]


def case_measure(evaluation: Evaluation) -> Measure | None:
    """The first measure that says how good a single case is; None where none does for any case."""
    for measure in evaluation.task.measures:
        if isinstance(measure, Measure) and measure.per_case is not None:
            values = evaluation.table.columns.get(measure.per_case)
            if values is not None and np.isfinite(values).any():
                return measure
    return None


def choose(values: np.ndarray | None, higher_is_better: bool, num_cases: int, seed: int) -> Chosen:
    """Chooses cases to look at; among those with the same value it draws.

    Args:
        values: float64 [num_cases]; cases that are not finite are neither good nor bad. None: there are no values.
        higher_is_better: Else lower is.
        num_cases: How many there are.
        seed: Of the draws.
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
    return Chosen(tuple(best), tuple(worst), tuple(sorted(others)))


def cards(evaluation: Evaluation, cases: Sequence[int], measure: Measure | None, group: str) -> str:
    """Cases beside each other.

    Args:
        evaluation: That they are of.
        cases: Their numbers.
        measure: Whose value of the case stands with it.
        group: What they are ('best'), for alternative texts.
    """
    rows, indices = evaluation.table.rows, evaluation.table.indices
    shown = [_shown(evaluation, int(rows[case]), int(indices[case])) for case in cases]
    wide = any(item.picture is not None and item.picture.width > 1.5 * item.picture.height for item in shown)
    drawn = [_card(evaluation, case, item, measure, group) for case, item in zip(cases, shown)]
    return f'<div class="cards{" wide" if wide else ""}">{"".join(drawn)}</div>'


def data_uri(picture: Image.Image) -> str:
    """A picture as a data URI: PNG where that is small, or else JPEG of at most 100 kB."""
    picture = _fitted(picture.convert('RGB'))
    content = _encoded(picture, 'PNG')
    kind = 'png'
    if len(content) > _MAX_BYTES // 2:
        kind = 'jpeg'
        # Without chroma subsampling: outlines are thin and coloured. Not `optimize`: its buffer in Pillow is too small
        # for noise.
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


def _shown(evaluation: Evaluation, row: int, index: int) -> Shown:
    pair = evaluation.pairs.pair(row)
    try:
        return evaluation.task.show(pair, index)
    except PredictionError as e:
        # Scored without its prediction, and so it is shown.
        shown = evaluation.task.show(replace(pair, prediction=None), index)
        return replace(shown, lines=(*shown.lines, ('problem', str(e))))


def _card(evaluation: Evaluation, case: int, shown: Shown, measure: Measure | None, group: str) -> str:
    table = evaluation.table
    name, title = table.case_name(case), shortened(shown.title, 160)
    said = [title, *(text for _, text in shown.lines)]
    groups = [f'{column}: {texts[case]}' for column, texts in table.groups.items() if texts[case]]
    facts = ' · '.join(shortened(fact, 80) for fact in [*([] if table.names[table.rows[case]] in title else [name]),
                                                        *groups])  # yapf: disable
    flags = ''.join(f'<span class="flag">{escaped(flag)}</span>' for flag, cases in sorted(table.flags.items())
                    if case in cases and not any(flag in text for text in said))  # yapf: disable
    picture = ''
    if shown.picture is not None:
        about = '; '.join([title, *(f'{caption}: {shortened(text, 120)}' for caption, text in shown.lines[:3])])
        uri = data_uri(shown.picture)
        # Few pixels are shown as pixels.
        small = ' class="small"' if shown.picture.width < 200 else ''
        picture = (f'<img{small} src="{uri}" width="{shown.picture.width}" height="{shown.picture.height}" '
                   f'alt="{escaped(f"{group} case, {about}")}">')  # yapf: disable
    lines = [(caption, folded(text)) for caption, text in shown.lines[:_MAX_LINES]]
    if len(shown.lines) > _MAX_LINES:
        lines.append(('more', f'{len(shown.lines) - _MAX_LINES} lines are left out here'))
    value = f'<span class="score">{escaped(_value(evaluation, case, measure))}</span>' if measure else ''
    return (f'<article class="card"><div class="title"><h4 dir="auto">{escaped(title)}</h4>{value}</div>'
            f'<p class="dim" dir="auto">{escaped(facts)} {flags}</p>{picture}{items(lines)}</article>')  # yapf: disable


def _value(evaluation: Evaluation, case: int, measure: Measure) -> str:
    assert measure.per_case is not None
    value = float(evaluation.table.columns[measure.per_case][case])
    if math.isnan(value):
        return f'{measure.name} not defined'
    return f'{measure.name} {value * (100 if measure.percent else 1):.{measure.digits}f}{" %" * measure.percent}'
