"""The step `leaks`."""
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...files.rules import FileRules
from ..data_files import read_json
from ..dedup.step import IMAGE_THRESHOLD
from ..inputs import Shard
from ..step import Decision, Row, Ruling, Stage, Step, rules_recipe
from .evaluation_sets import EvaluationSet
from .index import INDEXED, IndexTask
from .matches import Seeker

LEVELS = {
    'pair': 'an image of an evaluation set with its question or answer',
    'image': 'an image of an evaluation set, or a copy of it',
    'text': 'a question, an answer or a report of an evaluation set',
    'study': 'an image of a study of an evaluation set',
    'patient': 'a patient of an evaluation set',
}
# Further items that a decision names.
_MAX_NAMED = 5


@dataclass(frozen=True)
class LeaksStep(Step):
    """Drops rows that hold what an evaluation set asks.

    Attributes:
        sets: The evaluation sets.
        levels: Which of `LEVELS` count.
        text_threshold: The smallest part of an item's text that a row must hold.
        image_threshold: The smallest likeness of copies of an image.
        reads_images: Whether to open the images of rows.
        columns: The columns of study and patient, by level.
        files: What rows may name.
    """
    name: ClassVar[str] = 'leaks'
    sets: Sequence[EvaluationSet]
    levels: Sequence[str] = tuple(LEVELS)
    text_threshold: float = .8
    image_threshold: float = IMAGE_THRESHOLD
    reads_images: bool = True
    columns: tuple[tuple[str, str], ...] = (('study', 'study'), ('patient', 'patient'))
    files: FileRules = FileRules()

    def rules(self) -> Mapping[str, str]:
        return {level: text for level, text in LEVELS.items() if level in self.levels}

    def recipe(self) -> dict[str, Any]:
        return {
            'against': [{'set': item.name, 'kind': item.kind, 'files': len(item.files),
                         'files_not_read': item.num_unread, 'sha256': item.sha256()}
                        for item in self.sets],
            'levels': [level for level in LEVELS if level in self.levels],
            'text_threshold': self.text_threshold,
            'image_threshold': self.image_threshold,
            'images': self.reads_images,
            'columns': dict(self.columns),
            'files': rules_recipe(self.files),
        }  # yapf: disable

    def stages(self, folder: str, shards: Sequence[Shard]) -> Sequence[Stage]:
        task = IndexTask(self.sets, folder, self.files, dict(self.columns))
        return [Stage('leaks-index', task, 1, folder, None, INDEXED)]

    def judge(self, folder: str, shard: int) -> Callable[[Row], Ruling]:
        seeker = Seeker(folder, self.files, dict(self.columns), self.text_threshold, self.image_threshold,
                        self.reads_images)

        def decide(row: Row) -> Ruling:
            found = seeker.seek(row.data, f'{row.source}:{row.line}')
            pairs = {item: min(measure, found.texts[item]) for item, measure in found.images.items()
                     if item in found.texts}  # yapf: disable
            by_level = {
                'pair': (pairs, None),
                'image': ({item: found.images[item] for item in found.images.keys() - pairs.keys()},
                          self.image_threshold),
                'text': ({item: found.texts[item] for item in found.texts.keys() - pairs.keys()},
                         self.text_threshold),
                **{level: (found.persons.get(level, {}), None) for level in ('study', 'patient')},
            }  # yapf: disable
            return Ruling([
                _decision(level, items, threshold, seeker.ids) for level, (items, threshold) in by_level.items()
                if items and level in self.levels
            ])

        return decide

    def documents(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        # As it was when the run was planned.
        recipe, = summary['run']['steps']
        counts = read_json(os.path.join(folder, 'index', 'counts.json'))
        return {
            'certificate.json': {
                'rows': summary['in'],
                'rows_without_a_leak': summary['in'] - summary['dropped'] - summary['review'],
                'rows_that_cannot_be_read': summary['review'],
                'leaks': {level: summary['rules'][level].get('dropped', 0) for level in recipe['levels']},
                'evaluation_sets': [{**item, **count} for item, count in zip(recipe['against'], counts)],
                'thresholds': {'text': self.text_threshold, 'image': self.image_threshold},
                'images_compared': self.reads_images,
                'input': summary['run']['input'],
            }
        }  # yapf: disable


def _decision(level: str, items: Mapping[int, float], threshold: float | None, ids: Sequence[str]) -> Decision:
    """The decision for a level; the surest item first."""
    order = sorted(items, key=lambda item: (-items[item], item))
    others = [ids[item] for item in order[1:1 + _MAX_NAMED]]
    more = len(order) - 1 - len(others)
    detail = f'also {", ".join(others)}{f" and {more} more" if more else ""}' if others else ''
    return Decision(level, 'dropped', items[order[0]], threshold, ids[order[0]], detail)
