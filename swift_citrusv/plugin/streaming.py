"""The patches of ms-swift for `--streaming true`, as in `patches`: each with its reason, symbol and check."""
import sys
from typing import Any

from ..constants import MODEL_TYPE, ROW_COLUMN
from ..errors import RowError
from .datasets import patch_dataset_loading
from .wrapping import is_citrusv, wrap, wrap_class_name

# ms-swift's mark of a stream's columns, between two preprocessors.
_PREFIX = '__@'


def patch_arguments() -> None:
    """Applies `patch_reading` in Citrus-V runs that stream."""
    from swift.arguments import DataArguments

    # Why: it is the first step of a run that knows of both.
    def stream_post_init(original):

        def patched(self):
            if self.streaming and getattr(self, 'model_type', None) == MODEL_TYPE:
                patch_reading()
            original(self)

        return patched

    wrap(DataArguments, '__post_init__', ('self', ), stream_post_init)


def patch_worker() -> None:
    """What a DataLoader worker needs to read a stream; only a spawned one does not have it already."""
    patch_dataset_loading()
    patch_reading()


def patch_reading() -> None:
    """Reads JSONL streams with row numbers, in shards, and without a guess of their types."""
    from datasets import IterableDataset
    from swift.dataset import EncodePreprocessor
    from swift.dataset import loader as loader_module
    from swift.dataset.preprocessor import RowPreprocessor

    from ..training.jsonl_dataset import keep_columns
    from ..training.stream_jsonl import stream_jsonl, tagged, untyped
    keep_columns()

    # Why: it hands the file to `datasets`, whose guess of column types fails on mixed masks and knows no row numbers.
    def load_stream_path(original):

        def patched(self, dataset_path, dataset_meta):
            if not self.streaming or not str(dataset_path).endswith('.jsonl'):
                return original(self, dataset_path, dataset_meta)
            hf_load_dataset = loader_module.hf_load_dataset
            loader_module.hf_load_dataset = lambda *args, **kwargs: stream_jsonl(dataset_path, strict=self.strict)
            try:
                return original(self, dataset_path, dataset_meta)
            finally:
                loader_module.hf_load_dataset = hf_load_dataset

        return patched

    # Why: `datasets` would guess the types of what a preprocessor gives from its first five rows, and cast the others.
    def features(original):

        def patched(dataset):
            if isinstance(dataset, IterableDataset) and dataset.features is None:
                return untyped(dataset)
            return original(dataset)

        return staticmethod(patched)

    # Why: its `map` forgets the columns, so that joining two streams would guess their types again.
    def routing_tag(original):

        def patched(dataset, ds_name):
            return tagged(dataset, ds_name) if isinstance(dataset, IterableDataset) else original(dataset, ds_name)

        return patched

    # Why: it renames the columns of a stream, so that an error cannot name the row; and with `--strict false` it tells
    # nobody of the rows that it drops after the first ten.
    def stream_preprocess(original):

        def patched(self, batched_row, *, strict, ignore_max_length_error):
            if not any(key.startswith(_PREFIX) for key in batched_row):
                return original(self, batched_row, strict=strict, ignore_max_length_error=ignore_max_length_error)
            batch = {key.removeprefix(_PREFIX): values for key, values in batched_row.items()}
            result = original(self, batch, strict=strict, ignore_max_length_error=ignore_max_length_error)
            # `StreamEncode` tells of the rows that it leaves out, and why.
            if not isinstance(self, EncodePreprocessor):
                _note_dropped(batch, result)
            return result

        return patched

    wrap(loader_module.DatasetLoader, '_load_dataset_path', ('self', 'dataset_path', 'dataset_meta'), load_stream_path)
    wrap(loader_module, '_inject_dataset_routing_tag', ('dataset', 'ds_name'), routing_tag)
    wrap(RowPreprocessor, 'get_features_dataset', ('dataset', ), features)
    wrap(RowPreprocessor, 'batched_preprocess', ('self', 'batched_row', 'strict', 'ignore_max_length_error'),
         stream_preprocess)


