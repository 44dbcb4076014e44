"""Where SAM2 weights come from: a `.pt` file, a hub name, or nowhere (random).

Files are read with `weights_only=True`, so no code in them runs, and strictly: a key of the image path that is missing
or not known is an error.
"""
import os
import pickle
import torch
from dataclasses import dataclass

from .segmenter import PRESETS, Segmenter

# What a SAM2 checkpoint holds for video: memory attention and encoder, object pointers. Our image path has none.
_VIDEO_PREFIXES = ('memory_attention.', 'memory_encoder.', 'maskmem_tpos_enc', 'no_mem_pos_enc', 'mask_downsample.',
                   'obj_ptr_proj.', 'obj_ptr_tpos_proj.', 'no_obj_ptr', 'no_obj_embed_spatial')
_SIZES = {'tiny': 't', 'small': 's', 'base_plus': 'b+', 'large': 'l'}
# sam2.1_hiera_base_plus.pt -> sam2.1_hiera_b+, as Meta names the files.
_FILE_PRESETS = {
    f'{family}_hiera_{size}.pt': f'{family}_hiera_{short}'
    for family in ('sam2', 'sam2.1')
    for size, short in _SIZES.items()
}
_HUB_FILES = {f'facebook/{name[:-3].replace("_", "-")}': name for name in _FILE_PRESETS}


@dataclass(frozen=True)
class Sam2Source:
    """A preset and the checkpoint file of its weights; no file means random weights."""
    preset: str
    path: str | None


def resolve_sam2(source: str, preset: str | None = None) -> Sam2Source:
    """Finds the preset and the weights that `source` names.

    Args:
        source: A `.pt` file, a directory that holds one of Meta's `.pt` files, a hub name such as
            'facebook/sam2.1-hiera-large', or the name of a preset (random weights).
        preset: The preset, where the file's name does not tell it.

    Raises:
        ValueError: Nothing of that name, or the preset cannot be told, or `preset` contradicts it.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f'Unknown SAM2 preset {preset!r}. Use one of: {", ".join(PRESETS)}.')
    told = source if source in PRESETS else _FILE_PRESETS.get(_HUB_FILES.get(source, ''))
    if told is not None and preset not in {None, told}:
        raise ValueError(f'{source!r} is of preset {told!r}, but sam2_preset={preset!r} is set. Remove it.')
    if source in PRESETS:
        return Sam2Source(source, None)
    if os.path.isdir(source):
        found = sorted(name for name in os.listdir(source) if name in _FILE_PRESETS)
        if len(found) != 1:
            raise ValueError(f'The directory {source!r} holds {found or "none"} of the SAM2 checkpoints '
                             f'{", ".join(_FILE_PRESETS)}; exactly one is needed. Name the .pt file itself.')
        source = os.path.join(source, found[0])
    if os.path.isfile(source):
        preset = preset or _FILE_PRESETS.get(os.path.basename(source))
        if preset is None:
            raise ValueError(f'The name of {source!r} does not tell its SAM2 preset. Set sam2_preset to one of: '
                             f'{", ".join(PRESETS)}.')
        return Sam2Source(preset, source)
    if source in _HUB_FILES:
        from huggingface_hub import hf_hub_download
        name = _HUB_FILES[source]
        return Sam2Source(_FILE_PRESETS[name], hf_hub_download(repo_id=source, filename=name))
    raise ValueError(f'No SAM2 weights at {source!r}. Give a .pt file, a hub name ({", ".join(_HUB_FILES)}) or, for '
                     f'random weights, a preset ({", ".join(PRESETS)}).')


def load_sam2_weights(segmenter: Segmenter, path: str) -> None:
    """Loads the image path of a SAM2 checkpoint into `segmenter`, in place.

    Raises:
        ValueError: The file is not a SAM2 checkpoint of the segmenter's preset; says which keys are wrong.
    """
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, OSError, LookupError) as e:
        raise ValueError(f'{path!r} cannot be read as a SAM2 checkpoint: {e}') from e
    except pickle.UnpicklingError as e:
        raise ValueError(
            f'{path!r} is refused: it is damaged, or holds more than tensors (weights_only=True): {e}') from e
    state = checkpoint.get('model', checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f'{path!r} holds no state dict of tensors, neither at its top nor under "model".')
    state = {key: value for key, value in state.items() if not key.startswith(_VIDEO_PREFIXES)}
    own = segmenter.state_dict()
    wrong = {
        'missing': [key for key in own if key not in state],
        'unexpected': [key for key in state if key not in own],
        'of another shape': [
            f'{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}' for key, value in own.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    problems = [
        f'{len(keys)} {kind}: {", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""}' for kind, keys in wrong.items()
        if keys
    ]
    if problems:
        raise ValueError(f'{path!r} is no checkpoint of SAM2 preset {segmenter.preset!r}. Keys {"; ".join(problems)}. '
                         'Set sam2_preset to the preset it was trained with.')
    segmenter.load_state_dict(state, strict=True)
