"""The patches for `--streaming true`.

Replaces `swift.arguments.DataArguments.__post_init__`; `_inject_dataset_routing_tag` in `swift.dataset.loader`;
`get_features_dataset` and `batched_preprocess` of
`swift.dataset.preprocessor.RowPreprocessor`; `IterablePackingDataset` and `EncodePreprocessor` in
`swift.pipelines.train.sft`; and `SwiftMixin.__init__`, `DataLoaderMixin.get_train_dataloader` and
`DataLoaderMixin.get_eval_dataloader` in `swift.trainers.mixin`.
"""
import sys
from typing import Any

from ..constants import MODEL_TYPE, ROW_COLUMN
from .datasets import patch_dataset_loading
from .wrapping import is_citrusv, wrap, wrap_class

# ms-swift's prefix of a stream's columns between two preprocessors.
_PREFIX = '__@'


def patch_streaming_arguments() -> None:
    """Applies `patch_reading` in Citrus-V runs that stream."""
    from swift.arguments import DataArguments

    # Why: it is the first step of a run at which both are known.
    def stream_post_init(original):

        def patched(self):
            if self.streaming and getattr(self, 'model_type', None) == MODEL_TYPE:
                patch_reading()
            original(self)

        return patched

    wrap(DataArguments, '__post_init__', ('self', ), stream_post_init)


def patch_dataloader_worker() -> None:
    """Applies the patches that a DataLoader worker needs to read a stream; a spawned one does not inherit them."""
    patch_dataset_loading()
    patch_reading()


def patch_reading() -> None:
    """Keeps the columns of streams without inferring their types, and names the rows that are dropped.

    `datasets.patch_dataset_loading` reads the files.
    """
    from datasets import IterableDataset
    from swift.dataset import EncodePreprocessor
    from swift.dataset import loader as loader_module
    from swift.dataset.preprocessor import RowPreprocessor

    from ..training.jsonl_dataset import keep_columns
    from ..training.stream_jsonl import add_dataset_name, with_untyped_columns
    keep_columns()

    # Why: `datasets` would infer the types of a preprocessor's output from its first five rows, and cast the others.
    def features(original):

        def patched(dataset):
            if isinstance(dataset, IterableDataset) and dataset.features is None:
                return with_untyped_columns(dataset)
            return original(dataset)

        return staticmethod(patched)

    # Why: its `map` drops the column types, so joining two streams would infer them again.
    def routing_tag(original):

        def patched(dataset, ds_name):
            if isinstance(dataset, IterableDataset):
                return add_dataset_name(dataset, ds_name)
            return original(dataset, ds_name)

        return patched

    # Why: it renames the columns of a stream, so errors cannot name the row; and with `--strict false` it reports only
    # the first ten rows that it drops.
    def stream_preprocess(original):

        def patched(self, batched_row, *, strict, ignore_max_length_error):
            if not any(key.startswith(_PREFIX) for key in batched_row):
                return original(self, batched_row, strict=strict, ignore_max_length_error=ignore_max_length_error)
            batch = {key.removeprefix(_PREFIX): values for key, values in batched_row.items()}
            result = original(self, batch, strict=strict, ignore_max_length_error=ignore_max_length_error)
            # `StreamEncode` reports the rows that it skips itself.
            if not isinstance(self, EncodePreprocessor):
                _note_dropped(batch, result)
            return result

        return patched

    wrap(loader_module, '_inject_dataset_routing_tag', ('dataset', 'ds_name'), routing_tag)
    wrap(RowPreprocessor, 'get_features_dataset', ('dataset', ), features)
    wrap(RowPreprocessor, 'batched_preprocess', ('self', 'batched_row', 'strict', 'ignore_max_length_error'),
         stream_preprocess)


def _note_dropped(batch: dict[str, list[Any]], result: dict[str, list[Any]]) -> None:
    from ..training.jsonl_dataset import dropped_row_error
    from ..training.stream_jsonl import reading_skips
    num_left = len(next(iter(result.values()), ()))
    if ROW_COLUMN not in batch or (num_left and ROW_COLUMN not in result):
        return
    left = set(result.get(ROW_COLUMN, ()))
    for row_id in batch[ROW_COLUMN]:
        if row_id not in left:
            reading_skips.add(dropped_row_error(row_id))


