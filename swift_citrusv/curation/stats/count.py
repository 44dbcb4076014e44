"""Counts what rows hold, part by part; the parts add up."""
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RowError
from ...files.errors import IMAGE_ERRORS
from ...files.images import open_image
from ...files.rules import FileRules
from ..data_files import read_json, write_json
from ..images import images_of, listed, remembered
from ..inputs import Shard, read_shard
from ..labels import LABELS, label_of
from ..progress import Progress
from ..shard_task import parsed, shard_name
from ..texts import row_text, token_counter

# Edges of tokens: powers of 2 in halves.
_STEPS = 2
# Values of a column that are counted by name; the rest together.
MOST_VALUES = 2000
# What a row is, from the most special to the plainest.
FORMS = ('image and masks', 'image and boxes', 'image and text', 'text', 'video or sound')
NO_VALUE, OTHERS = '(none)', '(more values)'


@dataclass(frozen=True)
class Columns:
    """The columns of rows that have a meaning.

    Attributes:
        labels: The columns of modality, task and region, by dimension.
        dataset: The column that names the data set of a row; where it is absent, the file counts.
        kind: The column of the type of data: public, synthesized and the like.
        others: Further columns to count.
    """
    labels: tuple[tuple[str, str], ...] = tuple((name, name) for name in LABELS)
    dataset: str = 'dataset'
    kind: str = 'type'
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class CountTask:
    """Counts the rows of each shard.

    Attributes:
        shards: The shards.
        stages: The name of the set that each shard belongs to: its argument of the command.
        folder: The work folder.
        columns: What to count.
        tokenizer: A folder with `tokenizer.json`; None: characters and words.
        reads_images: Whether to open images for their size.
        files: What rows may name.
    """
    shards: Sequence[Shard]
    stages: Sequence[str]
    folder: str
    columns: Columns
    tokenizer: str | None
    reads_images: bool
    files: FileRules

    def __call__(self, index: int) -> None:
        counter = RowCounter(self.columns, token_counter(self.tokenizer), self.reads_images, self.files)
        progress = Progress(self.folder, 'rows', shard_name(index))
        shard = self.shards[index]
        for line, content in read_shard(shard):
            row, problems = parsed(content, shard.source, line)
            if problems:
                counter.counts['unreadable'][problems[0].rule] += 1
            else:
                counter.add(row.data, self.stages[index], shard.source, f'{shard.source}:{line}')
            progress.add()
        progress.end()
        write_json(os.path.join(self.folder, 'counts', f'{shard_name(index)}.json'), counter.as_json())


class RowCounter:
    """Counts rows.

    Args:
        columns: What to count.
        count_tokens: Counts the tokens of a text.
        reads_images: Whether to open images.
        files: What rows may name.
    """

    def __init__(self, columns: Columns, count_tokens: Callable[[str], int], reads_images: bool,
                 files: FileRules) -> None:
        self._columns, self._tokens, self._reads_images = columns, count_tokens, reads_images
        self.counts: dict[str, Counter[str]] = {}
        for name in ('total', 'unreadable', 'form', 'kind', 'dataset', 'turns', 'images', 'masks', 'question tokens',
                     'answer tokens', 'image sizes', *(f'label {name}' for name, _ in columns.labels),
                     *(f'unknown {name}' for name, _ in columns.labels), *(f'column {name}' for name in columns.others),
                     'stage', 'stage modality', 'dataset kind'):  # yapf: disable
            self.counts[name] = Counter()
        self._size = remembered(lambda image: _size_of(image, files))

    def add(self, data: Mapping[str, Any], stage: str, source: str, name: str) -> None:
        """Counts a row.

        Args:
            data: The row.
            stage: The set that it belongs to.
            source: Its file.
            name: For errors.
        """
        counts, total = self.counts, self.counts['total']
        try:
            text = row_text(data, name)
        except RowError:
            counts['unreadable']['contract'] += 1
            return
        images = images_of(data)
        masks = listed(data.get('masks'))
        form = FORMS[_form(data, bool(images), bool(masks))]
        questions, answers = self._tokens('\n'.join(text.questions)), self._tokens('\n'.join(text.answers))
        total.update(rows=1, images=len(images), masks=len(masks), tokens=questions + answers)
        counts['form'][form] += 1
        counts['turns'][str(len(text.answers))] += 1
        counts['images'][str(len(images))] += 1
        if masks:
            counts['masks'][str(len(masks))] += 1
        counts['question tokens'][str(bucket(questions))] += 1
        counts['answer tokens'][str(bucket(answers))] += 1
        kind = _text(data.get(self._columns.kind)) or NO_VALUE
        dataset = _text(data.get(self._columns.dataset)) or source
        counts['kind'][kind] += 1
        counts['dataset'][dataset] += 1
        counts['dataset kind'][f'{form}\t{dataset}'] += 1
        counts['stage'][stage] += 1
        for dimension, column in self._columns.labels:
            # Rows without an image have no modality and no region; the paper counts tasks of all rows.
            if images or dimension == 'task':
                self._label(dimension, data.get(column), stage if dimension == 'modality' else None)
        for column in self._columns.others:
            for value in listed(data.get(column)) or [NO_VALUE]:
                _add(counts[f'column {column}'], _text(value) or NO_VALUE)
        if self._reads_images:
            for image in images:
                _add(counts['image sizes'], self._size(image))

    def _label(self, dimension: str, value: Any, stage: str | None) -> None:
        values = [_text(item) for item in listed(value)]
        for text in values or ['']:
            label = label_of(dimension, text) if text else NO_VALUE
            if label is None:
                _add(self.counts[f'unknown {dimension}'], text)
                label = 'Other'
            self.counts[f'label {dimension}'][label] += 1
            if stage is not None:
                self.counts['stage modality'][f'{stage}\t{label}'] += 1

    def as_json(self) -> dict[str, dict[str, int]]:
        """For a file."""
        return {name: dict(found) for name, found in self.counts.items()}


def bucket(count: int) -> int:
    """The lower edge of the range that a number lies in: 0, 1, 2, 3, 4, 6, 8, 11, 16, ..."""
    if count < 4:
        return count
    power = math.floor(math.log2(count) * _STEPS + 1e-9)
    return math.ceil(2**(power / _STEPS) - 1e-9)


def merged(folder: str, num_shards: int) -> dict[str, Counter[str]]:
    """The counts of all shards."""
    total: dict[str, Counter[str]] = {}
    for shard in range(num_shards):
        part = read_json(os.path.join(folder, 'counts', f'{shard_name(shard)}.json'))
        for name, found in part.items():
            total.setdefault(name, Counter()).update(found)
    return total


def _form(data: Mapping[str, Any], has_images: bool, has_masks: bool) -> int:
    if any(data.get(name) for name in ('videos', 'audios')):
        return 4
    if not has_images:
        return 3
    objects = data.get('objects')
    has_boxes = isinstance(objects, dict) and bool(objects.get('bbox'))
    return 0 if has_masks else 1 if has_boxes else 2


def _add(counts: Counter[str], value: str) -> None:
    counts[value if value in counts or len(counts) < MOST_VALUES else OTHERS] += 1


def _text(value: Any) -> str:
    return '' if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _size_of(image: Any, files: FileRules) -> str:
    try:
        width, height = open_image(image, files).size
    except (*IMAGE_ERRORS, RowError):
        return 'not opened'
    return f'{width} x {height}'
