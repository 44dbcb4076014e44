"""The patches for reading datasets: rows of every file format with row numbers.

Replaces `_load_dataset_path` and `_load_repo_dataset` of `swift.dataset.loader.DatasetLoader`, and
`swift.dataset.preprocessor.RowPreprocessor.batched_preprocess`.
"""
import copy
import functools
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from ..constants import ROW_COLUMN
from ..errors import ROW_ERRORS, RowError
from ..rows.columns import ColumnRules
from .wrapping import wrap


def patch_dataset_loading() -> None:
    """Reads files with row numbers and any mix of mask formats. Called in Citrus-V runs only."""
    from swift.dataset import loader as loader_module
    from swift.dataset.preprocessor import RowPreprocessor
    from swift.template import MaxLengthError

    from ..training.jsonl_dataset import keep_columns
    keep_columns()

    # Why: it passes the file to `datasets`, which infers column types (and fails on mixed mask formats), has no row
    # numbers, and drops or pads rows. And a column that `--columns` renames to `masks` would exist twice.
    def load_dataset_path(original):

        def patched(self, dataset_path, dataset_meta):
            from ..rows.records import is_row_file
            if not is_row_file(str(dataset_path)):
                return original(self, dataset_path, dataset_meta)
            rules = column_rules(self, dataset_meta.preprocess_func)
            reader = _Reader(self, rules)
            meta = _with_func(dataset_meta, _without_columns(dataset_meta.preprocess_func))
            with _replaced(loader_module, 'hf_load_dataset', lambda *args, **kwargs: reader.read([dataset_path])), \
                    _replaced(self, 'columns', None):
                dataset = original(self, dataset_path, meta)
            reader.check_dropped(dataset)
            return dataset

        return patched

    # Why: as for `_load_dataset_path`, for the files of a local folder.
    def load_repo_dataset(original):

        def patched(self, dataset_id, subset, **kwargs):
            from ..training.folders import folder_files, slice_split
            files: dict[str, Any] = {}
            if os.path.isdir(dataset_id):
                files = {split: folder_files(dataset_id, subset.subset, split) for split in subset.split}
            if not files or not all(files.values()) or self.streaming and any('[' in split for split in files):
                return original(self, dataset_id, subset, **kwargs)
            rules = column_rules(self, subset.preprocess_func)
            reader = _Reader(self, rules)

            class Hub:
                """Stands in for ms-swift's hub of local folders."""

                @staticmethod
                def load_dataset(dataset_id, subset_name, split, **kwargs):
                    if self.streaming:
                        return reader.read(files[split])
                    with loader_module.safe_ddp_context(None, True):
                        return reader.read(files[split], lambda rows: slice_split(rows, split))

            subset = _with_func(subset, _without_columns(subset.preprocess_func))
            with _replaced(loader_module, 'get_hub', lambda *args: Hub), _replaced(self, 'columns', None):
                dataset = original(self, dataset_id, subset, **kwargs)
            reader.check_dropped(dataset)
            return dataset

        return patched

    # Why: an error in a preprocessor (an unknown role, for example) does not name the row of the batch.
    def batched_preprocess(original):

        def patched(self, batched_row, *, strict, ignore_max_length_error):
            run = functools.partial(original, self, strict=strict, ignore_max_length_error=ignore_max_length_error)
            try:
                return run(batched_row)
            except (RowError, MaxLengthError):
                raise
            except ROW_ERRORS:
                for i, row_id in enumerate(batched_row.get(ROW_COLUMN, ())):
                    try:
                        run({key: [values[i]] for key, values in batched_row.items()})
                    except ROW_ERRORS as e:
                        raise RowError(row_id, f'ms-swift raises {type(e).__name__}: {e}.',
                                       "Compare the row with ms-swift's data format.", 'preprocessor') from e
                raise

        return patched

    wrap(RowPreprocessor, 'batched_preprocess', ('self', 'batched_row', 'strict', 'ignore_max_length_error'),
         batched_preprocess)
    wrap(loader_module.DatasetLoader, '_load_dataset_path', ('self', 'dataset_path', 'dataset_meta'), load_dataset_path)
    wrap(loader_module.DatasetLoader, '_load_repo_dataset', ('self', 'dataset_id', 'subset', 'use_hf', 'revision'),
         load_repo_dataset)


