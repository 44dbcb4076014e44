"""The end of a step and of a run: output in place, summary and report."""
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings import SettingError
from .data_files import FILES, read_json, write_csv, write_json
from .inputs import sha256_of
from .joins import connected
from .ledger import ledger_files
from .shard_task import COMMON_RULES, shard_name
from .step import GOING_ON, VERDICTS, Step

_FOLDERS = ('rows', 'ledger', 'review', FILES)
# Examples of each rule in the report.
_EXAMPLES = 5


@dataclass(frozen=True)
class FinishStep:
    """Moves the output of a step from the work folder, and writes summary and report.

    Attributes:
        step: The step.
        folder: Its output.
        head: What was run on what, for the summary.
        num_shards: The number of shards.
        hands_on: Outputs of earlier steps whose files the rows name.
    """
    step: Step
    folder: str
    head: Mapping[str, Any]
    num_shards: int
    hands_on: Sequence[str] = ()

    def __call__(self, index: int) -> None:
        from .report import write_step_report
        work = os.path.join(self.folder, 'work')
        for path in Path(work, FILES).rglob('*.part'):
            # Of a worker that was killed.
            path.unlink()
        for name in _FOLDERS:
            if os.path.isdir(os.path.join(work, name)):
                os.replace(os.path.join(work, name), os.path.join(self.folder, name))
        for source in self.hands_on:
            _link(os.path.join(source, FILES), os.path.join(self.folder, FILES), '', is_shared=True)
        counts: Counter[str] = Counter({verdict: 0 for verdict in VERDICTS})
        rules: dict[str, Counter[str]] = {}
        examples: dict[str, list[Any]] = {}
        for shard in range(self.num_shards):
            part = read_json(os.path.join(work, 'counts', f'{shard_name(shard)}.json'))
            counts.update(part['counts'])
            for rule, found in part['rules'].items():
                rules.setdefault(rule, Counter()).update(found)
                examples[rule] = [*examples.get(rule, ()), *part['examples'][rule]][:_EXAMPLES]
        check_ids(self.folder, os.path.join(work, 'spill'))
        known = {**COMMON_RULES, **self.step.rules()}
        summary: dict[str, Any] = {
            'step': self.step.name,
            'in': counts.total(),
            **{verdict: counts[verdict] for verdict in VERDICTS},
            'rules': {rule: {'text': text, **rules.get(rule, {})} for rule, text in known.items()
                      if rule in rules or rule not in COMMON_RULES},
            'run': self.head,
        }  # yapf: disable
        assert not rules.keys() - known.keys(), f'rules without a description: {rules.keys() - known.keys()}'
        write_step_report(self.folder, summary, examples, self.step.sections(work, summary))
        for name, content in self.step.documents(work, summary).items():
            (write_csv if name.endswith('.csv') else write_json)(os.path.join(self.folder, name), content)
        write_summary(self.folder, summary)


@dataclass(frozen=True)
class FinishRun:
    """Puts the output of the steps together.

    Attributes:
        folder: The output of the run.
        steps: The folders of the steps inside.
        head: What was run on what.
    """
    folder: str
    steps: Sequence[str]
    head: Mapping[str, Any]

    def __call__(self, index: int) -> None:
        from .report import write_run_report
        summaries = [read_json(os.path.join(self.folder, folder, 'summary.json')) for folder in self.steps]
        for name in _FOLDERS:
            # Anew, if it was interrupted.
            shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)
        for number, folder in enumerate(self.steps):
            is_last = number == len(self.steps) - 1
            for name in _FOLDERS:
                if name != 'rows' or is_last:
                    _link(
                        os.path.join(self.folder, folder, name), os.path.join(self.folder, name),
                        '' if name in ('rows', FILES) else f'{folder}-')
        with connected(os.path.join(self.folder, 'work', 'spill')) as connection:
            make_final(connection, self.folder)
            overall = overall_counts(connection)
        summary = {
            'in': summaries[0]['in'],
            **overall,
            'rules': {folder: item['rules'] for folder, item in zip(self.steps, summaries)},
            'steps': {folder: {name: item[name] for name in ('in', *VERDICTS)}
                      for folder, item in zip(self.steps, summaries)},
            'run': self.head,
        }  # yapf: disable
        write_run_report(self.folder, summary)
        write_summary(self.folder, summary, self.steps)


