"""Evaluates a prediction file: rows to cases, cases to scores with intervals, overall and by group."""
import json
import math
import numpy as np
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from tqdm import tqdm
from typing import Any

from ..constants import ROW_COLUMN
from .bootstrap import Score, bootstrap_scores, cluster_indices, macro_scores
from .cases import Case, Pair, PredictionError
from .medians import Median, medians_of
from .pairing import ID_COLUMNS, Pairs, PredictionProblems
from .table import CaseTable
from .task import CorpusMeasure, Task

# Columns that define groups, and clusters, unless the user names others.
GROUP_COLUMNS = ('dataset', 'modality', 'organ')
CLUSTER_COLUMNS = ('patient', 'patient_id', 'subject', 'subject_id', 'study', 'study_id')
_CHUNK = 64
# Starting a worker process takes seconds.
_MIN_ROWS_FOR_WORKERS = 1000


@dataclass(frozen=True)
class EvaluationSettings:
    """Options of an evaluation that do not depend on the task.

    Attributes:
        id_column: The column that identifies rows; None: see `Pairs`.
        by: Columns of the reference rows that define groups; None: those of `GROUP_COLUMNS` that the first row has.
        cluster: The column that defines the clusters of the bootstrap; None: the first of `CLUSTER_COLUMNS` that the
            first row has, or else the images of a row, or else the row itself.
        repeats: Number of resamplings; 0 for no intervals.
        seed: Random seed of the resamplings, and of the random cases in the report.
        workers: Number of processes.
    """
    id_column: str | None = None
    by: tuple[str, ...] | None = None
    cluster: str | None = None
    repeats: int = 1000
    seed: int = 0
    workers: int = 1


@dataclass
class Evaluation:
    """The result of an evaluation.

    Attributes:
        task: The task, with its options.
        settings: The settings, with default columns filled in.
        pairs: The rows and their predictions.
        problems: Problems of the prediction file.
        table: The cases.
        scores: Scores of all cases, by measure.
        groups: Scores by column, group and measure.
        macros: Unweighted means over the groups of a column, by column and measure.
        medians: Medians of the scores that single cases have, by measure.
    """
    task: Task
    settings: EvaluationSettings
    pairs: Pairs
    problems: PredictionProblems
    table: CaseTable
    scores: dict[str, Score]
    groups: dict[str, dict[str, dict[str, Score]]]
    macros: dict[str, dict[str, Score]]
    medians: dict[str, Median] = field(default_factory=dict)

    @property
    def clusters(self) -> str:
        """What defines the clusters of the bootstrap: a column, or 'images'."""
        return self.settings.cluster or 'images'


def evaluate(task: Task, references: str | None, predictions: str,
             settings: EvaluationSettings = EvaluationSettings()) -> Evaluation:
    """Scores a prediction file.

    Args:
        task: The task, with its options.
        references: JSONL file; None: the lines of the prediction file contain the references, as `swift infer` writes
            them.
        predictions: JSONL file.
        settings: Options that do not depend on the task.

    Raises:
        RowError: A reference row is invalid.
        ValueError: The files do not match, or the settings do not match the files.
    """
    pairs = Pairs(references, predictions, settings.id_column)
    settings = _with_default_columns(settings, pairs)
    table = CaseTable()
    bar = tqdm(total=len(pairs), desc='scoring', unit='row', disable=None)
    with bar:
        for row in _score_rows(task, pairs, settings):
            table.add_row(row.name, row.cluster, row.groups, row.cases, row.own_id)
            if row.malformed is not None:
                pairs.problems.add('malformed', f'{row.name}: {row.malformed}.')
            bar.update()
    table.close()
    if not len(table):
        raise ValueError(f'{pairs.references.path} has nothing that `citrusv eval {task.NAME}` scores, in any of its '
                         f'{len(pairs)} rows. Check that it is the reference file, and that the task is the right one.')
    if settings.cluster is None:
        table.clusters = merge_clusters_by_image(table.clusters)
    task.complete(table)
    clusters = cluster_indices(table.clusters)[table.rows]
    scores = bootstrap_scores(task.measures, table.columns, table.data, clusters, settings.repeats, settings.seed)
    groups = {column: _group_scores(task, table, clusters, column, settings) for column in table.groups}
    macros = {column: _macro_scores(task, table, clusters, column, settings) for column, found in groups.items()
              if len(found) > 1}  # yapf: disable
    medians = medians_of(task.measures, table.columns, clusters, settings.repeats, settings.seed)
    pairs.close()
    return Evaluation(task, settings, pairs, pairs.problems, table, scores, groups, macros, medians)


