"""A lab report, and its scores."""
import json
import numpy as np

from swift_citrusv.scoring.cases import Pair
from swift_citrusv.scoring.task import CorpusMeasure

HEADING = ('entry_name', 'result', 'reference', 'unit')
BLOOD = (('白细胞计数', '11.2 ↑', '3.5-9.5', '10^9/L'), ('红细胞计数', '4.5', '4.3-5.8', '10^12/L'),
         ('血红蛋白', '135', '130-175', 'g/L'))  # yapf: disable


def markdown(rows, heading=HEADING, delimiter=True):
    lines = [heading, *([['---'] * len(heading)] if delimiter else []), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def pair(answer, reference, name='ref.jsonl:1', **columns):
    row = {'messages': [{'role': 'user', 'content': '<image>读一读。'}], 'answer': reference, **columns}
    return Pair(name, row, None if answer is None else {'response': answer})


def question_content(body):
    """The content of a question to the judge, from the body of its request."""
    return json.loads(body['messages'][1]['content'])


def sums_of(task, cases):
    """The scores of cases, summed here rather than by the engine."""
    columns = {name: np.array([case.values.get(name, np.nan) for case in cases])
               for case in cases for name in case.values}  # yapf: disable
    return scores_of_columns(task, columns, len(cases))


def scores_of_columns(task, columns, num_cases):
    scores = {}
    for measure in task.measures:
        assert not isinstance(measure, CorpusMeasure)
        chosen = [columns.get(name, np.full(num_cases, np.nan)) for name in measure.columns]
        sums = [value for column in chosen for value in (np.nansum(column), np.count_nonzero(~np.isnan(column)))]
        scores[measure.name] = float(measure.formula(np.array(sums, float)))
    return scores
