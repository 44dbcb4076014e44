"""Encodes the rows of a dataset as a training run does, without loading the model's weights."""
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..constants import MODEL_TYPE, ROW_COLUMN
from ..errors import ROW_ERRORS, RowError
from ..model.published_layout import refuse_published
from ..settings import SettingError, variable

_EXTRA_COLUMNS = ('masks', 'mask_images', ROW_COLUMN)
# Only sets the size of the mask targets; no weights are read.
DEFAULT_SAM2 = 'sam2.1_hiera_l'


def model_type_of(model_dir: str) -> str:
    """Reads the model type from a directory's config.json.

    Raises:
        SettingError: The directory holds no model, or neither a Citrus-V nor a Qwen2.5-VL.
    """
    path = os.path.join(model_dir, 'config.json')
    if not os.path.isfile(path):
        raise SettingError(f'--model {model_dir} holds no config.json. Give a Citrus-V or Qwen2.5-VL directory.')
    with open(path, encoding='utf-8') as file:
        try:
            config = json.load(file)
        except ValueError as error:
            raise SettingError(f'{path} is not JSON ({error}). Repair the checkpoint.') from error
    if isinstance(config, dict):
        refuse_published(config, model_dir)
    model_type = config.get('model_type') if isinstance(config, dict) else None
    if model_type not in (MODEL_TYPE, 'qwen2_5_vl'):
        raise SettingError(f'--model {model_dir} holds a {model_type}; it must be a {MODEL_TYPE} or a qwen2_5_vl.')
    return model_type


@contextmanager
def checking_environment() -> Iterator[None]:
    """Quiets ms-swift's log, and sets a default SAM2 for a plain Qwen2.5-VL, for the duration of a check."""
    defaults = {'LOG_LEVEL': 'ERROR', variable('sam2'): DEFAULT_SAM2}
    added = [name for name in defaults if not os.environ.get(name)]
    before = {name: os.environ.get(name) for name in added}
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class TrainingEncoder:
    """Encodes rows as `swift sft --model_type citrusv` does.

    Args:
        model_dir: A Citrus-V or Qwen2.5-VL directory.
        max_length: As `--max_length`; the model's own limit by default.
        columns: The columns of the whole file. They decide how ms-swift reads a row, not the columns of the row.

    Raises:
        SettingError: The model's processor or configuration cannot be loaded.
    """

    def __init__(self, model_dir: str, max_length: int | None, columns: tuple[str, ...]) -> None:
        from swift.dataset import AutoPreprocessor
        from swift.dataset.preprocessor import RowPreprocessor
        from swift.model import get_model_processor
        from swift.template import get_template

        from ..plugin.datasets import patch_dataset_loading
        from ..plugin.register import register_model, register_template
        register_model()
        register_template()
        patch_dataset_loading()
        model_type_of(model_dir)
        try:
            _, processor = get_model_processor(model_dir, model_type=MODEL_TYPE, load_model=False)
            self.template = get_template(processor, max_length=max_length)
        except (ValueError, OSError, KeyError) as error:
            raise SettingError(f'--model {model_dir} cannot be loaded: {error}') from error
        self.template.set_mode('train')
        self.mask_side = self.template.mask_side
        self._file_columns = tuple(column for column in columns if column not in _EXTRA_COLUMNS)
        stand_in = _ColumnNames((*self._file_columns, *_EXTRA_COLUMNS))
        self._preprocessor = AutoPreprocessor()._get_preprocessor(stand_in)
        renamed = RowPreprocessor.safe_rename_columns(stand_in, self._preprocessor.columns)
        self._new_names = renamed.new_names
        self._kept_columns = [*RowPreprocessor.standard_keys]

    def encode(self, row: Mapping[str, Any], row_id: str, lengths: Counter[int]) -> tuple[dict[str, Any], int]:
        """Encodes a row.

        Args:
            row: The row as it is in the file.
            row_id: Its name, e.g. 'train.jsonl:12'.
            lengths: Counts the length of a row that exceeds `max_length`.

        Returns:
            The row after ms-swift's preprocessors, and its length in tokens.

        Raises:
            RowError: The row breaks the contract, is too long (kind 'MaxLengthError'), or is not readable by ms-swift
                (kind 'preprocessor').
        """
        from swift.template import MaxLengthError
        try:
            converted = self._convert(row, row_id)
            try:
                encoded = self.template.encode(converted, return_length=True)
            except MaxLengthError as error:
                lengths[self._full_length(converted)] += 1
                raise RowError(row_id, str(error).removeprefix(f'{row_id}: '), '', 'MaxLengthError') from error
        except RowError:
            raise
        except ROW_ERRORS as error:
            raise RowError(row_id, f'ms-swift raises {type(error).__name__}: {error}.',
                           "Compare the row with ms-swift's data format.", 'preprocessor') from error
        return {**converted, 'mask_images': json.loads(converted.get('mask_images') or 'null')}, encoded['lengths'][0]

    def _full_length(self, row: Mapping[str, Any]) -> int:
        limit, self.template.max_length = self.template.max_length, None
        try:
            return self.template.encode(row, return_length=True)['lengths'][0]
        finally:
            self.template.max_length = limit

    def _convert(self, row: Mapping[str, Any], row_id: str) -> dict[str, Any]:
        # As `training.jsonl_dataset` writes it, with None for columns of the file that the row lacks.
        full = {column: row.get(column) for column in self._file_columns}
        full.update({key: json.dumps(row[key]) if row.get(key) else None for key in ('masks', 'mask_images')})
        full[ROW_COLUMN] = row_id
        renamed = {self._new_names.get(column, column): [value] for column, value in full.items()}
        result = self._preprocessor.batched_preprocess(renamed, strict=True, ignore_max_length_error=False)
        if not result.get('messages'):
            raise RowError(row_id, 'ms-swift finds no messages in the row and drops it.',
                           "Write 'messages' as a list of {'role': ..., 'content': ...}, one per turn.", 'preprocessor')
        return {key: result[key][0] for key in self._kept_columns if key in result}


class _ColumnNames:
    """Stands in for a `datasets.Dataset` in `RowPreprocessor.safe_rename_columns`."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.features = dict.fromkeys(columns)
        self.new_names: dict[str, str] = {}

    def rename_columns(self, new_names: dict[str, str]) -> '_ColumnNames':
        self.new_names = new_names
        return self
