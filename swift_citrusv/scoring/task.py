"""The interface of a task of `citrusv eval`: cases with values, and measures that turn them into scores.

A case is the smallest unit that is scored: a mask, a question, a document. It has a number for each column. A measure
is a formula over the sums of columns. So the scores of any subset of the cases, and of any resampling, follow from sums
alone: the bootstrap, the groups and the paired test do not depend on the task.
"""
import numpy as np
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from PIL import Image
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .cases import Case, Pair

if TYPE_CHECKING:
    from .table import CaseTable

Formula = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A score that is a formula over sums of columns.

    Attributes:
        name: Name in tables and JSON: 'dice', 'precision_at_0.5'.
        columns: Columns of the cases. The formula gets, for each, the sum of its values, then the number of cases in
            which it is not NaN.
        formula: float64 [..., 2 * len(columns)] -> [...]; NaN if the score is undefined.
        percent: Whether tables show it as a percentage.
        higher_is_better: False for distances.
        digits: Decimal places in tables.
        per_case: The column that holds the score of a single case; None if there is none.
        unit: The unit, or what the score depends on, for tables and plots: 'mm', '2 px'; '' for none.
    """
    name: str
    columns: tuple[str, ...]
    formula: Formula
    percent: bool = True
    higher_is_better: bool = True
    digits: int = 2
    per_case: str | None = None
    unit: str = ''

    @property
    def label(self) -> str:
        """'hd95 (mm)', 'nsd (2 px)': the name with its unit."""
        return f'{self.name} ({self.unit})' if self.unit else self.name


@dataclass(frozen=True)
class CorpusMeasure:
    """A score that needs all cases at once (average precision).

    Attributes:
        name: Name in tables and JSON.
        score: Maps the `Case.data` of all cases, and how often each counts (int64 [number of cases]), to the score.
        percent, higher_is_better, digits: As in `Measure`.
    """
    name: str
    score: Callable[[Sequence[Any], np.ndarray], float]
    percent: bool = True
    higher_is_better: bool = True
    digits: int = 2

    @property
    def label(self) -> str:
        """As in `Measure`."""
        return self.name


@dataclass(frozen=True)
class CaseCard:
    """A case as the HTML report shows it.

    Attributes:
        title: Short plain text.
        picture: RGB; None for a case without an image.
        lines: (caption, text) pairs below the picture. Plain text: the report escapes it.
    """
    title: str
    picture: Image.Image | None = None
    lines: tuple[tuple[str, str], ...] = ()


class Task(Protocol):
    """A task: a frozen dataclass whose fields are its command-line options, all JSON serialisable.

    Attributes:
        NAME: Name on the command line of `citrusv eval`.
        TITLE: Title in the report.
    """
    NAME: ClassVar[str]
    TITLE: ClassVar[str]

    @property
    def measures(self) -> tuple[Measure | CorpusMeasure, ...]:
        """The scores, the most important one first."""

    @property
    def rules(self) -> dict[str, str]:
        """The scoring rules by name; copied verbatim into the report."""

    def score(self, pair: Pair) -> list[Case]:
        """The cases of a row; their number does not depend on whether there is a prediction.

        Raises:
            RowError: The reference is invalid; ends the evaluation.
            PredictionError: The prediction is invalid; the row is scored again without it.
        """

    def complete(self, table: 'CaseTable') -> None:
        """Called after all rows: adds columns that need all cases. Most tasks add none."""

    def show(self, pair: Pair, index: int) -> CaseCard:
        """The case `index` of a row, for the HTML report."""


def mean(name: str, column: str | None = None, **shown: Any) -> Measure:
    """The mean of a column over the cases in which it is defined.

    Args:
        name: Name of the measure.
        column: The column; `name` by default.
        shown: Other fields of `Measure`.
    """
    column = column or name
    return Measure(name, (column, ), lambda sums: divide_or_nan(sums[..., 0], sums[..., 1]), per_case=column, **shown)


def ratio(name: str, numerator: str, denominator: str, **shown: Any) -> Measure:
    """The sum of one column over the sum of another, as in micro averages and cIoU."""
    return Measure(name, (numerator, denominator), lambda sums: divide_or_nan(sums[..., 0], sums[..., 2]), **shown)


def f1(name: str, true_positives: str, predicted: str, actual: str, **shown: Any) -> Measure:
    """2 TP / (predicted + actual), from counts in three columns; NaN if predicted + actual is 0."""
    return Measure(name, (true_positives, predicted, actual),
                   lambda sums: divide_or_nan(2 * sums[..., 0], sums[..., 2] + sums[..., 4]), **shown)


def divide_or_nan(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient; NaN where the denominator is 0. Broadcasts."""
    return np.divide(numerator, denominator, out=np.full(np.broadcast(numerator, denominator).shape, np.nan),
                     where=np.asarray(denominator) != 0)  # yapf: disable
