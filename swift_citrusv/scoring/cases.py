"""A case: one thing that is scored, of a row and its prediction."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class PredictionError(ValueError):
    """A prediction that cannot be scored: counted as malformed, named in the report, and scored as a missing one.

    Args:
        problem: What is wrong, with the value.
    """


@dataclass(frozen=True)
class Pair:
    """A row of the reference file with its prediction.

    Attributes:
        name: Of the row, for messages: 'test.jsonl:12'.
        reference: The row as the file has it.
        prediction: The line that answers it; None: there is none, or none that can be read.
    """
    name: str
    reference: Mapping[str, Any]
    prediction: Mapping[str, Any] | None


@dataclass
class Case:
    """One thing that is scored.

    Attributes:
        values: By column. NaN where a value is not defined for this case: the measures leave it out.
        flags: What is remarkable about it ('missing_seg', 'unparsable', ...); each is counted in the report.
        groups: Groups beside those of the row ('structure', ...).
        data: What a `Corpus` measure needs, as JSON can hold it.
    """
    values: dict[str, float]
    flags: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)
    data: Any = None
