"""The layout of the published Citrus-V checkpoints: how it is told, and what its names and settings are called here.

config.json has model_type 'citrus_v', the sizes of the language model at its top beside `vision_config`, and SAM2 by
the name of a YAML file, of which only the name is read. The weights are `mllm.*` (Qwen2.5-VL's own names below it,
those of Transformers before version 4.52 or those since), `grounding_encoder.sam2_model.*` (the `sam2` package's names,
with the modules for video) and `seg_projector.*`.
"""
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PUBLISHED_TYPE = 'citrus_v'
# How often "not a point" stands before the prompt of a `[SEG]` in a model of this layout. The code that was published
# beside the weights, and that they were trained with, gives SAM2 one padding point where there is no other, as SAM2
# itself does, and SAM2's prompt encoder adds another to whatever points it is given.
PADDING_POINTS = 2
# Settings of that model's own training code; none of them changes what the weights give.
TRAINING_SETTINGS = ('loss_mask_config', 'loss_dice_config', 'use_seg_loss', 'frozen_sam2_decoder',
                     'frozen_sam2_image_encoder', 'frozen_sam2_prompt_encoder')
_REPLACED = ('model_type', 'architectures', 'transformers_version', 'torch_dtype', 'dtype', 'seg_token_idx',
             'grounding_encoder_config', 'use_res_seg_projector', '_name_or_path', *TRAINING_SETTINGS)
# The first prefix that fits names the part.
_MLLM_PREFIXES = {
    'mllm.lm_head.': 'lm_head.',
    'mllm.model.visual.': 'model.visual.',
    'mllm.model.language_model.': 'model.language_model.',
    'mllm.visual.': 'model.visual.',
    'mllm.model.': 'model.language_model.',
}
_SAM2_PREFIX = 'grounding_encoder.sam2_model.'
_PROJECTOR_PREFIX = 'seg_projector.'
# `residual_mapping` is the skip's name in the published code; the others say the same.
_PLAIN_LAYERS = {'0': 'fc1', '2': 'fc2'}
_RESIDUAL_LAYERS = {
    'linear1': 'fc1',
    'linear2': 'fc2',
    'fc1': 'fc1',
    'fc2': 'fc2',
    **_PLAIN_LAYERS,
    'residual_mapping': 'skip',
    'residual': 'skip',
    'shortcut': 'skip',
    'skip': 'skip',
}

# What text needs, each as one of several files.
_TEXT_FILES = {
    'tokenizer': ('tokenizer.json', 'vocab.json'),
    'processor': ('preprocessor_config.json', 'processor_config.json'),
}
TEXT_REMEDY = ("They are those of the Qwen2.5-VL of its size: name one when you convert (citrusv convert SRC DST "
               '--tokenizer Qwen/Qwen2.5-VL-7B-Instruct), or copy its tokenizer, preprocessor and chat template files '
               'into the directory; [SEG] is added to them.')


def refuse_published(config: Mapping[str, Any], source: str) -> None:
    """Checks that a model is not in the published layout.

    Args:
        config: Its config.json.
        source: Its name, for the message.

    Raises:
        ValueError: It is; the message says which command to run.
    """
    if config.get('model_type') == PUBLISHED_TYPE:
        raise ValueError(
            f'{source} is a Citrus-V checkpoint in its published layout (model_type "{PUBLISHED_TYPE}"). Convert it '
            f'once, and name the new directory instead: citrusv convert {shlex.quote(source)} NEW_DIRECTORY')


def missing_for_text(folder: str) -> list[str]:
    """Which of 'tokenizer' and 'processor' a model directory lacks."""
    return [part for part, names in _TEXT_FILES.items() if not any((Path(folder) / name).is_file() for name in names)]


def our_settings(config: Mapping[str, Any], source: str, padding_points: int = PADDING_POINTS) -> dict[str, Any]:
    """Translates a config.json of the published layout.

    Args:
        config: The config.json.
        source: Its name, for messages.
        padding_points: See `CitrusVConfig`.

    Returns:
        The arguments of `CitrusVConfig`. What Qwen2.5-VL knows is handed through as it is.

    Raises:
        ValueError: The layout is another one, or something that the model needs is missing.
    """
    found = config.get('model_type')
    if found != PUBLISHED_TYPE:
        raise ValueError(f'{source} says "model_type": {found!r}, not "{PUBLISHED_TYPE}". Only the published layout of '
                         'Citrus-V is converted; a plain Qwen2.5-VL becomes a Citrus-V with citrusv build.')
    if config.get('quantization_config') is not None:
        raise ValueError(f'{source} has a quantization_config: its weights are not plain numbers. Convert the '
                         'checkpoint that it was made from.')
    if not isinstance(config.get('vision_config'), Mapping):
        raise ValueError(f'{source} has no "vision_config". Download the file again.')
    text = config.get('text_config') or config
    # Transformers would put those of another model in their place.
    wrong = {
        key: text.get(key)
        for key in ('hidden_size', 'num_hidden_layers', 'vocab_size') if not isinstance(text.get(key), int)
    }
    if wrong:
        raise ValueError(f'{source} has no sizes of the language model: {wrong}. Download the file again.')
    rope = text.get('rope_scaling') or text.get('rope_parameters') or {}
    if not isinstance(rope, Mapping) or 'mrope_section' not in rope:
        raise ValueError(
            f'{source} says "rope_scaling": {rope!r}, and no mrope_section in it. Download the file again.')
    seg_token_id = config.get('seg_token_idx')
    if not isinstance(seg_token_id, int) or not 0 <= seg_token_id < text['vocab_size']:
        raise ValueError(f'{source} says "seg_token_idx": {seg_token_id!r}; it has to be a token id below the '
                         f'vocab_size of {text["vocab_size"]}. Download the file again.')
    settings = {key: value for key, value in config.items() if key not in _REPLACED}
    return settings | {
        'sam2_preset': _preset(config.get('grounding_encoder_config'), source),
        'multimask_output': True,
        'padding_points': padding_points,
        'seg_token_id': seg_token_id,
        'residual_projector': bool(config.get('use_res_seg_projector', False)),
    }


def _preset(sam2: Any, source: str) -> str:
    path = sam2.get('cfg_path') if isinstance(sam2, Mapping) else None
    if not isinstance(path, str) or not path:
        raise ValueError(f'{source} does not say which SAM2 it has: "grounding_encoder_config" needs a "cfg_path" that '
                         'ends in the name of a SAM2 configuration, such as sam2_hiera_l.yaml.')
    # Only the name: the path is one of another machine, and nothing in a checkpoint says what code runs.
    return re.split(r'[\\/]', path)[-1].removesuffix('.yaml')


def our_key(key: str, residual: bool) -> str | None:
    """What a weight is called in `CitrusVForConditionalGeneration`.

    Args:
        key: Its name in the published layout.
        residual: Whether the projector is the residual one.

    Returns:
        The name, or None where the layout has no such weight. (Modules of SAM2 that only video needs get a name too,
        which the model does not have.)
    """
    if key.startswith(_SAM2_PREFIX):
        return f'segmenter.{key.removeprefix(_SAM2_PREFIX)}'
    if key.startswith(_PROJECTOR_PREFIX):
        layer, _, rest = key.removeprefix(_PROJECTOR_PREFIX).partition('.')
        name = (_RESIDUAL_LAYERS if residual else _PLAIN_LAYERS).get(layer)
        return None if name is None else f'seg_projector.{name}.{rest}'
    for old, new in _MLLM_PREFIXES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return None
