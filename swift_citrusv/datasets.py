"""Rows from JSONL to the trainer: reading with row numbers, lengths, best-fit packs, and skips that are counted.

ms-swift reads JSONL with column types guessed from the first chunk, so that a file whose masks take several forms
fails in the middle, and no error says which row it was. `load_jsonl` reads the lines itself.
"""
import datasets as hf_datasets
import json
import os
import torch.distributed as dist
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from swift.dataset import AddLengthPreprocessor
from swift.dataset.preprocessor import RowPreprocessor
from swift.utils import get_dist_setting, get_logger, is_dist, is_master
from torch.utils.data import Dataset
from tqdm import tqdm
from typing import Any

from .constants import NUM_IMAGES_COLUMN, ROW_COLUMN
from .errors import RowError
from .jsonl import check_columns, filled_columns, parse_line, read_lines
from .packing import lower_bound, pack_best_fit
from .settings import Settings

logger = get_logger()
# Written as JSON text, since one Arrow column cannot hold an RLE, a polygon and a path.
_TEXT_COLUMNS = ('masks', 'mask_images')
_EXTRA_COLUMNS = (*_TEXT_COLUMNS, ROW_COLUMN, NUM_IMAGES_COLUMN)


def keep_columns() -> None:
    """Tells ms-swift's preprocessors to keep the columns of the row contract."""
    RowPreprocessor.standard_keys += [key for key in _EXTRA_COLUMNS if key not in RowPreprocessor.standard_keys]


@dataclass
class Skips:
    """Rows left out with `--strict false`, counted by kind."""
    counts: Counter = field(default_factory=Counter)

    def add(self, error: Exception) -> None:
        kind = getattr(error, 'kind', type(error).__name__)
        self.counts[kind] += 1
        logger.warning(f'skipped ({sum(self.counts.values())} so far): {error}')

    def report(self, what: str, num_rows: int) -> None:
        if self.counts:
            kinds = ', '.join(f'{kind}: {count}' for kind, count in self.counts.most_common())
            logger.warning(f'{what}: {sum(self.counts.values())} of {num_rows} rows were skipped ({kinds}).')


def scan_jsonl(path: str, strict: bool) -> tuple[list[str], list[int], int]:
    """Checks every line.

    Args:
        path: The JSONL file.
        strict: Whether the first bad row ends the run; otherwise it is skipped, and counted.

    Returns:
        The names of all columns, the numbers of the skipped lines, and the number of rows.

    Raises:
        RowError: A bad row, with `strict`, or one that the other rows' columns spoil; or a file without any good row.
    """
    name = os.path.basename(path)
    columns: dict[str, None] = {}
    layouts: dict[frozenset[str], array] = {}
    bad: list[int] = []
    num_rows, skips = 0, Skips()

    def refuse(number: int, error: RowError) -> None:
        if strict:
            raise error
        skips.add(error)
        bad.append(number)

    for number, line in tqdm(read_lines(path), desc=f'Checking {name}', unit=' rows', disable=not is_master()):
        num_rows += 1
        try:
            row = parse_line(line, f'{name}:{number}')
        except RowError as e:
            refuse(number, e)
            continue
        columns.update(dict.fromkeys(row))
        layouts.setdefault(filled_columns(row), array('Q')).append(number)
    for number, error in _spoilt(layouts, columns, name):
        refuse(number, error)
    skips.report(path, num_rows)
    if len(bad) == num_rows:
        raise RowError(name, f'none of its {num_rows} rows can be used.', 'See the errors above.', 'empty')
    return list(columns), bad, num_rows


def _spoilt(layouts: dict[frozenset[str], array], columns: Collection[str], name: str) -> list[tuple[int, RowError]]:
    """The rows that `check_columns` refuses, in order. `layouts` has the lines of the rows with the same columns."""
    errors = {}
    for filled, numbers in layouts.items():
        for number in numbers:
            try:
                check_columns(filled, columns, f'{name}:{number}')
            except RowError as e:
                errors[number] = e
            else:
                break
    return sorted(errors.items())


def _generate(path: str, columns: tuple[str, ...], bad: tuple[int, ...], stamp: tuple[int,
                                                                                      int]) -> Iterator[dict[str, Any]]:
    del stamp  # part of the cache's key: the file's size and time
    skipped = set(bad)
    for number, line in read_lines(path):
        if number in skipped:
            continue
        row = json.loads(line)
        row[ROW_COLUMN] = f'{os.path.basename(path)}:{number}'
        for key in _TEXT_COLUMNS:
            if row.get(key):
                row[key] = json.dumps(row[key], ensure_ascii=False)
            else:
                row[key] = None
        yield {key: row.get(key) for key in (*columns, *_TEXT_COLUMNS, ROW_COLUMN)}


