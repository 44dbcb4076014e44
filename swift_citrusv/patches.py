"""All patching of ms-swift, each with its reason, its symbol and a check that the symbol still has its shape.

Every patch asks first whether the run is a Citrus-V run; any other goes through ms-swift's own code untouched. What is
heavy is imported inside the functions, so that other runs do not pay for it.
"""
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from . import _hook
from .constants import MODEL_TYPE, NO_MASK, ROW_COLUMN, SEGMENTATION_MODULES
from .errors import ROW_ERRORS, CompatibilityError, RowError

_MARK = '_swift_citrusv_patch'


def _check(symbol: str, function: Callable, parameters: tuple[str, ...]) -> None:
    names = list(inspect.signature(function).parameters)
    if not set(parameters) <= set(names):
        raise CompatibilityError(
            f'{symbol} has the parameters {names}; swift-citrusv expects {list(parameters)} among them. '
            'Install ms-swift >=4.6,<4.7, or set SWIFT_CITRUSV_DISABLE=1 to run without the plugin.')


def _wrap(owner: Any, name: str, parameters: tuple[str, ...], wrapper: Callable[[Callable], Callable]) -> None:
    """Replaces `owner.name` by `wrapper(original)`, once, after a check of its parameters."""
    symbol = f'{getattr(owner, "__module__", "")}.{getattr(owner, "__qualname__", owner.__name__)}.{name}'.lstrip('.')
    original = getattr(owner, name, None)
    if original is None:
        raise CompatibilityError(
            f'{symbol} is gone. Install ms-swift >=4.6,<4.7, or set SWIFT_CITRUSV_DISABLE=1 to run '
            'without the plugin.')
    if getattr(original, _MARK, False):
        return
    _check(symbol, original, parameters)
    patched = wrapper(original)
    inner = patched.__func__ if isinstance(patched, classmethod) else patched
    functools.update_wrapper(inner, original)
    setattr(inner, _MARK, True)
    setattr(owner, name, patched)


def _is_citrusv(template: Any) -> bool:
    return getattr(getattr(template, 'template_meta', None), 'template_type', None) == MODEL_TYPE


# ---- swift.arguments


def patch_arguments() -> None:
    """Defaults of a Citrus-V run, and packing without flash-attn."""
    from swift.arguments import DataArguments, SftArguments

    # Why: it is the one step of SftArguments that runs after the plugins are imported and the model is known, and
    # before the trainer's arguments are made; and it is the one that refuses packing without flash-attn.
    def check_padding_free(original):

        def patched(self):
            # RLHF has losses of its own under the same flag.
            if self.model_type != MODEL_TYPE or hasattr(self, 'rlhf_type'):
                return original(self)
            _apply_defaults(self)
            if self.packing or self.padding_free:
                self.padding_free = True
                _choose_attention(self)

        return patched

    _wrap(SftArguments, '_check_padding_free', ('self', ), check_padding_free)

    # Why: ms-swift drops bad rows by default, and a dropped mask is a wrong result; but an explicit `--strict false`
    # must still be told from no flag at all.
    strict = DataArguments.__dataclass_fields__.get('strict')
    if strict is None or strict.default not in (False, None):
        raise CompatibilityError(
            'swift.arguments.DataArguments.strict is gone or its default changed. Install ms-swift '
            '>=4.6,<4.7.')
    strict.default = None

    def post_init(original):

        def patched(self):
            citrusv = getattr(self, 'model_type', None) == MODEL_TYPE
            if self.strict is None or not (self.strict or _hook.is_on() or '--strict' in sys.argv):
                # (As an external plugin alone we come after the flags are parsed, and see False for no flag.)
                self.strict = citrusv
            if citrusv:
                patch_dataset_loading()
            original(self)

        return patched

    _wrap(DataArguments, '__post_init__', ('self', ), post_init)


