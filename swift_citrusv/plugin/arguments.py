"""The patches for the arguments of `swift sft`: defaults of a Citrus-V run, and packing without flash-attn.

Replaces `SftArguments._check_padding_free`, `DataArguments.__post_init__` and the default of `DataArguments.strict` in
`swift.arguments`.
"""
import sys

from ..constants import MODEL_TYPE, SEGMENTATION_MODULES
from .datasets import patch_dataset_loading
from .wrapping import incompatible, wrap

# The score that chooses the best checkpoint, for each metric of generated text.
_MAIN_SCORES = {
    'citrusv_qa': 'accuracy',
    'citrusv_reports': 'rouge_l',
    'citrusv_grounding': 'f1_at_0.5',
    'citrusv_documents': 'f1'
}


def patch_arguments(before_parsing: bool = False) -> None:
    """Sets the defaults of a Citrus-V run, and allows packing without flash-attn.

    Args:
        before_parsing: Whether ms-swift has not parsed the flags yet.

    Raises:
        CompatibilityError: ms-swift has changed.
    """
    from swift.arguments import DataArguments, SftArguments

    # Why: of the steps of SftArguments, only this one runs after the plugins are imported and the model type is known,
    # and before the trainer's arguments are made. It also refuses packing without flash-attn.
    def check_padding_free(original):

        def patched(self):
            # RLHF has its own losses under the same flag.
            if self.model_type != MODEL_TYPE or hasattr(self, 'rlhf_type'):
                return original(self)
            _apply_defaults(self)
            if self.packing or self.padding_free:
                self.padding_free = True
                _choose_attention(self)

        return patched

    wrap(SftArguments, '_check_padding_free', ('self', ), check_padding_free)

    # Why: ms-swift drops bad rows by default, and a dropped mask is a wrong result. With None as the default, an
    # explicit `--strict false` differs from no flag at all.
    strict = DataArguments.__dataclass_fields__.get('strict')
    if strict is None or strict.default not in (False, None):
        raise incompatible('swift.arguments.DataArguments.strict is gone, or its default has changed')
    strict.default = None

    def post_init(original):

        def patched(self):
            citrusv = getattr(self, 'model_type', None) == MODEL_TYPE
            if self.strict is None or not (self.strict or before_parsing or '--strict' in sys.argv):
                # (An external plugin without the hook is imported after parsing, and finds False for no flag.)
                self.strict = citrusv
            if citrusv:
                patch_dataset_loading()
            original(self)

        return patched

    wrap(DataArguments, '__post_init__', ('self', ), post_init)


def _apply_defaults(args) -> None:
    from swift.utils import get_logger
    logger = get_logger()
    if args.sequence_parallel_size > 1:
        raise ValueError(f'--sequence_parallel_size {args.sequence_parallel_size} splits sequences, and would separate '
                         'masks from their [SEG]. Leave it at 1 with --model_type citrusv.')
    if args.enable_dft_loss:
        raise ValueError('--enable_dft_loss replaces the token loss, and --loss_type citrusv would ignore it. Leave it '
                         'off.')
    if args.truncation_strategy == 'split' and not args.packing:
        raise ValueError('--truncation_strategy split cuts rows into chunks for packs, and needs --packing true with '
                         '--model_type citrusv.')
    if args.packing and args.group_by_length:
        raise ValueError('--group_by_length has no effect on packs, which all have the same length. Leave it off.')
    if args.loss_type is None:
        args.loss_type = MODEL_TYPE
    elif args.loss_type != MODEL_TYPE:
        logger.warning(f'--loss_type {args.loss_type} trains no masks: only --loss_type {MODEL_TYPE} has a mask loss.')
    if args.optimizer is None and not args.lorap_lr_ratio and not args.use_galore:
        args.optimizer = MODEL_TYPE
    if args.eval_metric is None and not args.predict_with_generate:
        args.eval_metric = MODEL_TYPE
    elif args.metric_for_best_model == 'rouge-l' and args.eval_metric in _MAIN_SCORES:
        # ms-swift's default with --predict_with_generate; our metrics do not report it.
        args.metric_for_best_model = _MAIN_SCORES[args.eval_metric]
    if MODEL_TYPE not in args.callbacks:
        args.callbacks = [*args.callbacks, MODEL_TYPE]
    if args.is_adapter:
        # Otherwise the adapter would not hold them, and the projector would keep its random initialisation.
        args.modules_to_save = list(dict.fromkeys([*args.modules_to_save, *SEGMENTATION_MODULES]))


def _choose_attention(args) -> None:
    import torch
    from swift.utils import get_logger
    from transformers import AutoConfig
    from transformers.utils import is_flash_attn_2_available

    from ..model.attention import choose_attention, cuda_capability, head_sizes
    choice = choose_attention(
        args.attn_impl,
        feature='packing' if args.packing else 'padding-free batches',
        capability=None if args.use_cpu else cuda_capability(),
        dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else args.torch_dtype,
        heads=head_sizes(AutoConfig.from_pretrained(args.model_dir)),
        flash_attn=is_flash_attn_2_available())
    args.attn_impl = choice.attn_impl
    get_logger().info(choice.reason)
