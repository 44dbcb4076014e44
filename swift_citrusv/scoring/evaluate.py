"""Scores a prediction file: rows to cases, cases to scores, by groups, with intervals."""
import json
import math
import numpy as np
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from tqdm import tqdm
from typing import Any

from .bootstrap import Score, cluster_numbers, macros_of, scores_of
from .cases import Case, Pair, PredictionError
from .pairing import Found, Pairs
from .table import Table
from .task import Corpus, Task

# Columns of a row that make groups, or tell what belongs together, where the user names none.
GROUP_COLUMNS = ('dataset', 'modality', 'organ')
CLUSTER_COLUMNS = ('patient', 'patient_id', 'subject', 'subject_id', 'study', 'study_id')
_CHUNK = 64
# A worker process needs seconds to start.
_MIN_ROWS_FOR_WORKERS = 1000


@dataclass(frozen=True)
class Settings:
    """How an evaluation is done.

    Attributes:
        id_column: What tells rows apart; None: see `Pairs`.
        by: Columns of the reference rows that make groups; None: those of `GROUP_COLUMNS` that the first row has.
        cluster: The column of what the bootstrap draws together; None: the first of `CLUSTER_COLUMNS` that the first
            row has, or else the images of a row, or else the row.
        repeats: Resamplings; 0 for no intervals.
        seed: Of the resamplings, and of the random examples of the report.
        workers: Processes.
    """
    id_column: str | None = None
    by: tuple[str, ...] | None = None
    cluster: str | None = None
    repeats: int = 1000
    seed: int = 0
    workers: int = 1


@dataclass
class Evaluation:
    """Everything that is known of a prediction file after its evaluation.

    Attributes:
        task: What was scored, and how.
        settings: With the columns that were chosen.
        pairs: The files.
        found: What is wrong with the predictions.
        table: The cases.
        scores: Of all cases, by measure.
        groups: By column, by group, by measure.
        macros: By column, by measure: the unweighted mean over the groups of the column.
    """
    task: Task
    settings: Settings
    pairs: Pairs
    found: Found
    table: Table
    scores: dict[str, Score]
    groups: dict[str, dict[str, dict[str, Score]]]
    macros: dict[str, dict[str, Score]]

    @property
    def clusters(self) -> str:
        """What the bootstrap draws together, in a word."""
        return self.settings.cluster or 'images'


def evaluate(task: Task, references: str | None, predictions: str, settings: Settings = Settings()) -> Evaluation:
    """Scores a prediction file.

    Args:
        task: What to score.
        references: JSONL; None: the prediction file has the references in it, as `swift infer` writes them.
        predictions: JSONL.
        settings: How.

    Raises:
        RowError: A reference cannot be read.
        ValueError: Files or settings do not fit each other.
    """
    pairs = Pairs(references, predictions, settings.id_column)
    settings = _chosen(settings, pairs)
    table = Table()
    bar = tqdm(total=len(pairs), desc='scoring', unit='row', disable=None)
    with bar:
        for row in _scored(task, pairs, settings):
            table.add_row(row.name, row.cluster, row.groups, row.cases)
            if row.malformed is not None:
                pairs.found.add('malformed', f'{row.name}: {row.malformed}.')
            bar.update()
    table.close()
    if not len(table):
        raise ValueError(f'{pairs.references.path} has nothing that `citrusv eval {task.NAME}` scores, in any of its '
                         f'{len(pairs)} rows. Is it the file with the right answers, and the right task?')
    if settings.cluster is None:
        table.clusters = joined_by_image(table.clusters)
    task.complete(table)
    clusters = cluster_numbers(table.clusters)[table.rows]
    scores = scores_of(task.measures, table.columns, table.data, clusters, settings.repeats, settings.seed)
    groups = {column: _of_groups(task, table, clusters, column, settings) for column in table.groups}
    macros = {column: _macro(task, table, clusters, column, settings) for column, found in groups.items()
              if len(found) > 1}  # yapf: disable
    pairs.close()
    return Evaluation(task, settings, pairs, pairs.found, table, scores, groups, macros)


def _chosen(settings: Settings, pairs: Pairs) -> Settings:
    """Fills in the columns that the user has left open."""
    first = pairs.references.read(0)
    for column in [*(settings.by or ()), *([settings.cluster] if settings.cluster else [])]:
        if column not in first:
            raise ValueError(f'{pairs.references.row_id(0)} has no column {column!r}; it has {", ".join(first)}.')
    by = settings.by
    if by is None:
        # `swift infer` writes the name of its file as `dataset`.
        own = pairs.references is pairs.predictions
        by = tuple(name for name in GROUP_COLUMNS if name in first and not (own and name == 'dataset'))
    cluster = settings.cluster or next((name for name in CLUSTER_COLUMNS if name in first), None)
    return replace(settings, by=by, cluster=cluster)


# ---- rows to cases


@dataclass(frozen=True)
class _Row:
    name: str
    cluster: str
    groups: dict[str, str]
    cases: list[Case]
    malformed: str | None


