"""What a step of `citrusv data` is: rows in, decisions out."""
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

from ..files.rules import FileRules
from .inputs import InputFile, Shard, find_files, hash_files

# From the weakest to the strongest: of several decisions on a row, the strongest says what becomes of it.
VERDICTS = ('kept', 'changed', 'review', 'merged', 'dropped')
# Rows with these go on.
GOING_ON = ('kept', 'changed')


class Decision(NamedTuple):
    """Why a row does not stay as it is.

    Attributes:
        rule: The name of the rule.
        verdict: One of `VERDICTS`.
        measure: What was measured; None if the rule measures nothing.
        threshold: What it was compared with.
        evidence_id: The row, file or benchmark item that the decision refers to; '' for none.
        detail: A few words for people.
    """
    rule: str
    verdict: str
    measure: float | None = None
    threshold: float | None = None
    evidence_id: str = ''
    detail: str = ''


@dataclass(frozen=True, slots=True)
class Row:
    """A row that a step decides on.

    Attributes:
        row_id: Its id for life.
        source, line: Where it stands in the input of this step.
        text: Its JSON, with the id.
        data: The parsed JSON.
        is_strict: Whether it is JSON by the standard: no NaN, no half of a surrogate pair.
    """
    row_id: str
    source: str
    line: int
    text: bytes
    data: dict[str, Any]
    is_strict: bool = True


class Ruling(NamedTuple):
    """The decisions on a row; none: it is kept. `text` is its new JSON if one of them is 'changed'."""
    decisions: Sequence[Decision] = ()
    text: bytes | None = None


class Stage(NamedTuple):
    """A part of a run: `task(index)` for each index below `num_tasks`, in any order, in any process.

    A task writes its files under other names and renames them at its end, so that it can be repeated.

    Attributes:
        name: For the progress bar and the logs.
        task: Picklable.
        num_tasks: The number of tasks.
        folder: The work folder of its step.
        total: How many things the tasks count by `Progress`; None if that is unknown.
        unit: What they count; '' if they count nothing.
    """
    name: str
    task: Callable[[int], None]
    num_tasks: int
    folder: str
    total: int | None = None
    unit: str = ''


class Step(ABC):
    """A step. Instances are pickled into the worker processes, so they hold options only.

    Attributes:
        name: Its name on the command line.
        reads_folders: Whether its input are folders of files, whose inventory are its rows, and not rows.
        shows_result: Whether reports and review show what it made of a row, and not the row before.
        writes_files: Whether its rows name files below `files/` of its output.
    """
    name: ClassVar[str]
    # What rows may name, and where: a field of every step.
    files: FileRules
    reads_folders: ClassVar[bool] = False
    shows_result: ClassVar[bool] = False
    writes_files: ClassVar[bool] = False

    @abstractmethod
    def rules(self) -> Mapping[str, str]:
        """Every rule in a few words, in the order of the report."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """All that the result depends on beside the input, as JSON: options, hashes of files that it reads."""

    @abstractmethod
    def judge(self, folder: str, shard: int) -> Callable[[Row], Ruling]:
        """The function that decides; called once for each shard, in the worker.

        Args:
            folder: The work folder of the run, with what `stages` has written.
            shard: The number of the shard.
        """

    def input_files(self, inputs: Sequence[str], folder: str, quiet: bool) -> list[InputFile]:
        """The files of rows that the arguments of the command name.

        Args:
            inputs: Files and folders.
            folder: The work folder, for what the step makes of folders that hold no rows.
            quiet: Whether to show no progress bar.
        """
        return hash_files(find_files(inputs), quiet)

    def shard_bytes(self, total: int, most: int) -> int:
        """The size of a part of the input.

        Args:
            total: Bytes of the whole input.
            most: What the command asks for.
        """
        return most

    def place(self, row: Row) -> tuple[str, int]:
        """Source and line of a row in the ledger."""
        return row.source, row.line

    def with_files_of(self, folder: str) -> 'Step':
        """This step, where rows name files below a folder: the output of a step before."""
        return replace(self, files=replace(self.files, image_dir=folder))  # type: ignore[type-var]

    def stages(self, folder: str, shards: Sequence[Shard]) -> Sequence[Stage]:
        """What must run over all rows before any decision; none by default."""
        return ()

    def documents(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        """JSON files, and tables as CSV, beside the summary, by name; none by default.

        Args:
            folder: The work folder of the run.
            summary: The summary.
        """
        return {}

    def sections(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, str]:
        """Further sections of the report, by title, as HTML; none by default."""
        return {}


def small_shards(total: int, most: int) -> int:
    """The size of a part of the input where a row costs seconds: some 64 parts, or more."""
    return min(most, max(total // 64, 1 << 10), 1 << 16)


def rules_recipe(rules: FileRules) -> dict[str, Any]:
    """What rows may name, for a recipe; where the files lie is no part of it."""
    return {name: value for name, value in asdict(rules).items() if name not in ('data_root', 'image_dir')}


def strongest(decisions: Sequence[Decision]) -> str:
    """What becomes of a row."""
    return max((decision.verdict for decision in decisions), key=VERDICTS.index, default='kept')
