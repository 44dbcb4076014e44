"""The patches for `swift.pipelines.train`: packs, lengths, skipped rows, and the `[SEG]` embedding in LoRA."""
import functools

from ..constants import MODEL_TYPE
from .wrapping import is_citrusv, is_lenient, wrap, wrap_class_name


def patch_pipeline() -> None:
    """Our packs, lengths and counted skips; the `[SEG]` embedding in LoRA."""
    from swift.pipelines.train import sft, tuner

    # Why: the pipeline looks these three up by name in its own module. ms-swift's packing puts each row into the
    # emptiest bin and knows no second budget.
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
            if is_lenient(template, kwargs.get('strict')):
                from ..training.skipping import LenientDataset
                return LenientDataset(dataset, template)
            return original(dataset, encode_func, **kwargs)

        return patched

    for name, parameters, wrapper in (
        ('PackingDataset', ('template', 'dataset'), packing_dataset),
        ('AddLengthPreprocessor', ('template', ), length_preprocessor),
        ('LazyLLMDataset', ('dataset', 'encode_func', 'strict'), lazy_dataset),
    ):
        wrap_class_name(sft, name, parameters, wrapper)

    # Why: ms-swift makes the LoraConfig inside this function and has no flag for `trainable_token_indices`, without
    # which the embedding of a fresh [SEG] would stay at its start.
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

    # Why: with `--strict false` a bad row leaves its batch (see `lenient`), and ms-swift gives all batches of an
    # evaluation the same weight.
    def usable_evaluation(original):

        def patched(self, datasets):
            args = self.args
            if is_lenient(self.template, args.strict) and not args.streaming and datasets[1] is not None:
                from ..training.skipping import usable_rows
                datasets[1] = usable_rows(self.template, datasets[1], args.dataset_num_proc)
            return original(self, datasets)

        return patched

    # Why: with `--truncation_strategy split` ms-swift refuses a chat template, and tokenizes the whole data set into
    # chunks on disk that have lost their images. Our template cuts rows itself, so for ms-swift nothing is to split.
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

    # Why: PEFT makes every parameter of a module in --modules_to_save trainable, those that no loss reaches too: weight
    # decay would eat them, and DDP would wait for them.
    def prepare_model(original):

        def patched(cls, args, model, **kwargs):
            model = original(args, model, **kwargs)
            if args.model_type == MODEL_TYPE:
                from ..model.segmenter import freeze_unreached
                freeze_unreached(model)
            return model

        return classmethod(patched)

    wrap(tuner.TunerMixin, 'prepare_model', ('args', 'model'), prepare_model)
