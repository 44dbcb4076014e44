"""Plugin settings: environment variables with the prefix `CITRUSV_`, or keys of ms-swift's `--model_kwargs`.

`plugin.model_kwargs` writes `--model_kwargs '{"seg_lr": 8e-5}'` to the environment as `CITRUSV_SEG_LR`, so `Settings`
reads the environment only. It defines all settings, their defaults and their ranges. Imports nothing heavy.
"""
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

# Without it, a cluster's own DATA_ROOT would move the files of all rows.
_PREFIX = 'CITRUSV_'
_TRUE = {'1', 'true', 'yes', 'on'}
_FALSE = {'0', 'false', 'no', 'off'}


class SettingError(ValueError):
    """A setting (environment variable or `--model_kwargs` key) with a value that cannot be used."""


def _setting(default: Any, help_text: str, *, low: float | None = None, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={'help': help_text, 'low': low, 'choices': choices})


@dataclass(frozen=True)
class Settings:
    """All settings of the plugin; `Settings.from_env()` reads and checks them."""
    sam2: str | None = _setting(
        None, 'SAM2 weights to add to a plain Qwen2.5-VL: a .pt file, a hub name (facebook/sam2.1-hiera-large), or a '
        'preset name (sam2.1_hiera_l, ..., tiny) for random weights. Default: none.')
    sam2_preset: str | None = _setting(
        None, 'The SAM2 preset of a .pt file whose name does not contain it. Default: from the file name.')
    multimask_output: bool | None = _setting(
        None, 'Use the best of the three multimask heads by predicted IoU instead of the single-mask head. Only for '
        "checkpoints trained that way. Default: the checkpoint's own setting.")
    seg_lr: float | None = _setting(
        None, 'Learning rate of the segmentation projector and SAM2 (>= 0). Default: --learning_rate.', low=0.)
    mask_grad_scale: float = _setting(
        1.,
        'Factor on the gradient of the mask loss where it enters the MLLM (>= 0; stage 3: 0.001). Default: 1.',
        low=0.)
    token_weight: float | None = _setting(None, 'Weight of the token loss in equation 4 (>= 0). Default: 1.', low=0.)
    dice_weight: float | None = _setting(None, 'Weight of the Dice loss in equation 4 (>= 0). Default: 2.', low=0.)
    bce_weight: float | None = _setting(None, 'Weight of the BCE loss in equation 4 (>= 0). Default: 1.', low=0.)
    pack_images: int = _setting(8, 'Maximum number of segmentation images in a pack (>= 1). Default: 8.', low=1)
    pack_buffer: int = _setting(
        1000, 'Number of rows buffered to pack a stream (>= 1; --streaming true --packing true). Default: 1000.', low=1)
    seg_chunk: int = _setting(4, 'Images that the SAM2 encoder processes at a time (>= 1). Default: 4.', low=1)
    overlay_dir: str | None = _setting(
        None, 'Folder for pictures of the predicted masks: one PNG for each image with a mask. Default: none.')
    eval_pictures: int = _setting(8, 'Number of masks drawn at each evaluation (>= 0). Default: 8.', low=0)
    data_root: str | None = _setting(
        None, 'Folder that must contain all images, videos and mask files of rows, symbolic links followed; relative '
        'names start there. Default: no restriction.')
    allow_urls: bool = _setting(
        False, 'Whether rows may name images and videos by http:// and https:// URLs. Default: false.')
    max_image_pixels: int = _setting(
        178956970, 'Maximum number of pixels of an image, a frame or a mask (>= 1); a larger one is rejected before it '
        "is decoded. Default: 178956970, PIL's own limit.",
        low=1)
    max_volume_voxels: int = _setting(
        2**31, 'Maximum number of voxels of a NIfTI file (all its volumes together) or a DICOM series (>= 1). Default: '
        '2147483648.',
        low=1)
    # Not `window`: GNU screen sets WINDOW in every shell.
    image_window: str | None = _setting(
        None, "Window for DICOM, NIfTI and 16-bit images whose names do not set one: 'auto' (the file's own, else "
        "percentiles), 'percentile', a CT preset (lung, bone, brain, soft_tissue), or level and width, e.g. '40,400'. "
        'Default: auto for DICOM and NIfTI, the full range for 16-bit PNG and TIFF.')
    nonfinite: str = _setting(
        'stop',
        'Response to a NaN or Inf in loss or gradient: stop the run, or skip the optimizer step. Default: stop.',
        choices=('stop', 'skip'))

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> 'Settings':
        """Reads the settings from the environment.

        Args:
            env: The environment; `os.environ` by default.

        Raises:
            SettingError: A value has the wrong type or is out of range.
        """
        env = os.environ if env is None else env
        _warn_of_names_without_prefix(env)
        values = {}
        for spec in fields(cls):
            text = env.get(variable(spec.name))
            # ms-swift writes str(None) for a JSON null.
            if text is not None and text not in {'', 'None'}:
                values[spec.name] = _parse(spec, text)
        return cls(**values)


def variable(setting: str) -> str:
    """The environment variable of a setting: 'CITRUSV_SEG_LR' for 'seg_lr'."""
    return _PREFIX + setting.upper()


def _warn_of_names_without_prefix(env: Mapping[str, str]) -> None:
    """Warns of variables that were settings until version 0.2; Python shows the same warning once in a process."""
    found = [spec.name.upper() for spec in fields(Settings) if spec.name.upper() in env]
    found = [name for name in found if _PREFIX + name not in env]
    if found and env.get('RANK', '0') == '0':
        names, renamed = ', '.join(found), ', '.join(_PREFIX + name for name in found)
        warnings.warn(
            f'The environment variable {names} is not a setting of swift-citrusv and is not read. If it is meant as '
            f'one, set {renamed} instead.',
            stacklevel=3)


def _parse(spec, text: str) -> Any:
    kind = spec.type.__name__ if isinstance(spec.type, type) else str(spec.type)
    try:
        if 'bool' in kind:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError
            return text.lower() in _TRUE
        value = int(text) if kind.startswith('int') else float(text) if 'float' in kind else text
    except ValueError:
        raise SettingError(f'Setting {spec.name}={text!r} is not of type {kind}. {spec.metadata["help"]}') from None
    low, choices = spec.metadata['low'], spec.metadata['choices']
    if choices is not None and value not in choices:
        raise SettingError(f'Setting {spec.name}={text!r} is not one of: {", ".join(choices)}. {spec.metadata["help"]}')
    # `not value >= low` also rejects NaN.
    if low is not None and not value >= low or value == float('inf'):
        raise SettingError(f'Setting {spec.name}={text} is out of range (>= {low:g}). {spec.metadata["help"]}')
    return value
