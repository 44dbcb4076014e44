"""A row with its prediction, and the cases that are scored in it."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class PredictionError(ValueError):
    """A malformed prediction: counted as such, listed in the report, and scored as if it were missing.

    Args:
        problem: What is wrong, with the value.
    """


@dataclass(frozen=True)
class Pair:
    """A row of the reference file with its prediction.

    Attributes:
        name: The row's name in messages: 'test.jsonl:12'.
        reference: The row, unchanged.
        prediction: The prediction; None if it is missing or not valid JSON.
    """
    name: str
    reference: Mapping[str, Any]
    prediction: Mapping[str, Any] | None


@dataclass
class Case:
    """The smallest unit that is scored: a mask, a question, a document.

    Attributes:
        values: Value by column. NaN means undefined for this case: measures ignore it.
        flags: Notable properties ('missing_seg', 'unparsable', ...), counted in the report.
        groups: Group by column, in addition to the groups of the row ('structure', ...).
        data: What a `CorpusMeasure` needs; must be JSON serialisable.
    """
    values: dict[str, float]
    flags: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)
    data: Any = None