def patch_streaming_pipeline() -> None:
    """Packs streams; in streams without packing, rows without masks get no mask keys."""
    from swift.pipelines.train import sft

    # Why: ms-swift's class decodes the images of a whole window at once, in its own processes, and cannot resume; its
    # packs have no budget besides the length.
    def stream_packing_dataset(original):

        def patched(template, dataset, *args, **kwargs):
            if not is_citrusv(template):
                return original(template, dataset, *args, **kwargs)
            from ..training.stream_packs import StreamPackingDataset
            kwargs.pop('num_proc', None)
            return StreamPackingDataset(template, dataset, **kwargs)

        return patched

    # Why: it encodes 16 rows at a time, and gives rows without masks the keys of rows with masks.
    def encode_preprocessor(original):

        def patched(template):
            if not is_citrusv(template):
                return original(template=template)
            from ..training.stream_packs import StreamEncode
            return StreamEncode(template=template)

        return patched

    wrap_class(sft, 'IterablePackingDataset', ('template', 'dataset'), stream_packing_dataset)
    wrap_class(sft, 'EncodePreprocessor', ('template', ), encode_preprocessor)


def patch_streaming_trainer() -> None:
    """Lets every rank read its own share of a stream, with any number of workers."""
    from swift.trainers.mixin import DataLoaderMixin, SwiftMixin

    # Why: it limits a stream to one worker, since ms-swift's own streams would yield each row once per worker.
    def stream_workers(original):

        def patched(self, model, args, template, train_dataset, *rest, **kwargs):
            num_workers = args.dataloader_num_workers
            if _is_stream_of_packs(train_dataset):
                args.dataloader_num_workers = min(num_workers, 1)
            original(self, model, args, template, train_dataset, *rest, **kwargs)
            if _is_stream_of_packs(train_dataset):
                args.dataloader_num_workers = num_workers

        return patched

    # Why: with a stream of packs, rank 0 reads everything and scatters the pixels to the others. And on any stream, a
    # run that resumes after the first pass fails.
    def stream_train_dataloader(original):

        def patched(self, skip_batches=0):
            packs = _is_stream_of_packs(self.train_dataset)
            if not packs and (hasattr(self.train_dataset, '__len__') or not is_citrusv(self.template)):
                return original(self, skip_batches=skip_batches)
            if not skip_batches and not packs:
                from ..training.stream_dataloader import UnpackedStreamLoader
                self._citrusv_stream = UnpackedStreamLoader(
                    original(self).base_dataloader,
                    device=self.accelerator.device,
                    multiple=self.args.gradient_accumulation_steps)
            elif not skip_batches:
                self._citrusv_stream = _stream_loader(
                    self,
                    self.train_dataset,
                    batch_size=self._train_batch_size,
                    multiple=self.args.gradient_accumulation_steps)
            # A resumed run asks for the rest of its pass; the loader keeps count of the passes.
            self._citrusv_stream.skip_batches = skip_batches
            return self._citrusv_stream

        return patched

    def stream_eval_dataloader(original):

        def patched(self, eval_dataset=None):
            dataset = self.eval_dataset if eval_dataset is None else eval_dataset
            if not _is_stream_of_packs(dataset):
                return original(self, eval_dataset=eval_dataset)
            return _stream_loader(self, dataset, batch_size=self.args.eval_batch_size)

        return patched

    wrap(SwiftMixin, '__init__', ('self', 'model', 'args', 'template', 'train_dataset'), stream_workers)
    wrap(DataLoaderMixin, 'get_train_dataloader', ('self', 'skip_batches'), stream_train_dataloader)
    wrap(DataLoaderMixin, 'get_eval_dataloader', ('self', 'eval_dataset'), stream_eval_dataloader)


def _is_stream_of_packs(dataset: Any) -> bool:
    # Unless the module is imported, no such dataset exists; other runs do not import it.
    streaming = sys.modules.get('swift_citrusv.training.stream_packs')
    return streaming is not None and isinstance(dataset, streaming.StreamPackingDataset)


def _stream_loader(trainer, dataset, *, batch_size: int, multiple: int = 1):
    from ..training.stream_dataloader import PackedStreamLoader
    from ..training.stream_packs import StreamWorkerDataset
    args = trainer.args
    params = {'num_workers': args.dataloader_num_workers, 'pin_memory': args.dataloader_pin_memory}
    if args.dataloader_num_workers:
        params['prefetch_factor'] = args.dataloader_prefetch_factor
        params['multiprocessing_context'] = args.dataloader_multiprocessing_context
    source = StreamWorkerDataset(
        dataset, trainer.data_collator, batch_size=batch_size, init_worker=patch_dataloader_worker)
    return PackedStreamLoader(
        source, device=trainer.accelerator.device, multiple=multiple, timeout=args.ddp_timeout, **params)
