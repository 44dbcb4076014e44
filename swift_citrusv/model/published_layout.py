"""The layout of the published Citrus-V checkpoints: how to recognise it, and our names for its weights and settings.

config.json has model_type 'citrus_v', the sizes of the language model at the top level beside `vision_config`, and the
path of a YAML file for SAM2, of which only the file name is read. The weights are `mllm.*` (then Qwen2.5-VL's names in
Transformers, before or since version 4.52), `grounding_encoder.sam2_model.*` (then those of the `sam2` package, with
the modules for video) and `seg_projector.*`.
"""
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PUBLISHED_TYPE = 'citrus_v'
# The number of "not a point" embeddings before the prompt of a `[SEG]` in a model of this layout. The published code,
# which the weights were trained with, gives SAM2 one padding point if there is no other point, as SAM2 itself does; and
# SAM2's prompt encoder adds another one to the points it gets.
PADDING_POINTS = 2
# Settings of the published training code; none of them changes the output of the model.
TRAINING_SETTINGS = ('loss_mask_config', 'loss_dice_config', 'use_seg_loss', 'frozen_sam2_decoder',
                     'frozen_sam2_image_encoder', 'frozen_sam2_prompt_encoder')
_REPLACED = ('model_type', 'architectures', 'transformers_version', 'torch_dtype', 'dtype', 'seg_token_idx',
             'grounding_encoder_config', 'use_res_seg_projector', '_name_or_path', *TRAINING_SETTINGS)
# The first matching prefix applies.
_MLLM_PREFIXES = {
    'mllm.lm_head.': 'lm_head.',
    'mllm.model.visual.': 'model.visual.',
    'mllm.model.language_model.': 'model.language_model.',
    'mllm.visual.': 'model.visual.',
    'mllm.model.': 'model.language_model.',
}
_SAM2_PREFIX = 'grounding_encoder.sam2_model.'
_PROJECTOR_PREFIX = 'seg_projector.'
# `residual_mapping` is the name of the skip connection in the published code; the others are accepted as synonyms.
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

# Files that text input and output need: one of each line.
_TEXT_FILES = {
    'tokenizer': ('tokenizer.json', 'vocab.json'),
    'processor': ('preprocessor_config.json', 'processor_config.json'),
}
TEXT_REMEDY = ('They are those of the Qwen2.5-VL of the same size. Name it for the conversion (citrusv convert SRC DST '
               '--tokenizer Qwen/Qwen2.5-VL-7B-Instruct), or copy its tokenizer, preprocessor and chat template files '
               'into the directory; [SEG] is added to them.')


def refuse_published(config: Mapping[str, Any], source: str) -> None:
    """Checks that a model is not in the published layout.

    Args:
        config: Its config.json.
        source: Its path, for the message.

    Raises:
        ValueError: It is in the published layout; the message contains the command that converts it.
    """
    if config.get('model_type') == PUBLISHED_TYPE:
        raise ValueError(
            f'{source} is a Citrus-V checkpoint in the published layout (model_type "{PUBLISHED_TYPE}"). Convert it '
            f'once, and use the new directory instead: citrusv convert {shlex.quote(source)} NEW_DIRECTORY')


def missing_text_parts(folder: str) -> list[str]:
    """Which of 'tokenizer' and 'processor' a model directory lacks."""
    return [part for part, names in _TEXT_FILES.items() if not any((Path(folder) / name).is_file() for name in names)]


def config_arguments(config: Mapping[str, Any], source: str, padding_points: int = PADDING_POINTS) -> dict[str, Any]:
    """Translates a config.json of the published layout.

    Args:
        config: The config.json.
        source: Its path, for messages.
        padding_points: See `CitrusVConfig`.

    Returns:
        The arguments of `CitrusVConfig`. Settings of Qwen2.5-VL are not changed.

    Raises:
        ValueError: Another layout, or a setting that the model needs is missing.
    """
    found = config.get('model_type')
    if found != PUBLISHED_TYPE:
        raise ValueError(f'{source} has "model_type": {found!r}, not "{PUBLISHED_TYPE}". Only the published layout of '
                         'Citrus-V can be converted; for a plain Qwen2.5-VL use citrusv build.')
    if config.get('quantization_config') is not None:
        raise ValueError(f'{source} has a quantization_config: quantised weights are not supported. Convert the '
                         'checkpoint before quantisation.')
    if not isinstance(config.get('vision_config'), Mapping):
        raise ValueError(f'{source} has no "vision_config". Download the file again.')
    text = config.get('text_config') or config
    # Transformers would use defaults of another size.
    wrong = {
        key: text.get(key)
        for key in ('hidden_size', 'num_hidden_layers', 'vocab_size') if not isinstance(text.get(key), int)
    }
    if wrong:
        raise ValueError(f'{source} has no sizes of the language model: {wrong}. Download the file again.')
    rope = text.get('rope_scaling') or text.get('rope_parameters') or {}
    if not isinstance(rope, Mapping) or 'mrope_section' not in rope:
        raise ValueError(f'{source} has "rope_scaling": {rope!r}, without mrope_section. Download the file again.')
    seg_token_id = config.get('seg_token_idx')
    if not isinstance(seg_token_id, int) or not 0 <= seg_token_id < text['vocab_size']:
        raise ValueError(
            f'{source} has "seg_token_idx": {seg_token_id!r}; it must be a token id below the vocab_size of '
            f'{text["vocab_size"]}. Download the file again.')
    settings = {key: value for key, value in config.items() if key not in _REPLACED}
    return settings | {
        'sam2_preset': _sam2_preset(config.get('grounding_encoder_config'), source),
        'multimask_output': True,
        'padding_points': padding_points,
        'seg_token_id': seg_token_id,
        'residual_projector': bool(config.get('use_res_seg_projector', False)),
    }


def _sam2_preset(sam2: Any, source: str) -> str:
    path = sam2.get('cfg_path') if isinstance(sam2, Mapping) else None
    if not isinstance(path, str) or not path:
        raise ValueError(f'{source} does not name its SAM2: "grounding_encoder_config" needs a "cfg_path" that ends in '
                         'the name of a SAM2 configuration, such as sam2_hiera_l.yaml.')
    # Only the file name: the path belongs to another machine, and a checkpoint must not decide which code runs.
    return re.split(r'[\\/]', path)[-1].removesuffix('.yaml')


def parameter_name(key: str, residual: bool) -> str | None:
    """The name of a weight in `CitrusVForConditionalGeneration`.

    Args:
        key: Its name in the published layout.
        residual: Whether the projector has the skip connection.

    Returns:
        The name; None if the layout has no such weight. (SAM2's modules for video get a name too, which the model does
        not have.)
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
