"""A task for the tests of the HTML report: answers are discs; and the parsed page of a report."""
import dataclasses
import json
import math
import numpy as np
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from PIL import Image
from typing import Any, ClassVar

from swift_citrusv.scoring.cases import Case, Pair, PredictionError
from swift_citrusv.scoring.evaluate import Evaluation, EvaluationSettings, evaluate
from swift_citrusv.scoring.html_report.report import report_html
from swift_citrusv.scoring.task import CaseCard, CorpusMeasure, mean, ratio

RULES = {'both empty': 'dice and iou are 1, "by rule" & by <b>reason</b>', 'no answer': 'scored as 0'}
SIZE = 96


def disc(circle: Any) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.hypot(rows - circle[0], columns - circle[1]) <= circle[2]


@dataclass(frozen=True)
class DiscsTask:
    """Discs `[row, column, radius]` against the disc of an answer.

    Attributes:
        per_case: Whether scores are defined for single cases.
        noisy: Whether pictures are noise, which is the hardest to compress.
    """
    per_case: bool = True
    noisy: bool = False

    NAME: ClassVar[str] = 'discs'
    TITLE: ClassVar[str] = 'Discs'

    @property
    def measures(self) -> tuple[Any, ...]:
        every = (mean('dice'), mean('iou'), ratio('ciou', 'intersection', 'union'), mean('hit'),
                 mean('far', percent=False, higher_is_better=False),
                 CorpusMeasure('count', lambda data, weights: float(weights.sum()), percent=False))  # yapf: disable
        if self.per_case:
            return every
        return tuple(
            dataclasses.replace(measure, per_case=None) if not isinstance(measure, CorpusMeasure) else measure
            for measure in every)

    @property
    def rules(self) -> dict[str, str]:
        return RULES

    def score(self, pair: Pair) -> list[Case]:
        given = (pair.prediction or {}).get('disc', 'nothing')
        if given is None:
            raise PredictionError("'disc' is null")
        cases = []
        for disc_of_row in pair.reference['discs']:
            target = disc(disc_of_row)
            drawn = np.zeros_like(target) if given == 'nothing' else disc(given)
            both, either = int((target & drawn).sum()), int((target | drawn).sum())
            values = {'dice': 2 * both / (target.sum() + drawn.sum()), 'iou': both / either}
            if pair.reference.get('undefined'):
                values = dict.fromkeys(values, math.nan)
            far = math.nan if given == 'nothing' else math.dist(given[:2], disc_of_row[:2])
            values |= {'intersection': both, 'union': either, 'hit': float(both > 0), 'far': far}
            cases.append(Case(values, ('no_answer', ) if given == 'nothing' else (), data=1))
        return cases

    def complete(self, table: Any) -> None:
        pass

    def show(self, pair: Pair, index: int) -> CaseCard:
        if (pair.prediction or {}).get('disc', '') is None:
            raise PredictionError("'disc' is null")
        title = pair.reference.get('title', f'{pair.name}, disc {index}')
        lines = (('question', pair.reference.get('question', 'Where?')),
                 ('answer', str((pair.prediction or {}).get('response', ''))))  # yapf: disable
        return CaseCard(title, picture_of(pair, index, self.noisy), lines)


def picture_of(pair: Pair, index: int, noisy: bool = False) -> Image.Image | None:
    if pair.reference.get('blind'):
        return None
    if noisy:
        generator = np.random.default_rng(len(pair.name) + index)
        return Image.fromarray(generator.integers(0, 256, (600, 800, 3), np.uint8))
    canvas = np.full((SIZE, SIZE, 3), 40, np.uint8)
    canvas[disc(pair.reference['discs'][index])] = (0, 158, 115)
    return Image.fromarray(canvas)


def disc_rows(number: int, **columns: Any) -> list[dict[str, Any]]:
    generator = np.random.default_rng(number)
    return [{
        'id': f'r{i}',
        'discs': [[*generator.uniform(30, 60, 2).round(1).tolist(), 15.] for _ in range(1 + (i % 10 == 9))],
        'patient': f'p{i // 2}',
        'organ': ('liver', 'left kidney', 'spleen')[i % 3],
        **{name: value[i % len(value)] if isinstance(value, list) else value for name, value in columns.items()}
    } for i in range(number)]  # yapf: disable


def disc_answers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [{
        'id': row['id'],
        'disc': [*(np.array(row['discs'][0][:2]) + generator.normal(0, 6, 2)).round(1).tolist(), 15.],
        'response': 'There.'
    } for row in rows]  # yapf: disable


class Page(HTMLParser):
    """The tags of a report with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.parts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {name: value or '' for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != [('style', {})]:
            self.parts.append(data)

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return ' '.join(''.join(self.parts).split())


def page_of(evaluation: Evaluation) -> Page:
    return Page(report_html(evaluation, '1.2.3'))


def evaluate_discs(folder: Path,
                   rows: Any,
                   answers: Any = None,
                   task: Any = DiscsTask(),
                   **settings: Any) -> Evaluation:
    files = folder / 'ref.jsonl', folder / 'pred.jsonl'
    for file, lines in zip(files, (rows, disc_answers(rows) if answers is None else answers)):
        # In ASCII: texts may have lone surrogates.
        file.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    return evaluate(task, str(files[0]), str(files[1]), EvaluationSettings(**{'repeats': 100, **settings}))


HOSTILE = ('<script>alert(1)</script><img src=x onerror=alert(2)>', 'lone \ud83d surrogate and \0 and \x1b[31m',
           '\u202eright to left', 'مرحبا بالعالم', '所有的肿瘤', '"><svg onload=alert(3)>', "' onclick='alert(4)",
           '</title></style></details></section>', '&lt;b&gt; &amp;')  # yapf: disable