class _Reader:
    """Reads files for a loader of ms-swift, and remembers the rows that its preprocessor gets.

    Args:
        loader: A `swift.dataset.loader.DatasetLoader`.
        rules: How the columns are read.
    """

    def __init__(self, loader: Any, rules: ColumnRules) -> None:
        self.loader, self.rules = loader, rules
        self._read: list[Any] = []

    def read(self, paths: Sequence[str], select: Callable[[Any], Any] = lambda rows: rows) -> Any:
        """The files as a dataset, of which `select` may take a part, or as a stream with `--streaming true`."""
        if self.loader.streaming:
            from ..training.stream_jsonl import stream_rows
            return stream_rows(paths, strict=self.loader.strict, rules=self.rules)
        from modelscope.hub.utils.utils import get_cache_dir

        from ..training.jsonl_dataset import load_rows
        cache_dir = os.path.join(get_cache_dir(), 'datasets')
        dataset = select(load_rows(paths, strict=self.loader.strict, cache_dir=cache_dir, rules=self.rules))
        self._read.append(dataset.select_columns(ROW_COLUMN))
        return dataset

    def check_dropped(self, after: Any) -> None:
        """Finds the rows that ms-swift's preprocessor has dropped; for streams, `streaming` does."""
        if not self.loader.streaming:
            from datasets import concatenate_datasets

            from ..training.jsonl_dataset import check_dropped_rows
            check_dropped_rows(concatenate_datasets(self._read), after, strict=self.loader.strict)


@contextmanager
def _replaced(owner: Any, name: str, value: Any):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


# ---- columns


def column_rules(loader: Any, preprocess_func: Callable) -> ColumnRules:
    """How ms-swift reads the columns of a dataset.

    Args:
        loader: Its `DatasetLoader`, with `--columns` and `--disable_auto_column_mapping`.
        preprocess_func: Its preprocessor, with the `columns` of the dataset info.
    """
    from swift.dataset.preprocessor import AutoPreprocessor, MessagesPreprocessor, RowPreprocessor
    own = None
    known = False
    if isinstance(preprocess_func, AutoPreprocessor):
        own, known = preprocess_func.columns, not preprocess_func.kwargs
    elif isinstance(preprocess_func, RowPreprocessor):
        own = preprocess_func.origin_columns
        known = type(preprocess_func) is MessagesPreprocessor and _settings(preprocess_func) == _settings(
            MessagesPreprocessor())
    layout: Any = 'own' if not known else 'messages' if loader.disable_auto_column_mapping else 'auto'
    return ColumnRules.from_mapping(loader.columns, own, layout=layout)


def _settings(preprocessor: Any) -> dict[str, Any]:
    names = ('role_keys', 'content_keys', 'user_roles', 'assistant_roles', 'system_role', 'inner_key', 'message_format',
             'repair_messages')
    return {name: getattr(preprocessor, name) for name in names}


def _without_columns(preprocess_func: Any) -> Any:
    """The preprocessor without the user's mapping, which the reader has applied."""
    from swift.dataset.preprocessor import AutoPreprocessor, RowPreprocessor
    if not isinstance(preprocess_func, (AutoPreprocessor, RowPreprocessor)):
        return preprocess_func
    func = copy.copy(preprocess_func)
    if isinstance(func, RowPreprocessor):
        func.columns = {key: name for key, name in func.columns.items() if func.origin_columns.get(key) != name}
        func.origin_columns = {}
    else:
        func.columns = {}
    return func


def _with_func(meta: Any, preprocess_func: Callable) -> Any:
    meta = copy.copy(meta)
    meta.preprocess_func = preprocess_func
    return meta
