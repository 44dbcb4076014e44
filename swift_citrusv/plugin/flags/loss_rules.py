"""The flags of loss and optimizer that are refused or warned of with Citrus-V, and when."""
import importlib
from typing import Any

from ...constants import MODEL_TYPE
from .rule import REFUSED, WARNED, Rule, Run

# Values of --optim.
_WITHOUT_ARGS = ('adamw_torch', 'adamw_torch_fused', 'sgd', 'adafactor', 'adagrad', 'rmsprop')


def chosen_optimizer(args: Any) -> str:
    """The optimizer that ms-swift will take; ours unless another one was asked for."""
    implied = 'lorap' if args.lorap_lr_ratio else 'galore' if args.use_galore else MODEL_TYPE
    return args.optimizer or implied


def _is_registered(module: str, registry: str, name: str) -> bool:
    return name in getattr(importlib.import_module(module), registry)


def _is_ms_swifts(optimizer: str) -> bool:
    """Whether it is an optimizer of ms-swift, not of a plugin, which may know the parts of the model."""
    from swift.optimizers import optimizers_map
    return getattr(optimizers_map.get(optimizer), '__module__', '').startswith('swift.')


def _ignores_seg_lr(run: Run) -> bool:
    return run.settings.seg_lr is not None and _is_ms_swifts(chosen_optimizer(run.args))


def _ignores_mllm_lr(run: Run) -> bool:
    optimizer = chosen_optimizer(run.args)
    given = run.args.vit_lr is not None or run.args.aligner_lr is not None
    return given and optimizer != 'multimodal' and _is_ms_swifts(optimizer)


def _is_lora_plus(run: Run) -> bool:
    return chosen_optimizer(run.args) == 'lorap' and run.args.tuner_type in ('lora', 'longlora')


def _optim(run: Run) -> str:
    return str(getattr(run.args.optim, 'value', run.args.optim))


def _mixes_rows(run: Run) -> bool:
    """Whether the logits of several rows stand in one line without their borders."""
    args = run.args
    several = max(args.per_device_train_batch_size, args.per_device_eval_batch_size) > 1
    return several and not (args.packing or args.padding_free) and args.use_logits_to_keep is not False


_ONE_BY_ONE = 'With several rows in a batch and no packing, they would be counted as one.'

