"""Datasets as the length pass gets them, and what it made of them."""
from datasets import Dataset
from pathlib import Path
from support.rows import write_jsonl

from swift_citrusv.constants import CHUNKS_COLUMN, ROW_COLUMN
from swift_citrusv.encoding.row_length import MeasuringTemplate
from swift_citrusv.training.length_pass import measure_dataset


def load(folder: Path, rows: list[dict], name: str = 'train.jsonl') -> Dataset:
    """The rows after ms-swift's preprocessing."""
    from swift.dataset import AutoPreprocessor

    from swift_citrusv.training.jsonl_dataset import load_jsonl
    path = write_jsonl(folder / name, rows)
    dataset = load_jsonl(path, strict=True, cache_dir=str(folder / 'arrow'))
    return AutoPreprocessor()(dataset, strict=True, load_from_cache_file=False)


class MeasureCalls:
    """The names of the rows that are measured in this process."""

    def __init__(self, monkeypatch) -> None:
        self.rows: list[str] = []
        measure_row = MeasuringTemplate.measure

        def counted(measuring, row):
            self.rows.append(row[ROW_COLUMN])
            return measure_row(measuring, row)

        monkeypatch.setattr(MeasuringTemplate, 'measure', counted)

    def take(self) -> list[str]:
        rows, self.rows = self.rows, []
        return rows


def chunks_of(dataset: Dataset) -> list[list[int]]:
    return [row[CHUNKS_COLUMN] for row in dataset]


def measure_cached(template, dataset, folder, **kwargs) -> list[list[int]]:
    return chunks_of(measure_dataset(template, dataset, strict=True, cache_dir=str(folder / 'cache'), **kwargs))