def load_jsonl(path: str, *, strict: bool, cache_dir: str) -> hf_datasets.Dataset:
    """Reads a JSONL file of rows.

    Args:
        path: The file.
        strict: See `scan_jsonl`.
        cache_dir: Where `datasets` keeps its Arrow files.

    Returns:
        The columns of the file, `masks` and `mask_images` as JSON text, and `ROW_COLUMN` with "file.jsonl:line".
    """
    columns, bad, _ = scan_jsonl(path, strict)
    columns = [key for key in columns if key not in _EXTRA_COLUMNS]
    stat = os.stat(path)
    text = hf_datasets.Value('string')
    features = {key: hf_datasets.Json() for key in columns}
    features.update(dict.fromkeys((*_TEXT_COLUMNS, ROW_COLUMN), text))
    return hf_datasets.Dataset.from_generator(
        _generate,
        features=hf_datasets.Features(features),
        cache_dir=cache_dir,
        gen_kwargs={
            'path': os.path.abspath(path),
            # Lists would be taken for shards.
            'columns': tuple(columns),
            'bad': tuple(bad),
            'stamp': (stat.st_size, stat.st_mtime_ns),
        })


class CountedEncode:
    """`template.encode` that logs and counts the rows which fail, before ms-swift takes another row in their place."""

    def __init__(self, template) -> None:
        self.template = template
        self.skips = Skips()

    def __call__(self, row: dict[str, Any], **kwargs: Any) -> Any:
        try:
            return self.template.encode(row, **kwargs)
        except ValueError as e:  # RowError and MaxLengthError
            self.skips.add(e)
            raise


class LengthPreprocessor(AddLengthPreprocessor):
    """As ms-swift's, and notes the number of segmentation images of each row for the packer."""

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any] | None:
        encoded = self.template.encode(row, return_length=True)
        row['lengths'] = encoded['lengths']
        row[NUM_IMAGES_COLUMN] = len(encoded.get('g_pixel_values', ()))
        return row

    def __call__(self, dataset, *, strict: bool = False, **kwargs: Any):
        result = super().__call__(dataset, strict=strict, **kwargs)
        if hasattr(dataset, '__len__') and len(result) < len(dataset):
            logger.warning(f'{len(dataset) - len(result)} of {len(dataset)} rows were skipped because they cannot be '
                           'encoded (--strict false); the log above says why.')
        return result


class PackingDataset(Dataset):
    """Packs of rows by best-fit decreasing, with a budget of tokens and one of segmentation images.

    Takes the place of `swift.dataset.PackingDataset` and has its attributes. A pack is a list of encoded rows.
    """

    def __init__(self,
                 template,
                 dataset,
                 *,
                 packing_length: int | None = None,
                 packing_strategy: str = 'binpack',
                 **kwargs: Any) -> None:
        if packing_strategy != 'binpack':
            raise ValueError(
                f'--packing_strategy {packing_strategy} is not supported with --model_type citrusv: it would '
                'not keep the budget of images. Leave it at binpack.')
        template.packing = template.padding_free = True
        self.template = template
        self.dataset = dataset
        self.packing_length = packing_length or template.max_length
        packs = [self._pack()] if is_master() else [None]
        if is_dist() and dist.is_initialized():
            dist.broadcast_object_list(packs)
        self.packed_idx, self.packed_length = packs[0]  # type: ignore[misc]
        # ms-swift gives each rank the same number of packs, rounded down: of none, it would train on nothing.
        world_size = get_dist_setting()[2]
        if len(self.packed_idx) < world_size:
            raise ValueError(f'{len(self.packed_idx)} packs cannot be shared by {world_size} ranks. Lower '
                             '--packing_length or pack_images, use fewer ranks, or give more rows.')

    def _pack(self) -> tuple[list[list[int]], list[int]]:
        rows = self.dataset.dataset
        lengths = [length[0] for length in rows['lengths']]
        images = list(rows[NUM_IMAGES_COLUMN])
        budget = Settings.from_env().pack_images
        packs = pack_best_fit(lengths, self.packing_length, images=images, image_capacity=budget)
        totals = [sum(lengths[i] for i in pack) for pack in packs]
        bound = lower_bound(lengths, self.packing_length, images=images, image_capacity=budget)
        logger.info(
            f'packed {len(lengths)} rows into {len(packs)} packs (at least {bound} are needed): '
            f'{sum(totals) / (len(packs) * self.packing_length):.1%} of {self.packing_length} tokens full, at most '
            f'{max(sum(images[i] for i in pack) for pack in packs)} of {budget} segmentation images.')
        return packs, totals

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return [self.dataset[i] for i in self.packed_idx[index]]

    def __len__(self) -> int:
        return len(self.packed_idx)
