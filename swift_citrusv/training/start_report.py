"""What a run is about to do, in a few lines before its first step; a run that contradicts itself stops there."""
from collections.abc import Iterable
from dataclasses import dataclass
from swift.utils import get_logger
from torch import nn
from typing import Any

from ..constants import SEGMENTATION_MODULES
from ..errors import ROW_ERRORS
from ..model.losses import LossWeights
from ..settings import Settings
from .mask_counts import MaskCounts, StreamedMasks, count_masks, count_supervised
from .optimizer import is_frozen_original, num_elements, plain_name
from .rank_sync import run_on_rank_0

logger = get_logger()


@dataclass(frozen=True)
class Trained:
    """What is trained of some parameters.

    Attributes:
        trained: Number of trained values.
        total: Number of all values.
        rates: Their learning rates, in rising order; empty where the optimizer does not show them.
    """
    trained: int
    total: int
    rates: tuple[float, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether a step can change a value: a learning rate may be 0."""
        return self.trained > 0 and (not self.rates or self.rates[-1] > 0)

    def __str__(self) -> str:
        if not self.trained:
            return f'frozen (0 of {self.total:,} parameters)'
        rates = ' and '.join(f'{rate:g}' for rate in self.rates) or 'not shown by the optimizer'
        return f'trained ({self.trained:,} of {self.total:,} parameters), learning rate {rates}'


# ---- the optimizer


def learning_rates(optimizer: Any) -> dict[int, float]:
    """The learning rate of each parameter that an optimizer holds, by `id`; the rate before any warm-up.

    DeepSpeed's ZeRO optimizers hold flat copies in their groups, and the model's parameters beside them.
    """
    rates: dict[int, float] = {}
    for _ in range(4):
        if optimizer is None:
            break
        groups = getattr(optimizer, 'param_groups', [])
        originals = getattr(optimizer, 'bit16_groups', None) or getattr(optimizer, 'fp16_groups', None)
        members = originals if originals and len(originals) == len(groups) else [group['params'] for group in groups]
        for group, parameters in zip(groups, members):
            rate = float(group.get('initial_lr', group['lr']))
            rates.update({id(parameter): rate for parameter in parameters})
        optimizer = getattr(optimizer, 'optimizer', None)
    return rates


def _trained(parameters: Iterable[nn.Parameter], rates: dict[int, float]) -> Trained:
    trained = total = 0
    found = set()
    for parameter in parameters:
        total += num_elements(parameter)
        if parameter.requires_grad:
            trained += num_elements(parameter)
            if id(parameter) in rates:
                found.add(rates[id(parameter)])
    return Trained(trained, total, tuple(sorted(found)))


def segmentation_trained(trainer: Any) -> Trained:
    """What the run trains of projector and SAM2, at the learning rate that the optimizer really has."""
    segmentation = [
        parameter for name, parameter in trainer.model.named_parameters()
        if plain_name(name).startswith(SEGMENTATION_MODULES) and not is_frozen_original(name)
    ]
    found = _trained(segmentation, learning_rates(trainer.optimizer))
    if found.trained and not found.rates:
        # An optimizer that hides its parameters (FSDP): what ours was made with.
        parts = getattr(getattr(trainer, 'optimizer_callback', None), 'made_parts', [])
        rates = tuple(part.lr for part in parts if part.name == 'segmentation')
        found = Trained(found.trained, found.total, rates)
    return found


# ---- the embedding of [SEG], and the losses


def seg_embedding(model: nn.Module, seg_token_id: int | None, rates: dict[int, float]) -> str:
    """Whether and how the embedding of `[SEG]` is trained."""
    embedding = model.get_input_embeddings()
    ways = {}
    for name, parameter in embedding.named_parameters():
        if not parameter.requires_grad:
            continue
        if 'trainable_tokens_delta' in name:
            indices = [index for part in embedding.modules()
                       for index in (getattr(part, 'token_indices', None) or {}).values()]  # yapf: disable
            if not any(seg_token_id in of_adapter for of_adapter in indices):
                continue
            way = 'as one of trainable_token_indices'
        elif 'lora_embedding' in name:
            way = 'by LoRA on the embeddings'
        elif 'modules_to_save' in name:
            way = 'with all embeddings, by modules_to_save'
        else:
            way = 'with all embeddings'
        ways[way] = rates.get(id(parameter))
    if not ways:
        return 'frozen'
    way, rate = next(iter(ways.items()))
    return f'trained ({way})' + ('' if rate is None else f', learning rate {rate:g}')


def _losses(trainer: Any, trains_text: bool) -> str:
    """The losses of text and of masks, and their weights."""
    weights = getattr(trainer.compute_loss_func, 'weights', None)
    if not isinstance(weights, LossWeights):
        return f"text: ms-swift's own, --loss_type {trainer.args.loss_type}; masks: none"
    scale = getattr(trainer.template, '_loss_scale', 'default')
    text = f'{weights.token:g} x token CE, loss_scale {scale}' if weights.token else 'off (token_weight 0)'
    if weights.token and not trains_text:
        text = f'{text} (only logged: nothing that it reaches is trained)'
    masks = f'{weights.dice:g} x Dice + {weights.bce:g} x BCE'
    return f'text: {text}; masks: {masks if weights.dice or weights.bce else "off (dice_weight 0, bce_weight 0)"}'


# ---- the report


def is_said_frozen(args: Any) -> bool:
    """Whether a flag or setting says that segmentation is not trained.

    Args:
        args: The arguments of `swift sft`; None where the trainer was made without them.
    """
    if args is None:
        return True
    named = any(module.startswith(name) or name.startswith(module) for name in args.freeze_parameters
                for module in SEGMENTATION_MODULES)  # yapf: disable
    return (named or bool(args.freeze_parameters_regex) or args.freeze_parameters_ratio > 0
            or Settings.from_env().seg_lr == 0)


def find_contradiction(rows: MaskCounts | StreamedMasks,
                       segmentation: Trained,
                       *,
                       is_said: bool = False,
                       tuner_type: str = 'full',
                       supervised: tuple[int, int] | None = None) -> str | None:
    """Why a run cannot do what its flags and rows say; None if it can.

    Args:
        rows: Of the training set.
        segmentation: What is trained of segmentation.
        is_said: Whether a flag or setting says that it is not trained (`is_said_frozen`).
        tuner_type: `--tuner_type`.
        supervised: What `count_supervised` found in the training set.
    """
    modules = ' '.join(SEGMENTATION_MODULES)
    if segmentation.moves and rows.has_masks is False:
        number = rows.rows if isinstance(rows, MaskCounts) else rows.read
        return (
            f'Segmentation is {segmentation}, but none of the {number:,} rows of --dataset has masks: nothing would '
            'teach it, and weight decay would shrink it. Give rows with `masks` (`citrusv check-data` shows what a '
            f'file holds), or freeze it: --freeze_parameters {modules}, without seg_lr.')
    if segmentation.moves and supervised is not None and not supervised[0]:
        return (
            f'Segmentation is {segmentation}, but no mask of --dataset would train ({supervised[1]:,} rows with masks '
            'were looked at): a mask trains where its [SEG] has a token loss, and --loss_scale or "loss": false at the '
            'turns takes it from all of them. Give the turns with [SEG] a loss (--loss_scale default trains every '
            f'answer), or freeze segmentation: --freeze_parameters {modules}, without seg_lr.')
    if not segmentation.trained and rows.has_masks and not is_said:
        some = f'{rows.with_masks:,} of the {rows.rows:,}' if isinstance(rows, MaskCounts) else 'Some'
        train = ('take it out of what is frozen'
                 if tuner_type == 'full' else f'--tuner_type lora does, with --modules_to_save {modules}')
        return (f'{some} rows of --dataset have masks, but nothing of segmentation ({modules}) is trained, and no flag '
                f'says so. Train it ({train}), or say that it stays frozen: --freeze_parameters {modules}.')
    return None


def _unsupervised(supervised: tuple[int, int] | None) -> str:
    if supervised is None or supervised[0] == supervised[1]:
        return ''
    trained, measured = supervised
    return f' (no [SEG] has a loss in {measured - trained} of {measured} rows with masks looked at)'


def report_start(trainer: Any, args: Any) -> None:
    """Logs on rank 0 what the run trains and on how many masks. All ranks call it, after the optimizer was made.

    Args:
        trainer: The trainer.
        args: The arguments of `swift sft`, or None; the trainer's own lack the flags of the tuner.

    Raises:
        ValueError: The run contradicts itself (`find_contradiction`); on all ranks.
    """

    def count() -> tuple[MaskCounts | StreamedMasks, MaskCounts | StreamedMasks | None]:
        evaluation = trainer.eval_dataset
        return count_masks(trainer.train_dataset), None if evaluation is None else count_masks(evaluation)

    training, evaluation = run_on_rank_0(count, ROW_ERRORS)
    supervised = run_on_rank_0(lambda: count_supervised(trainer.train_dataset, trainer.template), ROW_ERRORS)
    segmentation = segmentation_trained(trainer)
    trains_text = any(
        parameter.requires_grad and not plain_name(name).startswith(SEGMENTATION_MODULES)
        for name, parameter in trainer.model.named_parameters())
    if trainer.is_world_process_zero():
        seg_token_id = getattr(trainer.model.config, 'seg_token_id', None)
        embedding = seg_embedding(trainer.model, seg_token_id, learning_rates(trainer.optimizer))
        lines = [
            'this run:', f'training set: {training}{_unsupervised(supervised)}',
            f'validation set: {"none" if evaluation is None else evaluation}', f'segmentation: {segmentation}',
            f'[SEG] embedding: {embedding}', f'losses: {_losses(trainer, trains_text)}'
        ]
        logger.info('\n  '.join(lines))
    problem = find_contradiction(
        training,
        segmentation,
        is_said=is_said_frozen(args),
        tuner_type=getattr(trainer.args, 'tuner_type', None) or 'full',
        supervised=supervised)
    if problem is not None:
        raise ValueError(problem)
