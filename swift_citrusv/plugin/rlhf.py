"""The patches for `swift rlhf`, which trains text: masks are not used, and the segmentation modules stay as they are.

Replaces `swift.arguments.RLHFArguments.__post_init__`; and `prepare_model` and `_prepare_template` of
`swift.pipelines.train.rlhf.SwiftRLHF`.
"""
import json
import os
from typing import Any

from ..constants import MODEL_TYPE, SEGMENTATION_MODULES
from ..settings import Settings
from .flags.given import noting
from .models import config_of
from .wrapping import is_citrusv, wrap

# Settings of the mask loss, of its gradient, and of what only `swift sft` does.
_WITHOUT_EFFECT = ('seg_lr', 'mask_grad_scale', 'token_weight', 'dice_weight', 'bce_weight', 'eval_pictures',
                   'nonfinite')


def patch_rlhf_arguments() -> None:
    """Refuses what `swift rlhf` would ignore, and says that masks are not used."""
    from swift.arguments import RLHFArguments

    # Why: it is the first step at which the model and all settings are known, and nothing is loaded yet.
    def post_init(original):

        def patched(self):
            # ms-swift fills in defaults of RLHF before those of `SftArguments`.
            with noting(self):
                original(self)
            if self.model_type == MODEL_TYPE:
                _check_arguments(self)

        return patched

    wrap(RLHFArguments, '__post_init__', ('self', ), post_init)


def patch_rlhf_pipeline() -> None:
    """Freezes the segmentation modules, and takes the masks out of the batches."""
    from swift.pipelines.train.rlhf import SwiftRLHF

    # Why: no loss of RLHF reaches the projector and SAM2. Trained, they would shrink under weight decay. An adapter
    # with its own copy of them keeps it: it is saved again as it was loaded. Here, not in `TunerMixin`, because this
    # method also loads `--ref_adapters`, which PEFT makes trainable.
    def prepare_model(original):

        def patched(cls, args, model, **kwargs):
            return _frozen_segmentation(original(args, model, **kwargs))

        return classmethod(patched)

    # Why: GRPO and GKD encode in the mode of supervised training, where a row's masks are targets.
    def prepare_template(original):

        def patched(self):
            original(self)
            if is_citrusv(self.template):
                self.template.trains_masks = False

        return patched

    wrap(SwiftRLHF, 'prepare_model', ('args', 'model'), prepare_model)
    wrap(SwiftRLHF, '_prepare_template', ('self', ), prepare_template)


def _check_arguments(args: Any) -> None:
    from swift.utils import get_logger
    given, defaults = Settings.from_env(), Settings()
    for name in _WITHOUT_EFFECT:
        if getattr(given, name) != getattr(defaults, name):
            raise ValueError(f'{name}={getattr(given, name)} has no effect in `swift rlhf`, which trains no masks. '
                             'Remove it.')
    if str(args.eval_metric).startswith(MODEL_TYPE):
        raise ValueError(f'--eval_metric {args.eval_metric} has no effect in `swift rlhf`. Remove it.')
    for flag in ('modules_to_save', 'trainable_parameters'):
        named = [name for name in getattr(args, flag) if set(name.split('.')) & set(SEGMENTATION_MODULES)]
        if named:
            raise ValueError(f'--{flag} names {", ".join(named)}, but `swift rlhf` trains no masks, so nothing would '
                             'train it but weight decay. Remove it.')
    _refuse_new_head(args)
    get_logger().warning(
        f'`swift rlhf` trains text only: masks of the rows are not used, and {" and ".join(SEGMENTATION_MODULES)} stay '
        'as they are. The hidden states at [SEG] change with the text, so score the masks again afterwards '
        '(`citrusv eval`).')


def _refuse_new_head(args: Any) -> None:
    """Refuses a plain Qwen2.5-VL, whose random head would never train, unless an adapter brings a trained one."""
    if config_of(args.model_dir).get('model_type') == MODEL_TYPE:
        return
    adapters = args.adapters or [args.resume_from_checkpoint] if args.is_adapter else []
    if any(_holds_segmentation(adapter) for adapter in adapters if adapter):
        return
    raise ValueError(
        f'{args.model} has no segmentation head, and `swift rlhf` cannot train one: its masks would stay random. Train '
        'masks first (`swift sft --model_type citrusv`) and start from that checkpoint or adapter; or leave out '
        '--model_type citrusv, to train text only.')


def _holds_segmentation(adapter: str) -> bool:
    try:
        with open(os.path.join(adapter, 'adapter_config.json'), encoding='utf-8') as file:
            saved = json.load(file).get('modules_to_save')
    except (OSError, ValueError):  # ms-swift reports it.
        return False
    return set(SEGMENTATION_MODULES) <= set(saved or ())


def _frozen_segmentation(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if set(name.split('.')) & set(SEGMENTATION_MODULES):
            parameter.requires_grad_(False)
    return model
