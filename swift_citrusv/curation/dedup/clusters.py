"""Joins over the whole input: which rows are the same, and which of them stays."""
import os
import pyarrow as pa
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..data_files import whole_file
from ..joins import connected, quoted, rows_of
from ..parquet import table_of, write_lines
from ..shard_task import shard_name
from .places import shard_of
from .text_keys import decisive_difference, jaccard

# In larger buckets a row is compared with its neighbours and the first one only, not with all.
_MAX_ALL_PAIRS = 40
PLACE_SCHEMA = pa.schema([('place', pa.uint64())])
DECISION_SCHEMA = pa.schema([('row_id', pa.string()), ('rule', pa.string()), ('verdict', pa.string()),
                             ('winner', pa.string()), ('measure', pa.float64()), ('detail', pa.string())])
SAME_SCHEMA = pa.schema([('first', pa.uint64()), ('second', pa.uint64()), ('measure', pa.float64()),
                         ('unit', pa.string())])  # yapf: disable


def _files(folder: str, kind: str) -> str:
    return quoted(folder, kind, '*.parquet')


def _write(connection: Any, query: str, path: str) -> None:
    """Writes the result of a query in one go."""
    with whole_file(path) as part:
        connection.execute(f"COPY ({query}) TO '{quoted(part)}' (FORMAT parquet, COMPRESSION zstd)")


@dataclass(frozen=True)
class CandidateTask:
    """Finds rows that are exactly the same, and pairs of rows that may be nearly the same.

    Attributes:
        folder: The work folder.
    """
    folder: str

    def __call__(self, index: int) -> None:
        with connected(os.path.join(self.folder, 'spill')) as connection:
            self._find(connection)

    def _find(self, connection: Any) -> None:
        run = connection.execute
        run(f"CREATE VIEW rows AS SELECT * FROM read_parquet('{_files(self.folder, 'signatures')}')")
        # The rule of the choice: most masks, then the first of the input. (Equal rows have one length.)
        run('CREATE TABLE most AS SELECT key, max(masks) AS masks FROM rows GROUP BY key')
        run('CREATE TABLE best AS SELECT key, min(place) AS place FROM rows JOIN most USING (key, masks) GROUP BY key')
        _write(
            connection, 'SELECT rows.place, rows.kind, best.place AS winner FROM rows JOIN best USING (key) '
            'WHERE rows.place <> best.place ORDER BY rows.place', os.path.join(self.folder, 'exact.parquet'))
        # The bands of the first row of a shard with a text stand for the row that stays.
        run('CREATE TABLE banded AS SELECT DISTINCT band, best.place AS place FROM '
            f"read_parquet('{_files(self.folder, 'bands')}') AS bands JOIN rows USING (place) JOIN best USING (key)")
        run('CREATE TABLE buckets AS SELECT band, count(*) AS size FROM banded GROUP BY band HAVING count(*) > 1')
        run('CREATE TABLE numbered AS SELECT band, size, place, row_number() OVER (PARTITION BY band ORDER BY place) '
            'AS number FROM banded JOIN buckets USING (band)')
        run('CREATE TABLE pairs AS SELECT DISTINCT a.place AS first, b.place AS second FROM numbered AS a JOIN '
            f'numbered AS b ON a.band = b.band AND a.number < b.number AND (a.size <= {_MAX_ALL_PAIRS} OR '
            'a.number = 1 OR b.number = a.number + 1)')
        _write(connection, 'SELECT first, second FROM pairs ORDER BY first, second',
               os.path.join(self.folder, 'pairs.parquet'))
        shutil.rmtree(os.path.join(self.folder, 'candidates'), ignore_errors=True)
        result = run('SELECT first AS place FROM pairs UNION SELECT second FROM pairs ORDER BY place')
        for shard, places in groupby(rows_of(result), _shard):
            path = os.path.join(self.folder, 'candidates', f'{shard_name(shard)}.parquet')
            write_lines(path, places, PLACE_SCHEMA)


def _shard(line: Sequence[Any]) -> int:
    """The shard of a line whose first column is a place."""
    return shard_of(line[0])


@dataclass(frozen=True)
class CompareTask:
    """Compares the texts of candidate pairs exactly.

    Attributes:
        folder: The work folder.
        num_tasks: The number of tasks.
        threshold: The smallest Jaccard index of near-duplicates.
    """
    folder: str
    num_tasks: int
    threshold: float

    def __call__(self, index: int) -> None:
        with connected(os.path.join(self.folder, f'compare-{index}')) as connection:
            path = os.path.join(self.folder, 'same', f'{shard_name(index)}.parquet')
            write_lines(path, self._same(connection, index), SAME_SCHEMA)

    def _same(self, connection: Any, index: int) -> Iterator[tuple[Any, ...]]:
        forms = f"read_parquet('{_files(self.folder, 'forms')}')"
        pairs = f"read_parquet('{quoted(self.folder, 'pairs.parquet')}')"
        result = connection.execute(
            f'SELECT first, second, a.form, b.form FROM {pairs} JOIN {forms} AS a '
            f'ON a.place = first JOIN {forms} AS b ON b.place = second WHERE first % {self.num_tasks} = {index} '
            'ORDER BY first, second')
        for first, second, form, other in rows_of(result):
            measure = jaccard(form, other)
            if measure >= self.threshold:
                yield first, second, measure, decisive_difference(form, other)