def _apply_defaults(args) -> None:
    from swift.utils import get_logger
    logger = get_logger()
    if args.sequence_parallel_size > 1:
        raise ValueError(
            f'--sequence_parallel_size {args.sequence_parallel_size} cuts a sequence into pieces, and a mask '
            'would lose its [SEG]. Leave it at 1 with --model_type citrusv.')
    if args.enable_dft_loss:
        raise ValueError(
            '--enable_dft_loss is a loss of its own and would be ignored beside --loss_type citrusv. Leave '
            'it off.')
    if args.loss_type is None:
        args.loss_type = MODEL_TYPE
    elif args.loss_type != MODEL_TYPE:
        logger.warning(f'--loss_type {args.loss_type} trains no masks: the mask loss is in --loss_type {MODEL_TYPE}.')
    if args.optimizer is None and not args.lorap_lr_ratio and not args.use_galore:
        args.optimizer = MODEL_TYPE
    if args.eval_metric is None and not args.predict_with_generate:
        args.eval_metric = MODEL_TYPE
    if MODEL_TYPE not in args.callbacks:
        args.callbacks = [*args.callbacks, MODEL_TYPE]
    if args.is_adapter:
        # An adapter without them would leave the projector at its random start.
        args.modules_to_save = list(dict.fromkeys([*args.modules_to_save, *SEGMENTATION_MODULES]))


def _choose_attention(args) -> None:
    import torch
    from swift.utils import get_logger
    from transformers.utils import is_flash_attn_2_available
    if args.attn_impl is None:
        args.attn_impl = 'flash_attention_2' if torch.cuda.is_available() and is_flash_attn_2_available() else 'sdpa'
        get_logger().info(f'Setting args.attn_impl: {args.attn_impl} (packing; flash-attn is used on CUDA where it is '
                          'installed)')
    # Eager attention gets the same block-diagonal mask as sdpa; it is slow, but right.
    allowed = ('sdpa', 'eager', 'flash_attn', 'flash_attention_2', 'flash_attention_3', 'flash_attention_4')
    if args.attn_impl not in allowed:
        raise ValueError(f'--attn_impl {args.attn_impl} cannot keep the samples of a pack apart. Use one of: '
                         f'{", ".join(allowed)}.')


# ---- swift.dataset


def patch_dataset_loading() -> None:
    """Reads JSONL with row numbers and any mix of mask forms. Applied in Citrus-V runs only."""
    from swift.dataset import loader as loader_module
    from swift.dataset.preprocessor import RowPreprocessor
    from swift.template import MaxLengthError

    from .datasets import keep_columns
    keep_columns()

    # Why: it hands the file to `datasets`, whose guess of column types fails on mixed masks and knows no row numbers.
    def load_dataset_path(original):

        def patched(self, dataset_path, dataset_meta):
            if self.streaming or not str(dataset_path).endswith('.jsonl'):
                return original(self, dataset_path, dataset_meta)
            from .datasets import load_jsonl
            hf_load_dataset = loader_module.hf_load_dataset
            loader_module.hf_load_dataset = lambda *args, cache_dir, **kwargs: load_jsonl(
                dataset_path, strict=self.strict, cache_dir=cache_dir)
            try:
                return original(self, dataset_path, dataset_meta)
            finally:
                loader_module.hf_load_dataset = hf_load_dataset

        return patched

    # Why: an error in a preprocessor (an unknown role, say) does not tell which row of the batch it is about.
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
                        raise RowError(row_id, f'ms-swift ends with {type(e).__name__}: {e}.',
                                       "Compare the row with ms-swift's data format.",
                                       type(e).__name__) from e
                raise

        return patched

    _wrap(RowPreprocessor, 'batched_preprocess', ('self', 'batched_row', 'strict', 'ignore_max_length_error'),
          batched_preprocess)
    _wrap(loader_module.DatasetLoader, '_load_dataset_path', ('self', 'dataset_path', 'dataset_meta'),
          load_dataset_path)


# ---- swift.pipelines.train.sft


