"""The patches for the arguments of ms-swift: defaults of a Citrus-V run, refused flags, and packing without flash-attn.

Replaces `__post_init__` of `SftArguments`, `InferArguments`, `BaseArguments` and `DataArguments`,
`SftArguments._check_padding_free`, `InferArguments._init_vllm_async_engine`, and the default of `DataArguments.strict`,
in `swift.arguments`.
"""
import sys
from dataclasses import MISSING
from typing import Any

from ..constants import MODEL_TYPE, SEGMENTATION_MODULES
from .datasets import patch_dataset_loading
from .flags.check import check_flags
from .flags.given import given_flags, noted, noting
from .flags.names import check_names
from .wrapping import incompatible, wrap

# The score that chooses the best checkpoint, for each metric of generated text.
_MAIN_SCORES = {
    'citrusv_qa': 'accuracy',
    'citrusv_reports': 'rouge_l',
    'citrusv_grounding': 'f1_at_0.5',
    'citrusv_documents': 'f1'
}


def patch_arguments() -> None:
    """Sets the defaults of a Citrus-V run, checks its flags and settings, and allows packing without flash-attn.

    Raises:
        CompatibilityError: ms-swift has changed.
    """
    from swift.arguments import BaseArguments, DataArguments, InferArguments, SftArguments

    # Why: the arguments of each command begin with one of them, before ms-swift fills in any default.
    def note_flags(original):

        def patched(self):
            with noting(self):
                original(self)

        return patched

    for cls in (SftArguments, InferArguments, BaseArguments):
        wrap(cls, '__post_init__', ('self', ), note_flags)

    # Why: of the steps of SftArguments, only this one runs after the plugins are imported and the model type is known,
    # and before the trainer's arguments are made. It also refuses packing without flash-attn.
    def check_padding_free(original):

        def patched(self):
            if self.model_type != MODEL_TYPE:
                return original(self)
            from .flags.commands import rlhf_rules, training_rules
            given = _given(self)
            # RLHF has its own losses under the same flag.
            if hasattr(self, 'rlhf_type'):
                check_flags(self, given, rlhf_rules())
                return original(self)
            _apply_defaults(self, given)
            check_flags(self, given, training_rules())
            if self.packing or self.padding_free:
                self.padding_free = True
                _choose_attention(self)

        return patched

    wrap(SftArguments, '_check_padding_free', ('self', ), check_padding_free)

    # Why: it is the first step of `swift infer` and `swift deploy` at which the model type is known.
    def check_inference(original):

        def patched(self):
            if self.model_type == MODEL_TYPE:
                from .flags.commands import inference_rules
                check_flags(self, _given(self), inference_rules())
            original(self)

        return patched

    wrap(InferArguments, '_init_vllm_async_engine', ('self', ), check_inference)

    # Why: ms-swift drops bad rows by default, and a dropped mask is a wrong result. With None as the default, an
    # explicit `--strict false` differs from no flag at all.
    _set_default(DataArguments, 'strict', None)

    def post_init(original):

        def patched(self):
            citrusv = getattr(self, 'model_type', None) == MODEL_TYPE
            if self.strict is None or _made_before(self) and '--strict' not in sys.argv:
                # (Arguments that were made before the patch have False where nothing was given.)
                self.strict = bool(self.strict) or citrusv
            if citrusv:
                check_names(self)
                patch_dataset_loading()
            original(self)

        return patched

    wrap(DataArguments, '__post_init__', ('self', ), post_init)


def _made_before(args: Any) -> bool:
    """Whether arguments were made before this patch, by an external plugin without the import hook."""
    return noted(args) is None


def _given(args: Any) -> dict[str, Any]:
    given = noted(args)
    return given_flags(args, late=True) if given is None else given


def _set_default(owner: type, name: str, default: Any) -> None:
    """Sets the default of a field of a dataclass, for its subclasses too.

    The command line takes it from the field; Python code takes it from `__init__`, which keeps the default of the time
    when its class was defined.
    """
    spec = getattr(owner, '__dataclass_fields__', {}).get(name)
    if spec is None or spec.default is MISSING or spec.default not in (False, None):
        raise incompatible(f'{owner.__module__}.{owner.__name__}.{name} is gone, or its default has changed')
    spec.default = default
    classes = [owner]
    for cls in classes:
        classes += cls.__subclasses__()
        init = vars(cls).get('__init__')
        if init is None or getattr(cls, '__dataclass_fields__', {}).get(name) is not spec or not init.__defaults__:
            continue
        parameters = init.__code__.co_varnames[:init.__code__.co_argcount]
        place = parameters.index(name) - len(parameters)
        values = list(init.__defaults__)
        values[place] = default
        init.__defaults__ = tuple(values)


def _apply_defaults(args: Any, given: dict[str, Any]) -> None:
    if args.loss_type is None:
        args.loss_type = MODEL_TYPE
    if args.optimizer is None and not args.lorap_lr_ratio and not args.use_galore:
        args.optimizer = MODEL_TYPE
    if args.eval_metric is None and not args.predict_with_generate:
        args.eval_metric = MODEL_TYPE
    elif args.metric_for_best_model == 'rouge-l' and args.eval_metric in _MAIN_SCORES:
        # ms-swift's default with --predict_with_generate; our metrics do not report it.
        args.metric_for_best_model = _MAIN_SCORES[args.eval_metric]
    if str(args.metric_for_best_model).endswith('hd95') and 'greater_is_better' not in given:
        # A distance. ms-swift takes everything for a score whose name has no "loss".
        args.greater_is_better = False
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