def _scored(task: Task, pairs: Pairs, settings: Settings) -> Iterator[_Row]:
    if settings.workers < 2 or len(pairs) < _MIN_ROWS_FOR_WORKERS:
        for index in range(len(pairs)):
            yield _score_row(task, pairs, settings, index)
        return
    import multiprocessing

    # Not forked: torch has threads by now, and a forked process may wait for their locks for ever.
    context = multiprocessing.get_context('spawn')
    starts = range(0, len(pairs), _CHUNK)
    with context.Pool(settings.workers, _start_worker, (task, pairs, settings)) as pool:
        for rows in pool.imap(_score_chunk, starts):
            yield from rows


# What a worker process works on.
_state: list[Any] = []


def _start_worker(*state: Any) -> None:
    _state[:] = state


def _score_chunk(start: int) -> list[_Row]:
    task, pairs, settings = _state
    return [_score_row(task, pairs, settings, index) for index in range(start, min(start + _CHUNK, len(pairs)))]


def _score_row(task: Task, pairs: Pairs, settings: Settings, index: int) -> _Row:
    pair = pairs.pair(index)
    malformed = None
    try:
        cases = task.score(pair)
    except PredictionError as e:
        malformed = str(e)
        cases = task.score(replace(pair, prediction=None))
    groups = {column: _text(pair, column) for column in settings.by or ()}
    return _Row(pair.name, _cluster(pair, settings.cluster), groups, cases, malformed)


def _text(pair: Pair, column: str) -> str:
    value = pair.reference.get(column)
    if value is None:
        return ''
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cluster(pair: Pair, column: str | None) -> str:
    if column is not None:
        # A row that does not say it stands for itself.
        return _text(pair, column) or pair.name
    images = pair.reference.get('images') or pair.reference.get('image')
    if not images:
        return pair.name
    return json.dumps(images if isinstance(images, list) else [images], ensure_ascii=False)


def joined_by_image(clusters: Sequence[str]) -> list[str]:
    """The clusters of rows that share an image, also by way of other rows.

    Args:
        clusters: The images of each row as JSON, or its name.

    Returns:
        For each row the least image of its cluster as JSON, or its name.
    """
    leaders: dict[str, str] = {}

    def leader(image: str) -> str:
        while leaders.setdefault(image, image) != image:
            leaders[image] = leaders[leaders[image]]
            image = leaders[image]
        return image

    images = {cluster: [json.dumps(image, ensure_ascii=False) for image in json.loads(cluster)]
              for cluster in set(clusters) if cluster.startswith('[')}  # yapf: disable
    for own in images.values():
        for image in own:
            one, other = leader(own[0]), leader(image)
            leaders[max(one, other)] = min(one, other)
    return [leader(images[cluster][0]) if cluster in images else cluster for cluster in clusters]


# ---- cases to scores


def _of_groups(task: Task, table: Table, clusters: np.ndarray, column: str,
               settings: Settings) -> dict[str, dict[str, Score]]:
    texts = np.array(table.groups[column], dtype=object)
    found = {}
    for text in sorted(set(table.groups[column]) - {''}):
        places = np.flatnonzero(texts == text)
        columns = {name: values[places] for name, values in table.columns.items()}
        data = [table.data[place] for place in places] if table.data else []
        found[text] = scores_of(task.measures, columns, data, clusters[places], settings.repeats, settings.seed)
    return found


def _macro(task: Task, table: Table, clusters: np.ndarray, column: str, settings: Settings) -> dict[str, Score]:
    names = sorted(set(table.groups[column]) - {''})
    numbers = {name: i for i, name in enumerate(names)}
    groups = np.array([numbers.get(text, -1) for text in table.groups[column]], np.int64)
    return macros_of(task.measures, table.columns, clusters, groups, settings.repeats, settings.seed)


# ---- JSON


def to_json(evaluation: Evaluation, version: str) -> dict[str, Any]:
    """All of an evaluation but the pictures; what `citrusv compare` reads. NaN becomes None."""
    task, table, pairs = evaluation.task, evaluation.table, evaluation.pairs

    def shown(scores: Mapping[str, Score]) -> dict[str, Any]:
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
        'found': dict(evaluation.found.counts),
        'examples': evaluation.found.examples,
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
                'kind': 'corpus' if isinstance(measure, Corpus) else 'sums'
            }
            for measure in task.measures
        },
        'scores': shown(evaluation.scores),
        'groups': {column: {name: shown(scores) for name, scores in found.items()}
                   for column, found in evaluation.groups.items()},  # yapf: disable
        'macro': {column: shown(scores) for column, scores in evaluation.macros.items()},
        'per_case': {
            'row': [table.names[row] for row in table.rows],
            'cluster': [table.clusters[row] for row in table.rows],
            'columns': {name: [_finite(value) for value in values.tolist()] for name, values in table.columns.items()},
            'data': table.data
        }
    }  # yapf: disable


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
