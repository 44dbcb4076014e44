"""The settings of the plugin that would have no effect in a run of `swift sft`, and are warned of."""
import json
import os
from collections.abc import Callable

from ...constants import MODEL_TYPE
from ...settings import variable
from .rule import WARNED, Rule, Run


class SettingRule(Rule):
    """A rule about settings: `flags` are names of settings, and only values other than the default count."""

    def found(self, run: Run) -> list[str]:
        if self.when is not None and not self.when(run):
            return []
        return [name for name in self.names() if run.sets(name)]

    def message(self, run: Run, names: list[str]) -> str:
        values = ', '.join(f'{name}={getattr(run.settings, name)} ({variable(name)})' for name in names)
        return f'The setting {values} has no effect. {self.reason} {self.remedy}'


def _rule(settings: str, values: str, when: Callable[[Run], bool], reason: str, remedy: str, example: str) -> Rule:
    return SettingRule(WARNED, settings, values, reason, remedy, example, when)


def _frozen_mllm(run: Run) -> bool:
    args = run.args
    frozen = bool(args.freeze_llm and args.freeze_vit and args.freeze_aligner)
    # In `trainable_parameters`, ms-swift lists what is not frozen.
    return args.tuner_type == 'full' and frozen and not args.trainable_parameters and not (
        args.trainable_parameters_regex)


def has_sam2(run: Run) -> bool:
    """Whether the model directory has its own SAM2."""
    try:
        with open(os.path.join(run.args.model_dir, 'config.json'), encoding='utf-8') as file:
            return json.load(file).get('model_type') == MODEL_TYPE
    except (OSError, ValueError):
        return False


# The setting's value in an example is that of the tests.
SETTING_RULES: dict[str, list[Rule]] = {
    'Settings': [
        _rule('pack_images', 'without packing', lambda run: not run.args.packing, 'Nothing is packed.',
              'Add --packing true, or remove it.', ''),
        _rule('pack_buffer', 'without packing of a stream', lambda run: not (run.args.packing and run.args.streaming),
              'Only the packing of a stream has a buffer.', 'Add --streaming true --packing true, or remove it.', ''),
        _rule(
            'eval_pictures', 'without an evaluation of masks', lambda run: not run.args._val_dataset_exists or run.args.
            predict_with_generate or run.args.loss_type != MODEL_TYPE, 'No evaluation predicts masks.',
            'Add --val_dataset or --split_dataset_ratio, or remove it.', ''),
        _rule('mask_grad_scale', 'with a frozen MLLM', _frozen_mllm, 'The MLLM is frozen and gets no gradient.',
              'Unfreeze a part of it (--freeze_llm false), or remove it.',
              '--tuner_type full --freeze_llm true --freeze_vit true --freeze_aligner true'),
        _rule('sam2 sam2_preset', 'with a model that has its SAM2', has_sam2, 'The model has its own SAM2.',
              'Remove it; or put another SAM2 into a new directory with `citrusv build`.', ''),
        _rule('token_weight dice_weight bce_weight', 'with another loss_type',
              lambda run: run.args.loss_type != MODEL_TYPE, 'Only --loss_type citrusv has these weights.',
              'Leave out --loss_type, or remove it.', '--loss_type cross_entropy'),
        _rule('overlay_dir', 'in training', lambda run: True, 'It is for `swift infer` and `swift deploy`.',
              'Remove it; evaluations draw into the folder images of the output.', ''),
    ],
}
