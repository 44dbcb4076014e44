"""Lab results, and the matching of predicted to reference results."""
import difflib
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass

from .abnormality import split_flag
from .canonical import Field, canonical_cell, name_parts, same_cell
from .cell_text import plain_cell

# The columns of full parsing in the paper's order, and the fields of complex questions.
TABLE_FIELDS: tuple[Field, ...] = ('entry_name', 'result', 'reference', 'unit')
JSON_FIELDS: tuple[Field, ...] = ('result', 'reference', 'abnormality')
# Breaks ties between equally similar names by the number of equal cells.
_CONTENT_WEIGHT = 1e-3


@dataclass(frozen=True)
class LabResult:
    """A line of a lab report; cells as written, '' for a missing one."""
    entry_name: str = ''
    result: str = ''
    reference: str = ''
    unit: str = ''
    abnormality: str = ''

    def cell(self, field: Field) -> str:
        """The cell of a field; an empty abnormality is replaced by the flag beside the result."""
        text: str = getattr(self, field)
        if field == 'abnormality' and not canonical_cell(text, field):
            return split_flag(plain_cell(self.result))[1]
        return text

    def has(self, field: Field) -> bool:
        """Whether the canonical cell is not empty; empty cells are not scored."""
        return bool(canonical_cell(self.cell(field), field))


def cells_agree(field: Field, first: LabResult, second: LabResult) -> bool:
    """Whether two lab results agree in a field; see `canonical.same_cell`."""
    if field in ('result', 'reference'):
        units = canonical_cell(first.unit, 'unit'), canonical_cell(second.unit, 'unit')
        return same_cell(field, first.cell(field), second.cell(field), *units)
    return same_cell(field, first.cell(field), second.cell(field))


def match_lab_results(gold: Sequence[LabResult],
                      predicted: Sequence[LabResult],
                      threshold: float,
                      fields: Sequence[Field] = TABLE_FIELDS) -> list[tuple[int, int]]:
    """Matches lab results one to one by name.

    Equal canonical names are matched first. The rest is assigned to maximise the sum of the similarities of at least
    `threshold` (SciPy's `linear_sum_assignment`). Ties are broken by the agreement of the other cells. A single result
    on each side is matched if either has no name.

    Args:
        gold, predicted: Lab results of the reference and of the answer.
        threshold: In [0, 1]; see `name_similarity`.
        fields: Their agreement breaks ties.

    Returns:
        (index in gold, index in predicted), in the order of gold.
    """
    names = [[canonical_cell(result.entry_name, 'entry_name') for result in results] for results in (gold, predicted)]
    if len(gold) == len(predicted) == 1 and not (names[0][0] and names[1][0]):
        return [(0, 0)]
    pairs: list[tuple[int, int]] = []
    for name in dict.fromkeys(names[0]):
        rows, columns = ([i for i, other in enumerate(side) if other == name] for side in names)
        if len(rows) == len(columns) == 1:
            pairs.append((rows[0], columns[0]))
        elif rows and columns:
            weights = 1 + _CONTENT_WEIGHT * _agreement_counts(gold, predicted, rows, columns, fields)
            pairs += [(rows[i], columns[j]) for i, j in best_assignment(weights)]
    rows, columns = unmatched_indices(pairs, len(gold), len(predicted))
    if rows and columns:
        similar = np.array([[name_similarity(names[0][i], names[1][j]) for j in columns] for i in rows])
        weights = similar + _CONTENT_WEIGHT * _agreement_counts(gold, predicted, rows, columns, fields)
        pairs += [(rows[i], columns[j]) for i, j in best_assignment(np.where(similar >= threshold, weights, 0))]
    return sorted(pairs)


def possible_synonyms(gold: Sequence[LabResult],
                      predicted: Sequence[LabResult],
                      pairs: Sequence[tuple[int, int]],
                      fields: Sequence[Field] = TABLE_FIELDS) -> list[tuple[int, int]]:
    """Unmatched lab results that may be one test under two names; a judge decides.

    Both have names and agree in at least one other cell. Each has at most one partner, assigned to maximise agreement.

    Returns:
        (index in gold, index in predicted), in the order of gold.
    """
    rows, columns = unmatched_indices(pairs, len(gold), len(predicted))
    rows = [i for i in rows if gold[i].has('entry_name')]
    columns = [j for j in columns if predicted[j].has('entry_name')]
    if not rows or not columns:
        return []
    agreements = _agreement_counts(gold, predicted, rows, columns, [field for field in fields if field != 'entry_name'])
    return [(rows[i], columns[j]) for i, j in best_assignment(agreements)]


def best_assignment(weights: np.ndarray) -> list[tuple[int, int]]:
    """The one-to-one assignment with the highest sum of weights.

    Args:
        weights: float64 [n, m], not negative; 0 forbids a match.

    Returns:
        At most min(n, m) pairs (row, column), in the order of the rows.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(weights, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns) if weights[i, j] > 0]


def unmatched_indices(pairs: Sequence[tuple[int, int]], num_gold: int,
                      num_predicted: int) -> tuple[list[int], list[int]]:
    """The indices of either side that are in no pair."""
    taken = {i for i, _ in pairs}, {j for _, j in pairs}
    return [i for i in range(num_gold) if i not in taken[0]], [j for j in range(num_predicted) if j not in taken[1]]


def name_similarity(first: str, second: str) -> float:
    """The similarity of two canonical names in [0, 1]: difflib's ratio 2 M / T (M matching characters, T in total).

    At least 0.9 if one is the text outside or inside the other's brackets: '白细胞(WBC)' and 'WBC'. 0 if one is empty.
    """
    if not first or not second:
        return 0.
    ratio = difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
    is_part = first in name_parts(second) or second in name_parts(first)
    return max(ratio, 0.9) if is_part else ratio


def _agreement_counts(gold: Sequence[LabResult], predicted: Sequence[LabResult], rows: Sequence[int],
                      columns: Sequence[int], fields: Sequence[Field]) -> np.ndarray:
    """float64 [rows, columns]: the number of non-empty cells in which two lab results agree."""
    return np.array([[float(_num_agreeing_cells(gold[i], predicted[j], fields)) for j in columns] for i in rows])


def _num_agreeing_cells(first: LabResult, second: LabResult, fields: Sequence[Field]) -> int:
    return sum(first.has(field) and second.has(field) and cells_agree(field, first, second) for field in fields)