RULES: list[Rule] = [
    Rule(
        REFUSED,
        'loss_type',
        'a name that is not registered',
        'Neither ms-swift nor a plugin has it.',
        'Leave it out.',
        '--{} citrus',
        when=lambda run: not _is_registered('swift.loss', 'loss_map', run.args.loss_type)),
    Rule(
        REFUSED,
        'optimizer',
        'a name that is not registered',
        'Neither ms-swift nor a plugin has it.',
        'Leave it out.',
        '--{} adam',
        when=lambda run: not _is_registered('swift.optimizers', 'optimizers_map', run.args.optimizer)),
    Rule(
        WARNED,
        'loss_type',
        'other than citrusv',
        'It trains no masks: only --loss_type citrusv has a mask loss.',
        'Leave it out.',
        '--{} cross_entropy',
        when=lambda run: run.args.loss_type != MODEL_TYPE),
    Rule(
        REFUSED,
        'enable_dft_loss',
        'with loss_type citrusv',
        'It replaces the token loss, and --loss_type citrusv would ignore it.',
        'Leave it off.',
        when=lambda run: run.args.loss_type == MODEL_TYPE),
    Rule(
        REFUSED,
        'label_smoothing_factor',
        'with loss_type citrusv',
        'ms-swift smooths labels in its own loss only, and --loss_type citrusv would ignore it.',
        'Leave it out.',
        when=lambda run: run.args.loss_type == MODEL_TYPE),
    Rule(
        REFUSED,
        'optimizer lorap_lr_ratio use_galore',
        'of ms-swift, with seg_lr',
        "It would ignore seg_lr: all of ms-swift's optimizers train segmentation at --learning_rate.",
        'Leave it out, or remove seg_lr.',
        '--model_kwargs {{"seg_lr":1e-4}} --{}',
        when=_ignores_seg_lr),
    Rule(
        REFUSED,
        'vit_lr aligner_lr',
        'with an optimizer of ms-swift other than multimodal',
        'The optimizer has one learning rate for all parts.',
        'Leave out --optimizer, --lorap_lr_ratio and --use_galore, or this rate.',
        '--optimizer default --{}',
        when=_ignores_mllm_lr),
    Rule(
        REFUSED,
        'lorap_lr_ratio',
        'with another optimizer, or without LoRA',
        'It belongs to --optimizer lorap and --tuner_type lora, and would be ignored.',
        'Leave it out, or set both.',
        '--tuner_type full --{}',
        when=lambda run: not _is_lora_plus(run)),
    Rule(
        WARNED,
        'lorap_lr_ratio',
        '',
        'LoRA+ multiplies the rate of biases and norms of the projector and SAM2 too.',
        'Leave it out to train them at one rate.',
        '--tuner_type lora --{}',
        when=_is_lora_plus),
    Rule(
        REFUSED,
        'use_galore',
        'with another optimizer',
        'It belongs to --optimizer galore, and would be ignored.',
        'Leave out one of the two.',
        '--optimizer default --{}',
        when=lambda run: chosen_optimizer(run.args) != 'galore'),
    Rule(
        WARNED, 'galore_target_modules galore_rank galore_update_proj_gap galore_scale galore_proj_type '
        'galore_optim_per_parameter galore_with_embedding galore_quantization galore_proj_quant galore_proj_bits '
        'galore_proj_group_size galore_cos_threshold galore_gamma_proj galore_queue_size',
        'without use_galore',
        'GaLore is off.',
        'Add --use_galore true, or leave it out.',
        when=lambda run: not run.args.use_galore),
    Rule(
        REFUSED,
        'optim',
        'galore_*, apollo_*, lomo, adalomo',
        'It needs the whole model in one group, and cannot train its parts.',
        'Use AdamW, Adafactor or SGD; or --use_galore true.',
        '--{} galore_adamw',
        when=lambda run: _optim(run).startswith(('galore', 'apollo', 'lomo', 'adalomo'))),
    Rule(
        WARNED,
        'optim_args',
        'with an optimizer that has none',
        'Transformers does not pass it to AdamW, SGD, Adafactor, Adagrad and RMSprop.',
        'Leave it out, and use --adam_beta1, --adam_beta2 and --adam_epsilon.',
        when=lambda run: _optim(run) in _WITHOUT_ARGS and 'muon' not in chosen_optimizer(run.args)),
    Rule(REFUSED, 'optim_target_modules', '', 'Only --optim galore_* and apollo_* read it.', 'Leave it out.',
         '--{} all-linear'),
    Rule(
        REFUSED,
        'average_tokens_across_devices',
        'false on several ranks',
        'Each rank would normalise the loss by its own tokens and masks.',
        'Leave it at true.',
        when=lambda run: not run.args.average_tokens_across_devices and run.args.global_world_size > 1 and run.args.
        loss_type == MODEL_TYPE),
    Rule(
        REFUSED,
        'enable_channel_loss',
        'several rows in a batch',
        _ONE_BY_ONE,
        'Add --packing true, or --use_logits_to_keep false.',
        '--per_device_train_batch_size 2 --{}',
        when=lambda run: run.args.enable_channel_loss and _mixes_rows(run)),
    Rule(
        REFUSED,
        'acc_strategy',
        'seq with several rows in a batch',
        _ONE_BY_ONE,
        'Add --packing true, or --use_logits_to_keep false.',
        '--per_device_train_batch_size 2 --{}',
        when=lambda run: run.args.acc_strategy != 'token' and _mixes_rows(run)),
    Rule(REFUSED, 'use_liger_kernel liger_kernel_config', '', 'Liger has no kernels for Citrus-V.', 'Leave it out.'),
]
