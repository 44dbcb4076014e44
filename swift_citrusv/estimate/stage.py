"""Freezes what a training stage of the paper freezes, without ms-swift."""
import yaml
from torch import nn

from ..package_files import templates_dir

_ALIGNER, _VIT, _LLM = 'model.visual.merger.', 'model.visual.', ('model.', 'lm_head.')


def freeze_as_stage(model: nn.Module, stage: int) -> None:
    """Freezes the parameters that `templates/stageN.yaml` freezes.

    Args:
        model: A `CitrusVForConditionalGeneration` with all parameters trainable.
        stage: 1 to 4.
    """
    with open(templates_dir() / f'stage{stage}.yaml', encoding='utf-8') as file:
        flags = yaml.safe_load(file)
    for name, parameter in model.named_parameters():
        part = ('freeze_aligner' if name.startswith(_ALIGNER) else
                'freeze_vit' if name.startswith(_VIT) else 'freeze_llm' if name.startswith(_LLM) else '')
        if flags.get(part) or name.startswith(tuple(flags.get('freeze_parameters', ()))):
            parameter.requires_grad_(False)