def _link(source: str, target: str, prefix: str, is_shared: bool = False) -> None:
    """Hard links to all files of a folder; copies where the file system has none.

    Args:
        source, target: The folders.
        prefix: For the names.
        is_shared: Whether a file may be there already: with the same content.
    """
    for top, _, names in os.walk(source):
        inside = os.path.join(target, os.path.relpath(top, source))
        os.makedirs(inside, exist_ok=True)
        for name in sorted(names):
            place = os.path.join(inside, f'{prefix}{name}')
            try:
                os.link(os.path.join(top, name), place)
            except FileExistsError:
                if is_shared and sha256_of(place) == sha256_of(os.path.join(top, name)):
                    continue
                raise SettingError(f'Two steps have written {place}.') from None
            except OSError:
                shutil.copy2(os.path.join(top, name), place)


def check_ids(folder: str, spill: str) -> None:
    """Checks that no two rows have one id.

    Args:
        folder: The output.
        spill: A folder for what does not fit into memory.

    Raises:
        ValueError: Two rows have; the message names them.
    """
    files = ledger_files(folder)
    if not files:
        return
    # Fast for ids that all differ; only then the rows are named.
    with connected(spill) as connection:
        twice = connection.execute('SELECT row_id FROM (SELECT DISTINCT row_id, source, line FROM read_parquet(?)) '
                                   'GROUP BY row_id HAVING count(*) > 1 LIMIT 1', [files]).fetchone()  # yapf: disable
        found = twice and connection.execute(
            "SELECT row_id, min(source || ':' || line), max(source || ':' || line) FROM read_parquet(?) "
            'WHERE row_id = ? GROUP BY row_id', [files, twice[0]]).fetchone()  # yapf: disable
    if found:
        raise ValueError(
            f'{found[1]} and {found[2]} have the same row_id {found[0]}. A row was copied after it got its '
            'id: remove the copy, or its row_id.')


def make_final(connection: Any, folder: str) -> None:
    """Makes the table `final`: of each row of an output `row_id`, and `place`, that of its strongest verdict.

    Args:
        connection: Of DuckDB.
        folder: The output.
    """
    connection.execute('CREATE TABLE final (row_id VARCHAR, place INTEGER)')
    files = ledger_files(folder)
    if files:
        order = ', '.join(f"('{verdict}', {number})" for number, verdict in enumerate(VERDICTS))
        connection.execute(f'INSERT INTO final WITH orders(verdict, place) AS (VALUES {order}) SELECT row_id, '
                           'max(place) FROM read_parquet(?) JOIN orders USING (verdict) GROUP BY row_id',
                           [files])  # yapf: disable


def overall_counts(connection: Any) -> dict[str, int]:
    """The number of rows of `final` by verdict."""
    found = dict(connection.execute('SELECT place, count(*) FROM final GROUP BY place').fetchall())
    return {verdict: found.get(number, 0) for number, verdict in enumerate(VERDICTS)}


def write_summary(folder: str, summary: dict[str, Any], steps: Sequence[str] = ()) -> None:
    """Adds the hashes of all files, and writes the summary.

    Args:
        folder: The output.
        summary: The summary without hashes.
        steps: Folders of steps inside, which have summaries of their own.
    """
    assert summary['in'] == sum(summary[verdict] for verdict in VERDICTS)
    summary['files'] = {name: sha256_of(os.path.join(folder, name)) for name in output_files(folder, steps)}
    write_json(os.path.join(folder, 'summary.json'), summary)


def output_files(folder: str, steps: Sequence[str] = ()) -> list[str]:
    """The files of an output but its summary, with their folders; of steps inside only their summaries."""
    found = []
    for top, folders, names in os.walk(folder):
        if top == folder:
            folders[:] = [name for name in folders if name in _FOLDERS]
        found += [os.path.relpath(os.path.join(top, name), folder) for name in names if not name.endswith('.part')]
    found += [os.path.join(step, 'summary.json') for step in steps]
    return sorted(name.replace(os.sep, '/') for name in found if name != 'summary.json')


def going_on(summary: Mapping[str, Any]) -> int:
    """The number of rows that go on."""
    return sum(summary[verdict] for verdict in GOING_ON)
