"""Compares two evaluations of the same rows."""
import json
import numpy as np
from dataclasses import asdict
from importlib import import_module
from typing import Any

from .bootstrap import Difference, RunCases, paired_differences
from .task import Task
from .terminal import align_columns

# The module of each task of `citrusv eval`; it exports the task's class as `TASK`.
TASK_MODULES = {
    'segmentation': 'masks.segmentation',
    'volume': 'volumes.volume_task',
    'detection': 'boxes.detection',
    'qa': 'questions.qa',
    'documents': 'documents.documents',
    'reports': 'radiology_reports.reports',
    'grounding': 'boxes.grounding',
}


def task_class(name: str) -> type[Task]:
    """The class of a task.

    Raises:
        ValueError: The task does not exist.
    """
    if name not in TASK_MODULES:
        raise ValueError(f'There is no task {name!r}: {", ".join(TASK_MODULES)}.')
    return import_module(f'.{TASK_MODULES[name]}', __package__).TASK


def read_scores(path: str) -> dict[str, Any]:
    """Reads a scores.json of `citrusv eval`.

    Raises:
        ValueError: The file is not JSON, or was not written by `citrusv eval`.
    """
    try:
        with open(path, encoding='utf-8') as file:
            found = json.load(file)
    except ValueError as e:
        raise ValueError(f'{path} is not JSON ({e}): give the scores.json of `citrusv eval`.') from e
    if not isinstance(found, dict) or not {'task', 'options', 'per_case'} <= found.keys():
        raise ValueError(f'{path} is not a scores.json of `citrusv eval`.')
    return found


def compare(first: dict[str, Any],
            second: dict[str, Any],
            common: bool = False,
            repeats: int = 1000,
            seed: int = 0) -> dict[str, Difference]:
    """Compares two evaluations with a paired test.

    Args:
        first, second: As returned by `read_scores`.
        common: Compare the rows that both have, if their rows differ.
        repeats: Number of resamplings, and of permutations.
        seed: Random seed of both.

    Raises:
        ValueError: Their tasks, options or rows differ.
    """
    if first['task'] != second['task']:
        raise ValueError(f'The tasks of the two files differ: {first["task"]} and {second["task"]}.')
    kind = task_class(first['task'])
    task = kind(**first['options'])
    # A task's equality ignores options that do not change scores.
    if task != kind(**second['options']):
        raise ValueError(f'The options of the two files differ: {first["options"]} and {second["options"]}. Score both '
                         'files with the same options.')
    rows = [dict(zip(run['per_case']['row'], run['per_case']['cluster'])) for run in (first, second)]
    shared = rows[0].keys() & rows[1].keys()
    if not shared:
        raise ValueError('The two files have no row in common: compare evaluations of the same reference file.')
    unshared = [*(rows[0].keys() ^ rows[1].keys())]
    if unshared and not common:
        raise ValueError(
            f'{len(unshared)} rows are in one file only, e.g. {min(unshared)}: score both against the same '
            'reference file, or compare the rows that both have (--common).')
    moved = [row for row in shared if rows[0][row] != rows[1][row]]
    if moved:
        raise ValueError(f'{min(moved)} is in different clusters in the two files: score both with the same --cluster.')
    numbers: dict[str, int] = {}
    for row in rows[0]:
        if row in shared:
            numbers.setdefault(rows[0][row], len(numbers))
    one, two = (_run_cases(run['per_case'], shared, numbers) for run in (first, second))
    return paired_differences(task.measures, one, two, len(numbers), repeats, seed)


def _run_cases(cases: dict[str, Any], shared: Any, numbers: dict[str, int]) -> RunCases:
    chosen = [i for i, row in enumerate(cases['row']) if row in shared]
    columns = {name: np.array(values, np.float64)[chosen] for name, values in cases['columns'].items()}
    data = [cases['data'][i] for i in chosen] if cases['data'] else []
    return RunCases(columns, data, np.array([numbers[cases['cluster'][i]] for i in chosen], np.int64))


def comparison_lines(task: Task, found: dict[str, Difference]) -> list[str]:
    """The comparison as a table, as lines for the terminal."""
    cells = [['', 'A', 'B', 'B - A', '95 % interval', 'p']]
    for measure in task.measures:
        gap = found[measure.name]
        scale = 100 if measure.percent else 1
        values = [scale * x for x in (gap.first, gap.second, gap.second - gap.first, gap.low, gap.high)]
        one, two, change, low, high = ('-' if np.isnan(x) else f'{x:.{measure.digits}f}' for x in values)
        name = measure.label + ('' if measure.higher_is_better else ', lower is better')
        cells.append(
            [name, one, two, change, f'[{low}, {high}]', '-' if np.isnan(gap.p_value) else f'{gap.p_value:.4f}'])
    return align_columns(cells)


def comparison_json(found: dict[str, Difference]) -> dict[str, Any]:
    """The comparison as JSON content; NaN becomes None."""
    return {
        name: {
            key: None if np.isnan(value) else value
            for key, value in asdict(gap).items()
        }
        for name, gap in found.items()
    }
