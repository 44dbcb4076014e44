"""Plugin settings: environment variables, or keys of ms-swift's `--model_kwargs`. Imports nothing heavy.

ms-swift copies every key of `--model_kwargs '{"seg_lr": 8e-5}'` into the environment in upper case, so both ways end
here. This block is the specification of all settings, and the one home of their defaults.
"""
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

_TRUE = {'1', 'true', 'yes', 'on'}
_FALSE = {'0', 'false', 'no', 'off'}


def _setting(default: Any,
             help_text: str,
             *,
             low: float | None = None,
             high: float | None = None,
             choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={'help': help_text, 'low': low, 'high': high, 'choices': choices})


@dataclass(frozen=True)
class Settings:
    """All settings of the plugin; `Settings.from_env()` reads and checks them."""
    sam2: str | None = _setting(
        None, 'SAM2 weights for a plain Qwen2.5-VL directory: a .pt file, a hub name (facebook/sam2.1-hiera-large), '
        'or a preset name (sam2.1_hiera_l, ..., tiny) for random weights.')
    sam2_preset: str | None = _setting(None, 'The preset of a .pt file whose name does not tell it.')
    multimask_output: bool | None = _setting(
        None, 'Take the best of the three multimask heads by predicted IoU instead of the single-mask head. Only for '
        'checkpoints trained so. Default: what the checkpoint says.')
    seg_lr: float | None = _setting(
        None, 'Learning rate of the segmentation projector and SAM2. Default: --learning_rate.', low=0.)
    mask_grad_scale: float = _setting(
        1., "Factor on the mask loss's gradient where it enters the MLLM (stage 3: 0.001).", low=0.)
    token_weight: float | None = _setting(None, 'Weight of the token loss (equation 4; default 1).', low=0.)
    dice_weight: float | None = _setting(None, 'Weight of the Dice loss (equation 4; default 2).', low=0.)
    bce_weight: float | None = _setting(None, 'Weight of the BCE loss (equation 4; default 1).', low=0.)
    pack_images: int = _setting(8, 'Most segmentation images in one pack.', low=1)
    pack_buffer: int = _setting(1000, 'Rows among which a stream is packed (--streaming true --packing true).', low=1)
    seg_chunk: int = _setting(4, 'Images that the SAM2 encoder sees at a time.', low=1)
    overlay_dir: str | None = _setting(
        None, 'A folder for pictures of answers: a PNG for each image that an answer draws on. Default: none.')
    eval_pictures: int = _setting(8, 'Masks drawn at each evaluation (0: none).', low=0)
    data_root: str | None = _setting(
        None, 'The folder that images, videos and mask files must lie in, symbolic links followed; relative names in '
        'rows start there. Default: no bound.')
    allow_urls: bool = _setting(False, 'Whether rows may name images and videos by http:// and https:// URLs.')
    max_image_pixels: int = _setting(
        178956970, 'Most pixels of an image, a frame or a mask; a larger one is refused before it is decoded. The '
        "default is PIL's own limit.",
        low=1)
    max_volume_voxels: int = _setting(
        2**31, 'Most voxels that a NIfTI file, of all its volumes together, or a DICOM series may claim.', low=1)
    # Not `window`: GNU screen sets WINDOW in every shell.
    image_window: str = _setting(
        'auto', "How DICOM and NIfTI images are windowed where their names do not say it: 'auto' (the file's own, else "
        "percentiles), 'percentile', a preset for CT (lung, bone, brain, soft_tissue), or level and width, e.g. "
        "'40,400'.")
    nonfinite: str = _setting(
        'stop',
        'What a NaN or Inf in loss or gradient does: stop the run, or skip the optimizer step.',
        choices=('stop', 'skip'))

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> 'Settings':
        """Reads the settings from the environment.

        Args:
            env: The environment; `os.environ` by default.

        Raises:
            SettingError: A value of the wrong type or out of its range.
        """
        env = os.environ if env is None else env
        values = {}
        for spec in fields(cls):
            text = env.get(spec.name.upper())
            # ms-swift writes str(None) for a JSON null.
            if text is not None and text not in {'', 'None'}:
                values[spec.name] = _parse(spec, text)
        return cls(**values)


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
    choices = spec.metadata['choices']
    if choices is not None and value not in choices:
        raise SettingError(f'Setting {spec.name}={text!r} is none of: {", ".join(choices)}. {spec.metadata["help"]}')
    low, high = spec.metadata['low'], spec.metadata['high']
    # `not low <= value` also refuses NaN.
    if low is not None and not low <= value or high is not None and not value <= high or value == float('inf'):
        upper = '' if high is None else f' to {high}'
        raise SettingError(f'Setting {spec.name}={text} is out of range (from {low}{upper}). {spec.metadata["help"]}')
    return value


class SettingError(ValueError):
    """A plugin setting (environment variable or `--model_kwargs` key) that cannot be used."""