def _with_default_columns(settings: EvaluationSettings, pairs: Pairs) -> EvaluationSettings:
    """The settings with the columns that the user did not name."""
    first = pairs.references.read(0)
    for column in [*(settings.by or ()), *([settings.cluster] if settings.cluster else [])]:
        if column not in first:
            raise ValueError(f'{pairs.references.row_id(0)} has no column {column!r}; it has {", ".join(first)}.')
    by = settings.by
    if by is None:
        # In a result line of `swift infer`, `dataset` is the name of its file.
        is_result = pairs.references is pairs.predictions
        by = tuple(name for name in GROUP_COLUMNS if name in first and not (is_result and name == 'dataset'))
    cluster = settings.cluster or next((name for name in CLUSTER_COLUMNS if name in first), None)
    return replace(settings, by=by, cluster=cluster)


# ---- rows to cases


@dataclass(frozen=True)
class _ScoredRow:
    name: str
    cluster: str
    groups: dict[str, str]
    cases: list[Case]
    malformed: str | None
    own_id: str = ''


def _score_rows(task: Task, pairs: Pairs, settings: EvaluationSettings) -> Iterator[_ScoredRow]:
    chunk = getattr(task, 'ROWS_PER_CHUNK', _CHUNK)
    if settings.workers < 2 or len(pairs) < getattr(task, 'MIN_ROWS_FOR_WORKERS', _MIN_ROWS_FOR_WORKERS):
        for index in range(len(pairs)):
            yield _score_row(task, pairs, settings, index)
        return
    import multiprocessing

    # Not fork: torch has running threads, whose locks a forked process could wait for forever.
    context = multiprocessing.get_context('spawn')
    ranges = [range(start, min(start + chunk, len(pairs))) for start in range(0, len(pairs), chunk)]
    with context.Pool(min(settings.workers, len(ranges)), _start_worker, (task, pairs, settings)) as pool:
        for rows in pool.imap(_score_chunk, ranges):
            yield from rows


# The arguments of a worker process.
_state: list[Any] = []


def _start_worker(*state: Any) -> None:
    _state[:] = state


def _score_chunk(indices: range) -> list[_ScoredRow]:
    task, pairs, settings = _state
    return [_score_row(task, pairs, settings, index) for index in indices]


def _score_row(task: Task, pairs: Pairs, settings: EvaluationSettings, index: int) -> _ScoredRow:
    pair = pairs.pair(index)
    malformed = None
    try:
        cases = task.score(pair)
    except PredictionError as e:
        malformed = str(e)
        cases = task.score(replace(pair, prediction=None))
    groups = {column: _column_text(pair, column) for column in settings.by or ()}
    # (`citrusv_row` names a line, as the row's name does.)
    columns = (settings.id_column, ) if settings.id_column else [name for name in ID_COLUMNS if name != ROW_COLUMN]
    own_id = next(filter(None, (_column_text(pair, column) for column in columns)), '')
    return _ScoredRow(pair.name, _cluster_of(pair, settings.cluster), groups, cases, malformed, own_id)


def _column_text(pair: Pair, column: str) -> str:
    value = pair.reference.get(column)
    if value is None:
        return ''
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cluster_of(pair: Pair, column: str | None) -> str:
    if column is not None:
        # A row without a value is its own cluster.
        return _column_text(pair, column) or pair.name
    images = pair.reference.get('images') or pair.reference.get('image')
    if not images:
        return pair.name
    return json.dumps(images if isinstance(images, list) else [images], ensure_ascii=False)


