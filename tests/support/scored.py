"""A task for the tests of `swift_citrusv.scoring`: answers are numbers, scored by their distance to the right ones."""
import numpy as np
from dataclasses import dataclass
from pathlib import Path
from support.rows import write_jsonl
from typing import Any, ClassVar

from swift_citrusv.errors import RowError
from swift_citrusv.scoring.cases import Case, Pair, PredictionError
from swift_citrusv.scoring.evaluate import Evaluation, EvaluationSettings, evaluate
from swift_citrusv.scoring.task import CaseCard, CorpusMeasure, f1, mean, ratio


def weighted_median(data: Any, weights: Any) -> float:
    values = sorted(value for value, weight in zip(data, weights) for _ in range(weight))
    return values[len(values) // 2]


@dataclass(frozen=True)
class NumbersTask:
    """`numbers` of a row against `numbers` of its prediction; a case each."""
    digits: int = 2

    NAME: ClassVar[str] = 'numbers'
    TITLE: ClassVar[str] = 'Numbers'

    @property
    def measures(self) -> tuple[Any, ...]:
        return (mean('near'), ratio('micro', 'hit', 'one'), f1('f1', 'hit', 'one', 'one'),
                mean('far', percent=False, higher_is_better=False),
                CorpusMeasure('median', weighted_median, percent=False))  # yapf: disable

    @property
    def rules(self) -> dict[str, str]:
        return {'missing': 'A number that is missing is 100 away.'}

    def score(self, pair: Pair) -> list[Case]:
        wanted = pair.reference.get('numbers')
        if not isinstance(wanted, list):
            raise RowError(pair.name, 'the row has no numbers.', 'Write some.')
        given = (pair.prediction or {}).get('numbers', [None] * len(wanted))
        if not isinstance(given, list) or len(given) != len(wanted):
            raise PredictionError(f"'numbers' is {given!r}")
        cases = []
        for right, value in zip(wanted, given):
            away = 100. if value is None else float(abs(value - right))
            groups = {'sign': 'negative' if right < 0 else 'positive'}
            flags = ('nothing', ) if value is None else ()
            values = {'near': max(0., 1 - away / 100), 'hit': float(away == 0), 'one': 1., 'far': away}
            if value is None:
                values['far'] = float('nan')
            cases.append(Case(values, flags, groups, away))
        return cases

    def complete(self, table: Any) -> None:
        pass

    def show(self, pair: Pair, index: int) -> CaseCard:
        return CaseCard(pair.name, None, (('reference', str(pair.reference)), ))


def number_rows(number: int, **columns: Any) -> list[dict[str, Any]]:
    """Rows with one to three numbers; two rows share an image."""
    generator = np.random.default_rng(0)
    return [{
        'id': f'r{i}',
        'numbers': [int(value) for value in generator.integers(-50, 50, 1 + i % 3)],
        'images': [f'{i // 2}.png'],
        'organ': ('liver', 'lung')[i % 2],
        **{name: values[i % len(values)] for name, values in columns.items()}
    } for i in range(number)]  # yapf: disable


def number_answers(rows: list[dict[str, Any]], away: int = 0) -> list[dict[str, Any]]:
    """A prediction for each row, `away` from the right numbers."""
    return [{'id': row['id'], 'numbers': [number + away for number in row['numbers']]} for row in rows]


def evaluate_numbers(folder: Path, rows: list[dict[str, Any]], predictions: list[dict[str, Any]],
                     **settings: Any) -> Evaluation:
    return evaluate(NumbersTask(), write_jsonl(folder / 'ref.jsonl', rows),
                    write_jsonl(folder / 'pred.jsonl', predictions), EvaluationSettings(**{
                        'repeats': 50,
                        **settings
                    }))


TASK = NumbersTask
