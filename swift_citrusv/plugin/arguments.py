"""All patching of ms-swift, each with its reason, its symbol and a check that the symbol still has its shape.

Every patch asks first whether the run is a Citrus-V run; any other goes through ms-swift's own code untouched. What is
heavy is imported inside the functions, so that other runs do not pay for it.
"""
import sys

from ..constants import MODEL_TYPE, SEGMENTATION_MODULES
from ..errors import CompatibilityError
from .datasets import patch_dataset_loading
from .wrapping import wrap

# The score of each metric of generated text by which the best checkpoint is chosen.
_MAIN_SCORES = {
    'citrusv_qa': 'accuracy',
    'citrusv_reports': 'rouge_l',
    'citrusv_grounding': 'f1_at_0.5',
    'citrusv_documents': 'f1'
}

# ---- swift.arguments


def patch_arguments(before_parsing: bool = False) -> None:
    """Defaults of a Citrus-V run, and packing without flash-attn.

    Args:
        before_parsing: Whether this comes before ms-swift parses the flags.
    """
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

    wrap(SftArguments, '_check_padding_free', ('self', ), check_padding_free)

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
            if self.strict is None or not (self.strict or before_parsing or '--strict' in sys.argv):
                # (As an external plugin alone we come after the flags are parsed, and see False for no flag.)
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
        raise ValueError(
            f'--sequence_parallel_size {args.sequence_parallel_size} cuts a sequence into pieces, and a mask '
            'would lose its [SEG]. Leave it at 1 with --model_type citrusv.')
    if args.enable_dft_loss:
        raise ValueError(
            '--enable_dft_loss is a loss of its own and would be ignored beside --loss_type citrusv. Leave '
            'it off.')
    if args.truncation_strategy == 'split' and not args.packing:
        raise ValueError('--truncation_strategy split cuts rows into pieces for packs, and needs --packing true with '
                         '--model_type citrusv.')
    if args.packing and args.group_by_length:
        raise ValueError('--group_by_length has no meaning for packs, which are all of one length. Leave it off.')
    if args.loss_type is None:
        args.loss_type = MODEL_TYPE
    elif args.loss_type != MODEL_TYPE:
        logger.warning(f'--loss_type {args.loss_type} trains no masks: the mask loss is in --loss_type {MODEL_TYPE}.')
    if args.optimizer is None and not args.lorap_lr_ratio and not args.use_galore:
        args.optimizer = MODEL_TYPE
    if args.eval_metric is None and not args.predict_with_generate:
        args.eval_metric = MODEL_TYPE
    elif args.metric_for_best_model == 'rouge-l' and args.eval_metric in _MAIN_SCORES:
        # ms-swift's default for generated text, which only its own metric has.
        args.metric_for_best_model = _MAIN_SCORES[args.eval_metric]
    if MODEL_TYPE not in args.callbacks:
        args.callbacks = [*args.callbacks, MODEL_TYPE]
    if args.is_adapter:
        # An adapter without them would leave the projector at its random start.
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


# ---- swift.dataset

# ---- swift.pipelines.train.sft

# ---- swift.trainers
