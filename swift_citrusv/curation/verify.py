"""Checks an output: every hash, and that no row was lost."""
import os
import tempfile
from collections.abc import Iterator, Mapping
from tqdm import tqdm
from typing import Any

from ..settings import SettingError
from .data_files import read_json
from .finish import going_on, make_final, output_files, overall_counts
from .inputs import sha256_of
from .joins import connected
from .shard_task import load_json
from .step import GOING_ON, VERDICTS


def read_summary(folder: str) -> dict[str, Any]:
    """The summary of an output.

    Raises:
        SettingError: The folder is none, or its run has not ended.
    """
    path = os.path.join(folder, 'summary.json')
    if not os.path.isfile(path):
        if os.path.isdir(os.path.join(folder, 'work')):
            raise SettingError(f'{folder}: the run has not ended. Repeat its command to go on.')
        raise SettingError(f'{folder} is not the output of `citrusv data`: it has no summary.json.')
    summary: dict[str, Any] = read_json(path)
    return summary


def problems(folder: str, quiet: bool = False) -> list[str]:
    """What is wrong with an output; [] if nothing is.

    Args:
        folder: The output of a step or of a run.
        quiet: Whether to show no progress bar.

    Raises:
        SettingError: It is no output.
    """
    summary = read_summary(folder)
    steps = list(summary.get('steps', ()))
    found = list(_file_problems(folder, summary, steps, quiet))
    if not found:
        found += _law_problems(folder, summary)
    before = None
    for step in steps:
        inside = os.path.join(folder, step)
        found += [f'{step}: {problem}' for problem in problems(inside, quiet)]
        if os.path.isfile(os.path.join(inside, 'summary.json')):
            item = read_summary(inside)
            if before is not None and item['in'] != before:
                found.append(f'{step}: it took {item["in"]} rows of the {before} that the step before let go on.')
            before = going_on(item)
    return found


def _file_problems(folder: str, summary: Mapping[str, Any], steps: list[str], quiet: bool) -> Iterator[str]:
    expected = summary['files']
    finished = [step for step in steps if os.path.isfile(os.path.join(folder, step, 'summary.json'))]
    present = set(output_files(folder, finished))
    for name in tqdm(sorted(present | expected.keys()), desc='Hashes', unit=' files', disable=quiet):
        if name not in present:
            yield f'{name} is missing.'
        elif name not in expected:
            yield f'{name} does not belong to the output.'
        elif sha256_of(os.path.join(folder, name)) != expected[name]:
            yield f'{name} has been changed: its hash is another.'


def _law_problems(folder: str, summary: Mapping[str, Any]) -> Iterator[str]:
    counts = {verdict: summary[verdict] for verdict in VERDICTS}
    if summary['in'] != sum(counts.values()):
        yield f'{summary["in"]} rows went in, but {sum(counts.values())} have a verdict.'
    with tempfile.TemporaryDirectory() as spill, connected(os.path.join(spill, 'joins')) as connection:
        make_final(connection, folder)
        recorded = overall_counts(connection)
        if recorded != counts:
            yield f'the ledger says {recorded}, the summary {counts}.'
        yield from _misplaced(folder, connection)


def _misplaced(folder: str, connection: Any) -> Iterator[str]:
    for kind, verdicts in (('rows', GOING_ON), ('review', ('review', ))):
        # Row by row, so that a row of any length is read as the trainers read it.
        connection.execute('CREATE OR REPLACE TABLE present (row_id VARCHAR)')
        for ids in _ids(os.path.join(folder, kind)):
            connection.execute('INSERT INTO present SELECT unnest(?)', [ids])
        places = ', '.join(str(VERDICTS.index(verdict)) for verdict in verdicts)
        query = 'SELECT row_id FROM present GROUP BY row_id HAVING count(*) > 1 LIMIT 1'
        twice = connection.execute(query).fetchone()
        if twice:
            yield f'{kind}/ has the row {twice[0]} twice.'
        for text, query in ((f'{kind}/ lacks the row {{}}, which the ledger lets go there.',
                             f'SELECT row_id FROM final WHERE place IN ({places}) EXCEPT SELECT row_id FROM present'),
                            (f'{kind}/ has the row {{}}, which the ledger does not let go there.',
                             f'SELECT row_id FROM present EXCEPT SELECT row_id FROM final WHERE place IN ({places})')):
            missing = connection.execute(f'{query} ORDER BY row_id LIMIT 3').fetchall()
            yield from (text.format(row_id) for row_id, in missing)


def _ids(folder: str) -> Iterator[list[str]]:
    ids: list[str] = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with open(os.path.join(folder, name), 'rb') as file:
            for line in file:
                ids.append(load_json(line)[0]['row_id'])
                if len(ids) >= 100000:
                    yield ids
                    ids = []
    if ids:
        yield ids
