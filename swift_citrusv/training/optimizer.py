"""`--optimizer citrusv`: a learning rate for each part of the model, checked and logged before the first step."""
import json
import os
from dataclasses import dataclass, field
from swift.optimizers.base import OptimizerCallback
from swift.utils import get_logger
from torch import nn
from torch.optim import Optimizer
from transformers import Trainer as HfTrainer

from ..constants import SEGMENTATION_MODULES
from ..settings import Settings

logger = get_logger()
_PEFT_PREFIX = 'base_model.model.'


@dataclass
class ModelPart:
    """The parameters whose names have one of the prefixes, and their learning rate."""
    name: str
    prefixes: tuple[str, ...]
    lr: float
    # The flag that sets the learning rate; None where the user has not set it.
    lr_flag: str | None
    parameters: list[tuple[str, nn.Parameter]] = field(default_factory=list)
    num_total: int = 0

    @property
    def num_trained(self) -> int:
        return sum(num_elements(parameter) for _, parameter in self.parameters)


def num_elements(parameter: nn.Parameter) -> int:
    """The number of values of a parameter; under ZeRO-3 it is empty until it is gathered."""
    return getattr(parameter, 'ds_numel', parameter.numel())


def plain_name(name: str) -> str:
    """A parameter's name without PEFT's prefix."""
    return name.removeprefix(_PEFT_PREFIX)


def is_frozen_original(name: str) -> bool:
    """Whether it is a parameter of the frozen original that PEFT's modules_to_save keeps beside the trained copy."""
    return '.original_module.' in name


def split_parameters(model: nn.Module, parts: list[ModelPart]) -> None:
    """Assigns each trainable parameter to the first part with a matching prefix.

    Raises:
        ValueError: A trainable parameter matches no part, nothing is trainable, or a learning rate is set for a part
            without trainable parameters.
    """
    unassigned = []
    for name, parameter in model.named_parameters():
        if is_frozen_original(name):
            continue
        plain = plain_name(name)
        part = next((part for part in parts if plain.startswith(part.prefixes)), None)
        if part is not None:
            part.num_total += num_elements(parameter)
            if parameter.requires_grad:
                part.parameters.append((name, parameter))
        elif parameter.requires_grad:
            unassigned.append(name)
    if unassigned:
        raise ValueError(
            f'{len(unassigned)} trainable parameters belong to no optimizer group: {", ".join(unassigned[:5])}. '
            f'Groups: {", ".join(part.name for part in parts)}. Freeze them with --freeze_parameters.')
    if not any(part.parameters for part in parts):
        raise ValueError('No parameter is trainable. Check --freeze_llm, --freeze_vit, --freeze_aligner and '
                         '--freeze_parameters.')
    for part in parts:
        if part.lr_flag is not None and not part.parameters:
            # ms-swift has no --freeze_... flag for the segmentation modules.
            switch = '' if part.name == 'segmentation' else f'--freeze_{part.name.lower()} false, or '
            raise ValueError(
                f'{part.lr_flag}={part.lr:g} is set, but the {part.name} has no trainable parameter. Unfreeze it '
                f'({switch}take it out of --freeze_parameters), or remove {part.lr_flag}.')


def training_table(parts: list[ModelPart]) -> str:
    """A table of the parts, their parameters and learning rates, for the log."""
    lines = [f'{"part":<14}{"trained":>15}{"of":>15}{"tensors":>9}  learning rate']
    for part in parts:
        rate = f'{part.lr:g}' if part.parameters else 'frozen'
        lines.append(f'{part.name:<14}{part.num_trained:>15,}{part.num_total:>15,}{len(part.parameters):>9}  {rate}')
    return '\n'.join(lines)


class CitrusVOptimizerCallback(OptimizerCallback):
    """Groups parameters into LLM, ViT, aligner and segmentation (paper, table 4).

    Attributes:
        made_parts: The parts of the optimizer that was made last.
    """
    made_parts: list[ModelPart] = []

    def parts(self, model: nn.Module) -> list[ModelPart]:
        args = self.args
        arch = model.model_meta.model_arch
        seg_lr = Settings.from_env().seg_lr

        def rate(value: float | None) -> float:
            return args.learning_rate if value is None else value

        def flag(value: float | None, name: str) -> str | None:
            return None if value is None else name

        return [
            ModelPart('aligner', tuple(arch.aligner), rate(args.aligner_lr), flag(args.aligner_lr, '--aligner_lr')),
            ModelPart('ViT', tuple(arch.vision_tower), rate(args.vit_lr), flag(args.vit_lr, '--vit_lr')),
            ModelPart('segmentation', SEGMENTATION_MODULES, rate(seg_lr), flag(seg_lr, 'seg_lr')),
            ModelPart('LLM', tuple(arch.language_model), args.learning_rate, None),
        ]

    def create_optimizer(self, model=None) -> Optimizer:
        args = self.args
        model = self.trainer.model if model is None else model
        parts = self.parts(model)
        split_parameters(model, parts)
        self.made_parts = parts
        decayed = set(HfTrainer.get_decay_parameter_names(None, model))
        groups = []
        for part in parts:
            for decays in (False, True):
                chosen = [parameter for name, parameter in part.parameters if (name in decayed) is decays]
                if chosen:
                    weight_decay = args.weight_decay if decays else 0.
                    groups.append({'params': chosen, 'weight_decay': weight_decay, 'lr': part.lr})
        if self.trainer.is_world_process_zero():
            logger.info(f'what this run trains:\n{training_table(parts)}')
            with open(os.path.join(args.output_dir, 'trained_parameters.json'), 'w', encoding='utf-8') as f:
                json.dump({part.name: part.num_trained for part in parts}, f)
        optimizer_cls, optimizer_kwargs = HfTrainer.get_optimizer_cls_and_kwargs(args, model)
        return optimizer_cls(groups, **optimizer_kwargs)
