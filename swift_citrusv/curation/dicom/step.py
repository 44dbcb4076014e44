"""The step `dicom`."""
import json
import orjson
import os
import pyarrow as pa
import pyarrow.parquet as pq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, ClassVar

from ...files.rules import FileRules
from ..data_files import read_json, whole_file, write_json
from ..inputs import InputFile, Shard, read_shard
from ..inventory import paths_of, take
from ..joins import connected, rows_of
from ..parquet import LineWriter
from ..progress import Progress
from ..shard_task import parsed, shard_name
from ..slices import slice_fragments
from ..step import Decision, Row, Ruling, Stage, Step, rules_recipe, small_shards, strongest
from .checks import check
from .facts import SCHEMA, Slice, SliceReader, slice_of
from .series import DOUBTS, RULES, Fault, Limits, Series
from .series_table import html_of, line_of

_SLICES, _SERIES = 'slices', 'series'
_VERDICTS = pa.schema([('row_id', pa.string()), ('place', pa.int32()), ('count', pa.int32()), ('step', pa.float64()),
                       ('faults', pa.string())])  # yapf: disable


@dataclass(frozen=True)
class DicomStep(Step):
    """Takes the slices of sound series, and says what is wrong with the others.

    Attributes:
        limits: What sizes are possible.
        broken: What becomes of the slices of a broken series: 'dropped' or 'review'.
        question: What the rows ask about their slice.
        window: The window of the rows' images; '' for that of the file.
        files: The limits on files.
    """
    name: ClassVar[str] = 'dicom'
    reads_folders: ClassVar[bool] = True
    shows_result: ClassVar[bool] = True
    limits: Limits = Limits()
    broken: str = 'dropped'
    question: str = ''
    window: str = ''
    files: FileRules = FileRules()

    def rules(self) -> Mapping[str, str]:
        return RULES

    def recipe(self) -> dict[str, Any]:
        return {'limits': asdict(self.limits), 'broken': self.broken, 'question': self.question, 'window': self.window,
                'files': rules_recipe(self.files)}  # yapf: disable

    def input_files(self, inputs: Sequence[str], folder: str, quiet: bool) -> list[InputFile]:

        def parts(path: str) -> list[dict[str, Any]]:
            return [{'place': place, 'slice': name} for place, name in enumerate(slice_fragments(path, self.files))]

        return take(inputs, folder, parts, quiet)

    def shard_bytes(self, total: int, most: int) -> int:
        return small_shards(total, most)

    def place(self, row: Row) -> tuple[str, int]:
        return row.data['source'], row.data['place'] + 1

    def stages(self, folder: str, shards: Sequence[Shard]) -> Sequence[Stage]:
        read = Stage('dicom-read', ReadTask(shards, folder, self.files), len(shards), folder, None, _SLICES)
        return [read, Stage('dicom-check', CheckTask(folder, len(shards), self), 1, folder, None, _SERIES)]

    def judge(self, folder: str, shard: int) -> Callable[[Row], Ruling]:
        paths = paths_of(folder)
        table = pq.read_table(os.path.join(folder, 'verdicts', f'{shard_name(shard)}.parquet')).to_pylist()
        verdicts = {line['row_id']: line for line in table}
        slices = {line['row_id']: slice_of(line) for line in _facts(folder, shard)}

        def decide(row: Row) -> Ruling:
            verdict = verdicts[row.row_id]
            decisions = [Decision(*values) for values in orjson.loads(verdict['faults'])]
            item = slices[row.row_id]
            if item.problem:
                return Ruling(decisions)
            return Ruling(decisions, self._row(row.row_id, item, verdict, paths[item.source]))

        return decide

    def _row(self, row_id: str, item: Slice, verdict: Mapping[str, Any], path: str) -> bytes:
        """The row of a slice, as JSON."""
        fragment = '&'.join(filter(None, (item.reference, f'window={self.window}' if self.window else '')))
        step = verdict['step']
        return json.dumps({
            'messages': [{'role': 'user', 'content': f'<image>{self.question}'}],
            'images': [f'{path}#{fragment}' if fragment else path],
            'modality': item.modality, 'patient': item.patient, 'study': item.study, 'series': item.series,
            'slice': verdict['place'], 'slices': verdict['count'],
            'spacing_mm': [*item.spacing, *([] if step is None else [step])], 'position_mm': list(item.position),
            'row_id': row_id}, ensure_ascii=False).encode('utf-8', 'surrogatepass')  # yapf: disable

    def documents(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {'series.csv': read_json(os.path.join(folder, 'series.json'))}

    def sections(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, str]:
        return {'Series': html_of(read_json(os.path.join(folder, 'series.json')), paths_of(folder))}


def _facts(folder: str, shard: int) -> list[dict[str, Any]]:
    path = os.path.join(folder, 'facts', f'{shard_name(shard)}.parquet')
    lines: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return lines


@dataclass(frozen=True)
class ReadTask:
    """Reads the slices of each shard of the inventory."""
    shards: Sequence[Shard]
    folder: str
    files: FileRules

    def __call__(self, index: int) -> None:
        reader = SliceReader(paths_of(self.folder), self.files)
        name = shard_name(index)
        progress = Progress(self.folder, _SLICES, name)
        with whole_file(os.path.join(self.folder, 'facts', f'{name}.parquet')) as part:
            writer = LineWriter(part, SCHEMA)
            for line, content in read_shard(self.shards[index]):
                row, _ = parsed(content, self.shards[index].source, line)
                item = reader.read(row.data['source'], row.data['place'], row.data['slice'])
                writer.add((row.row_id, index, *item))
                progress.add()
            writer.close()
        progress.end()


@dataclass(frozen=True)
class CheckTask:
    """Checks all series, and writes what becomes of each slice, by shard, and the table of series."""
    folder: str
    num_shards: int
    step: DicomStep

    def __call__(self, index: int) -> None:
        top = os.path.join(self.folder, 'verdicts')
        os.makedirs(top, exist_ok=True)
        paths = [os.path.join(top, f'{shard_name(shard)}.parquet') for shard in range(self.num_shards)]
        writers = [LineWriter(f'{path}.part', _VERDICTS) for path in paths]
        lines = []
        progress = Progress(self.folder, _SERIES, 'all')
        for key, members in self._series():
            series = check([slice_of(line) for line in members], self.step.limits)
            by_slice, verdict = self._decisions(series, [line['row_id'] for line in members])
            lines.append(line_of(key, series, verdict))
            place_of = {number: place for place, number in enumerate(series.order)}
            for number, line in enumerate(members):
                faults = orjson.dumps([[*decision] for decision in by_slice[number]]).decode()
                place = place_of.get(number, -1)
                writers[line['shard']].add((line['row_id'], place, len(series.order), series.step, faults))
            progress.add()
        for writer, path in zip(writers, paths):
            writer.close()
            os.replace(f'{path}.part', path)
        write_json(os.path.join(self.folder, 'series.json'), lines)
        progress.end()

    def _series(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The lines of each series, sorted by their names."""
        files = [os.path.join(self.folder, 'facts', f'{shard_name(shard)}.parquet')
                 for shard in range(self.num_shards)]  # yapf: disable
        # Without a UID: the slices of a folder belong together.
        key = "CASE WHEN problem IN ('no-image', 'other-file') OR problem <> '' AND series = '' THEN source " \
              "WHEN series = '' AND is_volume THEN regexp_replace(source, '[^/]*$', '') " \
              "WHEN series = '' THEN source ELSE series END"
        with connected(os.path.join(self.folder, 'spill')) as connection:
            cursor = connection.execute(f'SELECT {key} AS key, * FROM read_parquet(?) ORDER BY key, source, place',
                                        [files])  # yapf: disable
            names = [column[0] for column in cursor.description]

            all_lines = (dict(zip(names, values)) for values in rows_of(cursor))
            for name, lines in groupby(all_lines, key=lambda line: str(line['key'])):
                yield name, list(lines)

    def _decisions(self, series: Series, ids: Sequence[str]) -> tuple[list[list[Decision]], str]:
        """The decisions on each slice, and on the series."""
        whole, of_slices = [], [[] for _ in series.slices]  # type: ignore[var-annotated]
        for fault in series.faults:
            decision = _decision(fault, ids, self.step.broken)
            if fault.slices:
                for number in fault.slices:
                    of_slices[number].append(decision)
            else:
                whole.append(decision)
        counting = set(series.order)
        decisions = [found + (whole if number in counting else []) for number, found in enumerate(of_slices)]
        verdict = strongest(whole) if series.order else strongest([item for found in of_slices for item in found])
        return decisions, verdict


def _decision(fault: Fault, ids: Sequence[str], broken: str) -> Decision:
    if fault.evidence is not None:
        verdict = 'merged'
    elif fault.slices:
        verdict = 'dropped'
    else:
        verdict = 'review' if fault.rule in DOUBTS else broken
    evidence = '' if fault.evidence is None else ids[fault.evidence]
    return Decision(fault.rule, verdict, fault.measure, fault.threshold, evidence, fault.detail)