def merge_clusters_by_image(clusters: Sequence[str]) -> list[str]:
    """Merges the clusters of rows that share an image, directly or through other rows (union-find).

    Args:
        clusters: For each row the list of its images as JSON, or the row's name.

    Returns:
        For each row the first image of its cluster, in alphabetical order, as JSON; or the row's name.
    """
    parents: dict[str, str] = {}

    def root(image: str) -> str:
        while parents.setdefault(image, image) != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image

    images = {cluster: [json.dumps(image, ensure_ascii=False) for image in json.loads(cluster)]
              for cluster in set(clusters) if cluster.startswith('[')}  # yapf: disable
    for own in images.values():
        for image in own:
            one, other = root(own[0]), root(image)
            parents[max(one, other)] = min(one, other)
    return [root(images[cluster][0]) if cluster in images else cluster for cluster in clusters]


# ---- cases to scores


def _group_scores(task: Task, table: CaseTable, clusters: np.ndarray, column: str,
                  settings: EvaluationSettings) -> dict[str, dict[str, Score]]:
    texts = np.array(table.groups[column], dtype=object)
    found = {}
    for text in sorted(set(table.groups[column]) - {''}):
        places = np.flatnonzero(texts == text)
        columns = {name: values[places] for name, values in table.columns.items()}
        data = [table.data[place] for place in places] if table.data else []
        found[text] = bootstrap_scores(task.measures, columns, data, clusters[places], settings.repeats, settings.seed)
    return found


def _macro_scores(task: Task, table: CaseTable, clusters: np.ndarray, column: str,
                  settings: EvaluationSettings) -> dict[str, Score]:
    names = sorted(set(table.groups[column]) - {''})
    numbers = {name: i for i, name in enumerate(names)}
    groups = np.array([numbers.get(text, -1) for text in table.groups[column]], np.int64)
    return macro_scores(task.measures, table.columns, clusters, groups, settings.repeats, settings.seed)


# ---- JSON


def evaluation_json(evaluation: Evaluation, version: str) -> dict[str, Any]:
    """The content of scores.json, which `citrusv compare` reads. NaN becomes None."""
    task, table, pairs = evaluation.task, evaluation.table, evaluation.pairs

    def shown(scores: Mapping[str, Score | Median]) -> dict[str, Any]:
        return {name: {key: _finite(value) for key, value in asdict(score).items()} for name, score in scores.items()}

    return {
        'citrusv': version,
        'task': task.NAME,
        'options': asdict(task),  # type: ignore[call-overload]
        'rules': task.rules,
        'references': os.path.basename(pairs.references.path),
        'predictions': os.path.basename(pairs.predictions.path),
        'joined': pairs.how,
        'rows': len(pairs),
        'cases': len(table),
        'found': dict(evaluation.problems.counts),
        'examples': evaluation.problems.examples,
        'flags': table.flag_counts(),
        'interval': {
            'level': 0.95,
            'method': 'percentiles of the cluster bootstrap',
            'drawn_together': evaluation.clusters,
            'clusters': len(set(table.clusters)),
            'repeats': evaluation.settings.repeats,
            'seed': evaluation.settings.seed
        },
        'measures': {
            measure.name: {
                'percent': measure.percent,
                'higher_is_better': measure.higher_is_better,
                'label': measure.label,
                'kind': 'corpus' if isinstance(measure, CorpusMeasure) else 'sums'
            }
            for measure in task.measures
        },
        'scores': shown(evaluation.scores),
        'medians': shown(evaluation.medians),
        'groups': {column: {name: shown(scores) for name, scores in found.items()}
                   for column, found in evaluation.groups.items()},  # yapf: disable
        'macro': {column: shown(scores) for column, scores in evaluation.macros.items()},
        'per_case': {
            'row': [table.names[row] for row in table.rows],
            'id': [table.ids[row] for row in table.rows],
            'cluster': [table.clusters[row] for row in table.rows],
            'columns': {name: [_finite(value) for value in values.tolist()] for name, values in table.columns.items()},
            'data': table.data
        }
    }  # yapf: disable


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
