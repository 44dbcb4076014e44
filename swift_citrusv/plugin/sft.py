"""The patches for the training pipeline: packs, lengths and skipped rows.

Replaces `PackingDataset`, `AddLengthPreprocessor`, `LazyLLMDataset`, and `_encode_dataset`, `_post_process_datasets`
and `_show_dataset` of `SwiftSft` in `swift.pipelines.train.sft`.
"""
from .wrapping import is_citrusv, skips_bad_rows, wrap, wrap_class


def patch_sft_pipeline() -> None:
    """Installs our packing, length pass and counted skips."""
    from swift.pipelines.train import sft

    # Why: the pipeline looks these three up by name in its own module. ms-swift's packing puts each row into the
    # emptiest bin and has no budget besides the length.
    def packing_dataset(original):

        def patched(template, dataset, *args, **kwargs):
            if not is_citrusv(template):
                return original(template, dataset, *args, **kwargs)
            from ..training.packed_dataset import PackingDataset
            return PackingDataset(template, dataset, *args, **kwargs)

        return patched

    def length_preprocessor(original):

        def patched(template):
            if not is_citrusv(template):
                return original(template=template)
            from ..training.length_pass import LengthPreprocessor
            return LengthPreprocessor(template=template)

        return patched

    def lazy_dataset(original):

        def patched(dataset, encode_func, **kwargs):
            template = getattr(encode_func, '__self__', None)
            if skips_bad_rows(template, kwargs.get('strict')):
                from ..training.skipping import SkippingDataset
                return SkippingDataset(dataset, template)
            return original(dataset, encode_func, **kwargs)

        return patched

    for name, parameters, wrapper in (
        ('PackingDataset', ('template', 'dataset'), packing_dataset),
        ('AddLengthPreprocessor', ('template', ), length_preprocessor),
        ('LazyLLMDataset', ('dataset', 'encode_func', 'strict'), lazy_dataset),
    ):
        wrap_class(sft, name, parameters, wrapper)

    # Why: with `--strict false` a bad row is left out of its batch (see `training.skipping`), but ms-swift gives all
    # batches of an evaluation the same weight.
    def usable_evaluation(original):

        def patched(self, datasets):
            args = self.args
            if skips_bad_rows(self.template, args.strict) and not args.streaming and datasets[1] is not None:
                from ..training.skipping import select_usable_rows
                datasets[1] = select_usable_rows(self.template, datasets[1], args.dataset_num_proc)
            return original(self, datasets)

        return patched

    # Why: with `--truncation_strategy split` ms-swift refuses a chat template, and tokenizes the whole dataset into
    # chunks on disk without their images. Our template splits rows itself, so ms-swift gets 'delete'.
    def own_split(original):

        def patched(self, *args, **kwargs):
            if not is_citrusv(self.template) or self.args.truncation_strategy != 'split':
                return original(self, *args, **kwargs)
            self.args.truncation_strategy = 'delete'
            try:
                return original(self, *args, **kwargs)
            finally:
                self.args.truncation_strategy = 'split'

        return patched

    # Why: it is the last step before the trainer is made, and shows a row, which fails on a stream without one. Without
    # any row that can be encoded, a run would train on nothing, and end with a loss of 0.
    def show_dataset(original):

        def patched(self, train_dataset, val_dataset):
            if skips_bad_rows(self.template, self.args.strict):
                from ..training.skipping import check_usable
                check_usable(train_dataset, 'training dataset')
                if val_dataset is not None and not self.args.predict_with_generate:
                    check_usable(val_dataset, 'evaluation dataset')
            return original(self, train_dataset, val_dataset)

        return patched

    wrap(sft.SwiftSft, '_show_dataset', ('self', 'train_dataset', 'val_dataset'), show_dataset)
    wrap(sft.SwiftSft, '_encode_dataset', ('self', 'train_dataset', 'val_dataset'), own_split)
    wrap(sft.SwiftSft, '_post_process_datasets', ('self', 'datasets'), own_split)
    wrap(sft.SwiftSft, '_post_process_datasets', ('self', 'datasets'), usable_evaluation)