def patch_pipeline() -> None:
    """Our packs, lengths and counted skips; the `[SEG]` embedding in LoRA."""
    from swift.pipelines.train import sft, tuner

    # Why: the pipeline looks these three up by name in its own module. ms-swift's packing puts each row into the
    # emptiest bin and knows no second budget.
    def packing_dataset(original):

        def patched(template, dataset, *args, **kwargs):
            if not _is_citrusv(template):
                return original(template, dataset, *args, **kwargs)
            from .datasets import PackingDataset
            return PackingDataset(template, dataset, *args, **kwargs)

        return patched

    def length_preprocessor(original):

        def patched(template):
            if not _is_citrusv(template):
                return original(template=template)
            from .datasets import LengthPreprocessor
            return LengthPreprocessor(template=template)

        return patched

    def lazy_dataset(original):

        def patched(dataset, encode_func, **kwargs):
            template = getattr(encode_func, '__self__', None)
            if _is_citrusv(template) and not kwargs.get('strict'):
                from .datasets import CountedEncode
                encode_func = CountedEncode(template)
            return original(dataset, encode_func, **kwargs)

        return patched

    for name, parameters, wrapper in (
        ('PackingDataset', ('template', 'dataset'), packing_dataset),
        ('AddLengthPreprocessor', ('template', ), length_preprocessor),
        ('LazyLLMDataset', ('dataset', 'encode_func', 'strict'), lazy_dataset),
    ):
        _wrap_class_name(sft, name, parameters, wrapper)

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

    _wrap(tuner, 'prepare_adapter', ('args', 'model', 'template', 'train_dataset'), prepare_adapter)

    # Why: PEFT makes every parameter of a module in --modules_to_save trainable, those that no loss reaches too: weight
    # decay would eat them, and DDP would wait for them.
    def prepare_model(original):

        def patched(cls, args, model, **kwargs):
            model = original(args, model, **kwargs)
            if args.model_type == MODEL_TYPE:
                from .segmenter import freeze_unreached
                freeze_unreached(model)
            return model

        return classmethod(patched)

    _wrap(tuner.TunerMixin, 'prepare_model', ('args', 'model'), prepare_model)


def _wrap_class_name(module: Any, name: str, parameters: tuple[str, ...], wrapper: Callable[[Callable],
                                                                                            Callable]) -> None:
    """As `_wrap`, for a class that its module calls by name; `isinstance` against the name must keep working."""
    original = getattr(module, name, None)
    if original is None:
        raise CompatibilityError(f'{module.__name__}.{name} is gone. Install ms-swift >=4.6,<4.7.')
    if getattr(original, _MARK, False):
        return
    _check(f'{module.__name__}.{name}', original, parameters)
    make = wrapper(original)
    wrapped: type = original

    class Meta(type(original)):  # type: ignore[misc]

        def __call__(cls, *args, **kwargs):
            return make(*args, **kwargs)

        def __instancecheck__(cls, instance):
            return isinstance(instance, wrapped)

    patched = Meta(original.__name__, (original, ), {'__module__': original.__module__, _MARK: True})
    setattr(module, name, patched)


# ---- swift.trainers


def patch_trainer() -> None:
    """Counts masks over the whole optimizer step, and runs the language head at supervised positions only."""
    from swift.trainers import Seq2SeqTrainer

    # Why: it is where Transformers sees all batches of an optimizer step, and sums their tokens over the ranks.
    def num_items(original):

        def patched(self, batch_samples, device):
            if _is_citrusv(self.template):
                _count_masks(self, batch_samples, device)
            return original(self, batch_samples, device)

        return patched

    _wrap(Seq2SeqTrainer, '_get_num_items_in_batch', ('self', 'batch_samples', 'device'), num_items)

    # Why: for a batch of several rows ms-swift keeps all positions from the first supervised one on.
    def logits_to_keep(original):

        def patched(self, inputs):
            if not _is_citrusv(self.template) or inputs['labels'].shape[0] == 1:
                return original(self, inputs)
            _keep_supervised(inputs)

        return patched

    _wrap(Seq2SeqTrainer, 'prepare_logits_to_keep', ('self', 'inputs'), logits_to_keep)


def _count_masks(trainer, batch_samples: list[dict[str, Any]], device) -> None:
    import torch
    counts = [(batch['mask_token_index'] != NO_MASK).sum() for batch in batch_samples if 'mask_token_index' in batch]
    total = torch.stack([count.to(device) for count in counts]).sum() if counts else torch.tensor(0, device=device)
    if trainer.args.world_size > 1:
        torch.distributed.all_reduce(total)
    for batch in batch_samples:
        batch['num_masks_in_step'] = total


def _keep_supervised(inputs: dict[str, Any]) -> None:
    """Flattens labels [B, T] to [1, 1 + K] and marks the K positions that predict them."""
    import torch
    labels = inputs['labels']
    supervised = labels != -100
    supervised[:, 0] = False
    keep = torch.zeros_like(supervised)
    keep[:, :-1] = supervised[:, 1:]
    loss_scale = inputs.get('loss_scale')
    if loss_scale is not None:
        inputs['loss_scale'] = torch.nn.functional.pad(loss_scale[supervised][None], (1, 0), value=0)
    inputs['labels'] = torch.nn.functional.pad(labels[supervised][None], (1, 0), value=-100)
    # One more position, as there is one more label than predictions.
    keep[-1, -1] = True
    inputs['logits_to_keep'] = keep
