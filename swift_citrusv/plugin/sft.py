"""The patches for the training pipeline: packs, lengths, skipped rows, and the `[SEG]` embedding in LoRA.

Replaces `PackingDataset`, `AddLengthPreprocessor`, `LazyLLMDataset`, `SwiftSft._encode_dataset` and
`SwiftSft._post_process_datasets` in `swift.pipelines.train.sft`; and `prepare_adapter` and `TunerMixin.prepare_model`
in `swift.pipelines.train.tuner`.
"""
import functools

from ..constants import MODEL_TYPE, SEGMENTATION_MODULES
from .wrapping import is_citrusv, skips_bad_rows, wrap, wrap_class


def patch_sft_pipeline() -> None:
    """Installs our packing, length pass and counted skips, and trains the `[SEG]` embedding in LoRA."""
    from swift.pipelines.train import sft, tuner

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

    # Why: ms-swift makes the LoraConfig inside this function and has no flag for `trainable_token_indices`. Without it
    # the embedding of a new [SEG] would keep its initial value.
    def prepare_adapter(original):

        def patched(args, model, **kwargs):
            seg_token_id = getattr(model.config, 'seg_token_id', None)
            if args.model_type != MODEL_TYPE or args.tuner_type != 'lora' or args.tuner_backend != 'peft':
                return original(args, model, **kwargs)
            from swift import tuners
            config = tuners.LoraConfig
            tokens = {'embed_tokens': [seg_token_id]}
            if not model.config.tie_word_embeddings:
                tokens['lm_head'] = [seg_token_id]
            tuners.LoraConfig = functools.partial(config, trainable_token_indices=tokens)
            try:
                return original(args, model, **kwargs)
            finally:
                tuners.LoraConfig = config

        return patched

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

    wrap(sft.SwiftSft, '_encode_dataset', ('self', 'train_dataset', 'val_dataset'), own_split)
    wrap(sft.SwiftSft, '_post_process_datasets', ('self', 'datasets'), own_split)
    wrap(sft.SwiftSft, '_post_process_datasets', ('self', 'datasets'), usable_evaluation)
    wrap(tuner, 'prepare_adapter', ('args', 'model', 'template', 'train_dataset'), prepare_adapter)

    # Why: PEFT makes every parameter of a module in --modules_to_save trainable, including those that no loss reaches:
    # weight decay would shrink them, and DDP would wait for their gradients. And ms-swift ignores --freeze_parameters
    # with adapters, which would leave text-only LoRA no way to keep segmentation as it is.
    def prepare_model(original):

        def patched(cls, args, model, **kwargs):
            model = original(args, model, **kwargs)
            if args.model_type == MODEL_TYPE:
                from ..model.segmenter import freeze_unused_parameters
                freeze_unused_parameters(model)
                if args.is_adapter:
                    _freeze_segmentation(model, tuple(args.freeze_parameters))
            return model

        return classmethod(patched)

    wrap(tuner.TunerMixin, 'prepare_model', ('args', 'model'), prepare_model)


def _freeze_segmentation(model, prefixes: tuple[str, ...]) -> None:
    """Freezes the parameters of segmentation whose names start with one of `prefixes`, within an adapter too."""
    for name, parameter in model.named_parameters():
        plain = name.removeprefix('base_model.model.')
        if plain.startswith(SEGMENTATION_MODULES) and prefixes and plain.startswith(prefixes):
            parameter.requires_grad_(False)