@dataclass(frozen=True)
class ChooseTask:
    """Chooses the rows that stay, and writes the decisions on the others, a file a shard.

    Of near-duplicates the row with most masks stays, then the longest text, then the first. A row leaves only for a row
    that stays and that it was compared with, so a chain of small differences takes no rows that differ much.

    Attributes:
        folder: The work folder.
        different: What happens to near-duplicates with a decisive difference: 'review', 'merge' or 'keep'.
    """
    folder: str
    different: str

    def __call__(self, index: int) -> None:
        with connected(os.path.join(self.folder, 'spill')) as connection:
            self._choose(connection)

    def _choose(self, connection: Any) -> None:
        rows = f"read_parquet('{_files(self.folder, 'signatures')}')"
        near = self._near(connection, rows)
        connection.execute('CREATE TABLE near (place UBIGINT, winner UBIGINT, measure DOUBLE, unit VARCHAR)')
        if near:
            connection.register('found', table_of(near, SAME_SCHEMA))
            connection.execute('INSERT INTO near SELECT first, second, measure, unit FROM found')
        # Near-duplicates are sought among the rows that stay of equal ones, so the two do not overlap. A row may equal
        # one that leaves for a third.
        exact = f"read_parquet('{quoted(self.folder, 'exact.parquet')}')"
        copied = "rule = 'exact-pair' AND own.pixels <> kept.pixels"
        result = connection.execute(
            "WITH decisions AS (SELECT place, 'exact-' || kind AS rule, winner, NULL AS measure, '' AS unit FROM "
            f"{exact} UNION ALL SELECT near.place, 'near-' || rows.kind, "
            f'near.winner, near.measure, near.unit FROM near JOIN {rows} AS rows USING (place)) SELECT '
            f'decisions.place, own.row_id, CASE WHEN {copied} THEN \'near-image\' ELSE rule END, unit, kept.row_id, '
            f'CASE WHEN {copied} THEN least(own.likeness, kept.likeness) ELSE measure END FROM decisions JOIN '
            f'{rows} AS own USING (place) JOIN {rows} AS kept ON kept.place = decisions.winner ORDER BY decisions.place'
        )
        shutil.rmtree(os.path.join(self.folder, 'decisions'), ignore_errors=True)
        for shard, lines in groupby(rows_of(result), _shard):
            path = os.path.join(self.folder, 'decisions', f'{shard_name(shard)}.parquet')
            write_lines(path, (self._decision(*line) for _, *line in lines), DECISION_SCHEMA)

    def _decision(self, row_id: str, rule: str, unit: str, winner: str, measure: float | None) -> tuple[Any, ...]:
        """A line of the decisions."""
        detail = f'one of the two has {unit!r}' if unit else ''
        if unit and self.different == 'review':
            return row_id, 'near-but-different', 'review', winner, measure, detail
        return row_id, rule, 'merged', winner, measure, detail

    def _near(self, connection: Any, rows: str) -> list[tuple[Any, ...]]:
        """(place, winner, measure, unit) of the rows that leave for a near-duplicate."""
        if not os.path.isdir(os.path.join(self.folder, 'same')):
            return []
        same = f"read_parquet('{_files(self.folder, 'same')}')"
        where = "WHERE unit = ''" if self.different == 'keep' else ''
        neighbours: dict[int, list[tuple[int, float, str]]] = {}
        for first, second, measure, unit in rows_of(connection.execute(f'SELECT * FROM {same} {where}')):
            unit = '' if self.different == 'merge' else unit
            neighbours.setdefault(first, []).append((second, measure, unit))
            neighbours.setdefault(second, []).append((first, measure, unit))
        order: dict[int, tuple[int, int, int]] = {}
        for place, masks, length in rows_of(
                connection.execute(f'SELECT place, masks, length FROM {rows} WHERE place IN (SELECT first FROM {same} '
                                   f'UNION SELECT second FROM {same})')):
            order[place] = (-masks, -length, place)
        gone: dict[int, tuple[Any, ...]] = {}
        for place in sorted(neighbours, key=order.__getitem__):
            # A plain duplicate before one with a decisive difference.
            stays = [(bool(unit), order[other], (place, other, measure, unit)) for other, measure, unit in
                     neighbours[place] if order[other] < order[place] and other not in gone]  # yapf: disable
            if stays:
                gone[place] = min(stays)[2]
        return sorted(gone.values())
