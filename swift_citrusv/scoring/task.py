"""What a task of `citrusv eval` gives: cases with values, and measures that make scores of them.

A case is the smallest thing that is scored: a mask, a question, a document. Its values are numbers by column. A measure
is a formula over the sums of columns, so that a score of any part of the cases, and of any resampling of them, follows
from sums alone: the bootstrap, the groups and the paired test know nothing of tasks.
"""
import numpy as np
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from PIL import Image
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .cases import Case, Pair

if TYPE_CHECKING:
    from .table import Table

Formula = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A score that follows from sums over the cases.

    Attributes:
        name: In tables and JSON: 'dice', 'precision_at_0.5'.
        columns: Columns of the cases. The formula sees, for each, the sum of its values and then the number of cases
            in which it is not NaN.
        formula: float64 [..., 2 * len(columns)] -> [...]; NaN where the score is not defined.
        percent: Whether tables show it as a percentage.
        higher_is_better: Else lower is (distances).
        digits: Behind the point, in tables.
        per_case: The column of the cases that shows how good a single one is; None where there is no such.
    """
    name: str
    columns: tuple[str, ...]
    formula: Formula
    percent: bool = True
    higher_is_better: bool = True
    digits: int = 2
    per_case: str | None = None


@dataclass(frozen=True)
class Corpus:
    """A score that does not follow from sums (average precision).

    Attributes:
        name: In tables and JSON.
        score: The `Case.data` of all cases and how often each counts, int64 [number of cases], to the score.
        percent, higher_is_better, digits: As in `Measure`.
    """
    name: str
    score: Callable[[Sequence[Any], np.ndarray], float]
    percent: bool = True
    higher_is_better: bool = True
    digits: int = 2


@dataclass(frozen=True)
class Shown:
    """A case as the report shows it.

    Attributes:
        title: Short.
        picture: RGB; None where there is nothing to look at.
        lines: (caption, text) pairs below it; plain text, escaped by the report.
    """
    title: str
    picture: Image.Image | None = None
    lines: tuple[tuple[str, str], ...] = ()


class Task(Protocol):
    """A frozen dataclass whose fields are the options of the command line, each a value that JSON can hold.

    Attributes:
        NAME: As `citrusv eval` calls it.
        TITLE: For the report.
    """
    NAME: ClassVar[str]
    TITLE: ClassVar[str]

    @property
    def measures(self) -> tuple[Measure | Corpus, ...]:
        """The scores, the most important one first."""

    @property
    def rules(self) -> dict[str, str]:
        """How what could be scored in several ways is scored, by name; goes into the report, word for word."""

    def score(self, pair: Pair) -> list[Case]:
        """The cases of a row; the same number whether or not there is a prediction.

        Raises:
            RowError: The reference cannot be read; the evaluation ends.
            PredictionError: The prediction cannot; it is scored once more without.
        """

    def complete(self, table: 'Table') -> None:
        """After all rows: adds columns that need all cases (`table.columns`, `table.data`). Usually nothing."""

    def show(self, pair: Pair, index: int) -> Shown:
        """The case `index` of a row, for the report."""


def mean(name: str, column: str | None = None, **shown: Any) -> Measure:
    """The mean of a column over the cases in which it is defined.

    Args:
        name: Of the measure.
        column: By default `name`.
        shown: Other fields of `Measure`.
    """
    column = column or name
    return Measure(name, (column, ), lambda sums: divided(sums[..., 0], sums[..., 1]), per_case=column, **shown)


def ratio(name: str, numerator: str, denominator: str, **shown: Any) -> Measure:
    """The sum of one column over the sum of another, as in micro averages and cIoU."""
    return Measure(name, (numerator, denominator), lambda sums: divided(sums[..., 0], sums[..., 2]), **shown)


def f1(name: str, true_positives: str, predicted: str, actual: str, **shown: Any) -> Measure:
    """2 TP / (predicted + actual), from counts in three columns; NaN where both are 0."""
    return Measure(name, (true_positives, predicted, actual),
                   lambda sums: divided(2 * sums[..., 0], sums[..., 2] + sums[..., 4]), **shown)


def divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.broadcast(numerator, denominator).shape, np.nan),
                     where=np.asarray(denominator) != 0)  # yapf: disable
