"""Finds the files of a folder that ms-swift reads as a dataset (`--dataset FOLDER`)."""
import datasets as hf_datasets
import re
from typing import Any

from ..rows.records import is_row_file

_SPLIT = re.compile(r'(\w+)(\[.*\])?')


def folder_files(folder: str, subset: str, split: str) -> list[str] | None:
    """The files of a split, as `datasets.load_dataset` finds them.

    Args:
        folder: The folder.
        subset: The configuration, as the README of the folder names it; 'default' for a folder without any.
        split: The split, 'train' or 'train[:100]'.

    Returns:
        None if `datasets` has to read the folder itself: it has no such split, or files that are not rows (folders of
        images, archives), or settings of its own for the reader.
    """
    match = _SPLIT.fullmatch(split)
    config: Any = hf_datasets.load_dataset_builder(folder, name=subset).config
    if match is None or not config.data_files or match[1] not in config.data_files:
        return None
    files = [str(file) for file in config.data_files[match[1]]]
    own = getattr(config, 'field', None) is not None or getattr(config, 'sep', ',') != ','
    return files if files and not own and all(map(is_row_file, files)) else None


def slice_split(dataset: hf_datasets.Dataset, split: str) -> hf_datasets.Dataset:
    """The rows that 'train[10:20]' or 'train[:10%]' names, of a dataset with all rows of the split."""
    match = _SPLIT.fullmatch(split)
    if match is None or match[2] is None:
        return dataset
    part, = hf_datasets.ReadInstruction.from_spec(split).to_absolute({match[1]: len(dataset)})
    return dataset.select(range(part.from_ or 0, len(dataset) if part.to is None else part.to))
