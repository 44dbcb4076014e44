"""The patches for reading datasets: JSONL with row numbers.

Replaces `swift.dataset.loader.DatasetLoader._load_dataset_path` and
`swift.dataset.preprocessor.RowPreprocessor.batched_preprocess`.
"""
import functools

from ..constants import ROW_COLUMN
from ..errors import ROW_ERRORS, RowError
from .wrapping import wrap


def patch_dataset_loading() -> None:
    """Reads JSONL with row numbers and any mix of mask formats. Called in Citrus-V runs only."""
    from swift.dataset import loader as loader_module
    from swift.dataset.preprocessor import RowPreprocessor
    from swift.template import MaxLengthError

    from ..training.jsonl_dataset import keep_columns
    keep_columns()

    # Why: it passes the file to `datasets`, which infers column types (and fails on mixed mask formats) and has no row
    # numbers.
    def load_dataset_path(original):

        def patched(self, dataset_path, dataset_meta):
            if self.streaming or not str(dataset_path).endswith('.jsonl'):
                return original(self, dataset_path, dataset_meta)
            from ..training.jsonl_dataset import check_dropped_rows, load_jsonl
            hf_load_dataset = loader_module.hf_load_dataset
            read = []

            def load(*args, cache_dir, **kwargs):
                read.append(load_jsonl(dataset_path, strict=self.strict, cache_dir=cache_dir))
                return read[0]

            loader_module.hf_load_dataset = load
            try:
                dataset = original(self, dataset_path, dataset_meta)
            finally:
                loader_module.hf_load_dataset = hf_load_dataset
            check_dropped_rows(read[0], dataset, strict=self.strict)
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