def _note_dropped(batch: dict[str, list[Any]], result: dict[str, list[Any]]) -> None:
    from ..training.stream_jsonl import reading_skips
    num_left = len(next(iter(result.values()), ()))
    if ROW_COLUMN not in batch or (num_left and ROW_COLUMN not in result):
        return
    left = set(result.get(ROW_COLUMN, ()))
    for row_id in batch[ROW_COLUMN]:
        if row_id not in left:
            reading_skips.add(
                RowError(row_id, "ms-swift's preprocessor leaves it out.",
                         "Compare the row with ms-swift's data format.", 'preprocessor'))


def patch_pipeline() -> None:
    """Packs of a stream; and a stream that is not packed keeps its masks apart from rows without."""
    from swift.pipelines.train import sft

    # Why: ms-swift's class decodes the images of a whole window at once, in processes of its own, and cannot be
    # resumed; its packs know no second budget.
    def stream_packing_dataset(original):

        def patched(template, dataset, *args, **kwargs):
            if not is_citrusv(template):
                return original(template, dataset, *args, **kwargs)
            from ..training.stream_packs import StreamPackingDataset
            kwargs.pop('num_proc', None)
            return StreamPackingDataset(template, dataset, **kwargs)

        return patched

    # Why: it encodes 16 rows at a time, and gives a row without masks the keys of one that has them.
    def encode_preprocessor(original):

        def patched(template):
            if not is_citrusv(template):
                return original(template=template)
            from ..training.stream_packs import StreamEncode
            return StreamEncode(template=template)

        return patched

    wrap_class_name(sft, 'IterablePackingDataset', ('template', 'dataset'), stream_packing_dataset)
    wrap_class_name(sft, 'EncodePreprocessor', ('template', ), encode_preprocessor)


def patch_trainer() -> None:
    """Every rank reads its own share of a stream, with as many workers as the user asks for."""
    from swift.trainers.mixin import DataLoaderMixin, SwiftMixin

    # Why: it allows a stream one worker at most, since its own streams would give each row once a worker.
    def stream_workers(original):

        def patched(self, model, args, template, train_dataset, *rest, **kwargs):
            num_workers = args.dataloader_num_workers
            if _is_stream_of_packs(train_dataset):
                args.dataloader_num_workers = min(num_workers, 1)
            original(self, model, args, template, train_dataset, *rest, **kwargs)
            if _is_stream_of_packs(train_dataset):
                args.dataloader_num_workers = num_workers

        return patched

    # Why: with a stream of packs, rank 0 reads everything and scatters the pixels to the others. And on any stream a
    # run that is resumed behind the first pass ends with an error.
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
            elif packs and self.args.resume_from_checkpoint and self.is_world_process_zero():
                from ..training.stream_dataloader import warn_of_another_plan
                warn_of_another_plan(self.args.resume_from_checkpoint, self.args.output_dir)
            # A resumed run asks for the rest; the same loader knows in which pass it is.
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
    # Where nobody has imported the module, there is none; other runs need not import it.
    streaming = sys.modules.get('swift_citrusv.training.stream_packs')
    return streaming is not None and isinstance(dataset, streaming.StreamPackingDataset)


def _stream_loader(trainer, dataset, *, batch_size: int, multiple: int = 1):
    from ..training.stream_dataloader import StreamLoader
    args = trainer.args
    params = {'num_workers': args.dataloader_num_workers, 'pin_memory': args.dataloader_pin_memory}
    if args.dataloader_num_workers:
        params['prefetch_factor'] = args.dataloader_prefetch_factor
        params['multiprocessing_context'] = args.dataloader_multiprocessing_context
    return StreamLoader(
        dataset,
        trainer.data_collator,
        device=trainer.accelerator.device,
        batch_size=batch_size,
        multiple=multiple,
        timeout=args.ddp_timeout,
        init_worker=patch_worker,
        **params)
