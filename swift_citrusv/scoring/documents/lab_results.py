"""Entries of lab reports, and which of an answer belongs to which of the reference."""
import difflib
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass

from .abnormality import split_flag
from .canonical import Field, agree, canonical, name_parts
from .cell_text import plain_cell

# The columns of a full parsing, in the paper's order, and what a complex answer has.
TABLE_FIELDS: tuple[Field, ...] = ('entry_name', 'result', 'reference', 'unit')
JSON_FIELDS: tuple[Field, ...] = ('result', 'reference', 'abnormality')
# Of names that resemble each other alike, those with more equal cells go together.
_CONTENT_WEIGHT = 1e-3


@dataclass(frozen=True)
class Entry:
    """A line of a lab report, its cells as they were written; '' for a cell that is not there."""
    entry_name: str = ''
    result: str = ''
    reference: str = ''
    unit: str = ''
    abnormality: str = ''

    def of(self, field: Field) -> str:
        """The cell of a field; for an abnormality that is not stated, the flag beside the result."""
        text: str = getattr(self, field)
        if field == 'abnormality' and not canonical(text, field):
            return split_flag(plain_cell(self.result))[1]
        return text

    def has(self, field: Field) -> bool:
        """Whether the cell counts: it is not empty in its canonical form."""
        return bool(canonical(self.of(field), field))


def agrees(field: Field, first: Entry, second: Entry) -> bool:
    """Whether the cells of a field say the same in two entries; see `canonical.agree`."""
    if field in ('result', 'reference'):
        units = canonical(first.unit, 'unit'), canonical(second.unit, 'unit')
        return agree(field, first.of(field), second.of(field), *units)
    return agree(field, first.of(field), second.of(field))


def match_entries(gold: Sequence[Entry],
                  predicted: Sequence[Entry],
                  threshold: float,
                  fields: Sequence[Field] = TABLE_FIELDS) -> list[tuple[int, int]]:
    """Matches entries by their names, each with one at most.

    Equal canonical names first; among several of one name, and of similarities that are alike, those whose other cells
    agree. What is left is assigned so that the sum of similarities of at least `threshold` is highest (SciPy's
    `linear_sum_assignment`). One entry on either side, of which one has no name, is matched.

    Args:
        gold, predicted: The entries.
        threshold: In [0, 1]; see `similarity`.
        fields: Whose agreement decides among equals.

    Returns:
        (place in gold, place in predicted), in the order of gold.
    """
    names = [[canonical(entry.entry_name, 'entry_name') for entry in entries] for entries in (gold, predicted)]
    if len(gold) == len(predicted) == 1 and not (names[0][0] and names[1][0]):
        return [(0, 0)]
    pairs: list[tuple[int, int]] = []
    for name in dict.fromkeys(names[0]):
        rows, columns = ([i for i, other in enumerate(side) if other == name] for side in names)
        if len(rows) == len(columns) == 1:
            pairs.append((rows[0], columns[0]))
        elif rows and columns:
            weights = 1 + _CONTENT_WEIGHT * _agreements(gold, predicted, rows, columns, fields)
            pairs += [(rows[i], columns[j]) for i, j in assign(weights)]
    rows, columns = open_places(pairs, len(gold), len(predicted))
    if rows and columns:
        similar = np.array([[similarity(names[0][i], names[1][j]) for j in columns] for i in rows])
        weights = similar + _CONTENT_WEIGHT * _agreements(gold, predicted, rows, columns, fields)
        pairs += [(rows[i], columns[j]) for i, j in assign(np.where(similar >= threshold, weights, 0))]
    return sorted(pairs)


def candidates(gold: Sequence[Entry],
               predicted: Sequence[Entry],
               pairs: Sequence[tuple[int, int]],
               fields: Sequence[Field] = TABLE_FIELDS) -> list[tuple[int, int]]:
    """Of the entries that no pair has: those that may be one test under two names, for a judge to decide.

    They have names, and agree in another cell at least; each has one partner, so that most cells agree.
    """
    rows, columns = open_places(pairs, len(gold), len(predicted))
    rows = [i for i in rows if gold[i].has('entry_name')]
    columns = [j for j in columns if predicted[j].has('entry_name')]
    if not rows or not columns:
        return []
    agreements = _agreements(gold, predicted, rows, columns, [field for field in fields if field != 'entry_name'])
    return [(rows[i], columns[j]) for i, j in assign(agreements)]


def assign(weights: np.ndarray) -> list[tuple[int, int]]:
    """The assignment with the highest sum of weights.

    Args:
        weights: float64 [n, m], not negative; 0 where two must not be matched.

    Returns:
        (row, column) in the order of the rows; at most min(n, m).
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(weights, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns) if weights[i, j] > 0]


def open_places(pairs: Sequence[tuple[int, int]], num_gold: int, num_predicted: int) -> tuple[list[int], list[int]]:
    """The places on either side that no pair has."""
    taken = {i for i, _ in pairs}, {j for _, j in pairs}
    return [i for i in range(num_gold) if i not in taken[0]], [j for j in range(num_predicted) if j not in taken[1]]


def similarity(first: str, second: str) -> float:
    """How alike two canonical names are, from 0 to 1: 2 M / T of difflib (M equal characters in order, T characters).

    0.9 at least where one is what stands outside or inside of the other's brackets: '白细胞(WBC)' and 'WBC'. 0 where one
    is empty.
    """
    if not first or not second:
        return 0.
    ratio = difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
    is_part = first in name_parts(second) or second in name_parts(first)
    return max(ratio, 0.9) if is_part else ratio


def _agreements(gold: Sequence[Entry], predicted: Sequence[Entry], rows: Sequence[int], columns: Sequence[int],
                fields: Sequence[Field]) -> np.ndarray:
    """float64 [rows, columns]: in how many cells, not empty, two entries agree."""
    return np.array([[float(_agreement(gold[i], predicted[j], fields)) for j in columns] for i in rows])


def _agreement(first: Entry, second: Entry, fields: Sequence[Field]) -> int:
    return sum(first.has(field) and second.has(field) and agrees(field, first, second) for field in fields)
