"""The step `deid`."""
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...files.rules import FileRules
from ..data_files import read_json
from ..inputs import InputFile, Shard, find_files, hash_files
from ..inventory import NAME, has_rows, paths_of, take
from ..progress import Progress
from ..shard_task import shard_name
from ..step import Row, Ruling, Stage, Step, rules_recipe, small_shards
from .clean import FileCleaner, Options
from .prove import ProveTask
from .pseudonyms import Pseudonyms
from .row import RowCleaner
from .text import TextCleaner

_FILE_RULES = {
    'header': 'elements of a DICOM header that were removed, emptied, replaced or moved',
    'pixel-text': 'text in pixels, blanked',
    'metadata': 'EXIF, comments and texts of an image or NIfTI file, removed',
    'copied': 'a file with nothing to take out, under a new name',
    'cannot-clean': 'a file that cannot be read, or not be cleaned for certain',
    'media': 'a film or sound, which is not cleaned',
    'other-file': 'no image',
    'read-again': 'text that an engine still reads in what was written',
}
_CODES = {'person': 'a patient, study or series by its column', TextCleaner.KNOWN: 'a name or number of its header'}


@dataclass(frozen=True)
class DeidStep(Step):
    """Takes identities out of rows and of the files that they name, or out of all files of folders.

    Attributes:
        options: How.
        columns: The columns of patient, study and series.
        num_planted: How many invented identities of each kind the proof plants; 0 without a proof.
        files: What rows may name.
    """
    name: ClassVar[str] = 'deid'
    shows_result: ClassVar[bool] = True
    writes_files: ClassVar[bool] = True
    options: Options
    columns: tuple[tuple[str, str], ...] = (('patient', 'patient'), ('study', 'study'), ('series', 'series'))
    num_planted: int = 0
    files: FileRules = FileRules()

    def rules(self) -> Mapping[str, str]:
        return {**_FILE_RULES, **_CODES, **{rule.name: rule.text for rule in self.options.rules.texts}}

    def recipe(self) -> dict[str, Any]:
        options = self.options
        return {
            'rules_sha256': options.rules.sha256, 'key': Pseudonyms(options.key).key_id(), 'keep': sorted(options.keep),
            'dates': 'moved' if options.moves_dates else 'removed', 'engines': list(options.engines),
            'blank_outside_regions': options.blanks_outside, 'prove': options.proves, 'planted': self.num_planted,
            'columns': dict(self.columns), 'files': rules_recipe(self.files)}  # yapf: disable

    def input_files(self, inputs: Sequence[str], folder: str, quiet: bool) -> list[InputFile]:
        if all(has_rows(name) for name in inputs):
            return hash_files(find_files(inputs), quiet)
        return take(inputs, folder, lambda path: [{'place': 0}], quiet)

    def shard_bytes(self, total: int, most: int) -> int:
        return small_shards(total, most)

    def place(self, row: Row) -> tuple[str, int]:
        return (row.data['source'], 1) if _is_file(row) else (row.source, row.line)

    def stages(self, folder: str, shards: Sequence[Shard]) -> Sequence[Stage]:
        if not self.num_planted:
            return ()
        return [Stage('deid-prove', ProveTask(self.options, self.num_planted, folder), 1, folder, None, 'planted')]

    def judge(self, folder: str, shard: int) -> Callable[[Row], Ruling]:
        progress = Progress(folder, 'frames', shard_name(shard))
        cleaner = FileCleaner(self.options, folder, progress.add)
        paths = paths_of(folder) if os.path.exists(os.path.join(folder, 'inventory')) else {}
        rows = RowCleaner(cleaner, self.files, {column: level for level, column in self.columns})

        def decide(row: Row) -> Ruling:
            if paths and _is_file(row):
                return rows.clean_file(paths[row.data['source']], row.row_id)
            return rows.clean_row(row.data)

        return decide

    def documents(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        path = os.path.join(folder, 'proof.json')
        return {'proof.json': read_json(path)} if os.path.exists(path) else {}

    def sections(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, str]:
        from .prove import html_of
        path = os.path.join(folder, 'proof.json')
        return {'Proof': html_of(read_json(path))} if os.path.exists(path) else {}


def _is_file(row: Row) -> bool:
    """Whether a row is a line of an inventory."""
    return row.source == NAME and row.data.keys() == {'source', 'sha256', 'place', 'row_id'}
