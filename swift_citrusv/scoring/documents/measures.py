"""The measures of `citrusv eval documents` by subtask: the columns of table 7 of the paper."""
import numpy as np

from ..bootstrap import mean_of_known
from ..task import Measure, divide_or_nan, f1, mean, ratio
from .canonical import Field
from .lab_results import JSON_FIELDS, TABLE_FIELDS

# The subtask of a row is its column in table 7.
SUBTASKS = ('parsing', 'simple_qa', 'complex_qa', 'gmd_simple_qa', 'gmd_complex_qa', 'gmd')
# A column of every case, if rows have different subtasks.
ROWS = 'rows'
SCORED_FIELDS: dict[str, tuple[Field, ...]] = {'parsing': TABLE_FIELDS, 'complex_qa': JSON_FIELDS}


def subtask_measures(subtask: str, prefix: str, judged: bool) -> tuple[Measure, ...]:
    """All measures of a subtask; `prefix` starts their names and columns."""
    if subtask.startswith('gmd'):
        return (mean(f'{prefix}score'), )
    if subtask == 'simple_qa':
        found = mean(f'{prefix}accuracy', f'{prefix}correct')
        return (found, mean(f'{prefix}accuracy_by_rules', f'{prefix}correct_by_rules')) if judged else (found, )
    right, predicted, gold = (f'{prefix}{name}' for name in ('tp', 'predicted', 'gold'))
    measures = [
        f1(f'{prefix}f1', right, predicted, gold, per_case=f'{prefix}document_f1'),
        ratio(f'{prefix}precision', right, predicted, per_case=f'{prefix}document_precision'),
        ratio(f'{prefix}recall', right, gold, per_case=f'{prefix}document_recall'),
        *(mean(f'{prefix}macro_{name}', f'{prefix}document_{name}') for name in ('f1', 'precision', 'recall')),
        *(f1(f'{prefix}{name}_f1', *(f'{column}_{name}' for column in (right, predicted, gold)))
          for name in SCORED_FIELDS[subtask])
    ]  # yapf: disable
    if judged:
        measures.append(f1(f'{prefix}f1_by_rules', f'{right}_by_rules', predicted, gold))
    return tuple(measures)


def average_over_subtasks() -> Measure:
    """The mean over the columns of table 7 that have rows."""
    columns = (ROWS, 'parsing_tp', 'parsing_predicted', 'parsing_gold', 'simple_qa_correct', 'complex_qa_tp',
               'complex_qa_predicted', 'complex_qa_gold', *(f'{subtask}_score' for subtask in SUBTASKS[3:]))

    def formula(sums: np.ndarray) -> np.ndarray:
        total = [sums[..., 2 * place] for place in range(len(columns))]
        count = [sums[..., 2 * place + 1] for place in range(len(columns))]
        parts = [divide_or_nan(2 * total[1], total[2] + total[3]), divide_or_nan(total[4], count[4]),
                 divide_or_nan(2 * total[5], total[6] + total[7])]  # yapf: disable
        parts += [divide_or_nan(total[place], count[place]) for place in range(8, len(columns))]
        return mean_of_known(np.stack(parts, axis=-1))

    return Measure('average', columns, formula)
