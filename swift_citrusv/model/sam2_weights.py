"""SAM2 weights: from a `.pt` file, from a hub name, or random.

Files are read with `weights_only=True`, so no code in them runs; missing or unknown keys of the image path are errors.
"""
import os
import pickle
import torch
from dataclasses import dataclass

from .segmenter import PRESETS, Segmenter

# The weights of a SAM2 checkpoint that only video needs: memory attention and encoder, object pointers.
VIDEO_PREFIXES = ('memory_attention.', 'memory_encoder.', 'maskmem_tpos_enc', 'no_mem_pos_enc', 'mask_downsample.',
                  'obj_ptr_proj.', 'obj_ptr_tpos_proj.', 'no_obj_ptr', 'no_obj_embed_spatial')
_SIZES = {'tiny': 't', 'small': 's', 'base_plus': 'b+', 'large': 'l'}
# Meta's file names: sam2.1_hiera_base_plus.pt -> sam2.1_hiera_b+.
_FILE_PRESETS = {
    f'{family}_hiera_{size}.pt': f'{family}_hiera_{short}'
    for family in ('sam2', 'sam2.1')
    for size, short in _SIZES.items()
}
_HUB_FILES = {f'facebook/{name[:-3].replace("_", "-")}': name for name in _FILE_PRESETS}


@dataclass(frozen=True)
class Sam2Source:
    """A preset and the checkpoint file with its weights; None for random weights."""
    preset: str
    path: str | None


def resolve_sam2(source: str, preset: str | None = None) -> Sam2Source:
    """Resolves `source` to a preset and a weight file; downloads the file of a hub name.

    Args:
        source: A `.pt` file, a directory with one of Meta's `.pt` files, a hub name such as
            'facebook/sam2.1-hiera-large', or a preset name (random weights).
        preset: The preset, if the file name does not contain it.

    Raises:
        ValueError: `source` does not exist, its preset is not known, or `preset` contradicts it.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f'Unknown SAM2 preset {preset!r}. Use one of: {", ".join(PRESETS)}.')
    named = source if source in PRESETS else _FILE_PRESETS.get(_HUB_FILES.get(source, ''))
    if named is not None and preset not in {None, named}:
        raise ValueError(f'{source!r} has preset {named!r}, but sam2_preset={preset!r} is set. Remove it.')
    if source in PRESETS:
        return Sam2Source(source, None)
    if os.path.isdir(source):
        found = sorted(name for name in os.listdir(source) if name in _FILE_PRESETS)
        if len(found) != 1:
            raise ValueError(f'The directory {source!r} contains {found or "none"} of the SAM2 checkpoints '
                             f'{", ".join(_FILE_PRESETS)}; it must contain exactly one. Give the .pt file itself.')
        source = os.path.join(source, found[0])
    if os.path.isfile(source):
        preset = preset or _FILE_PRESETS.get(os.path.basename(source))
        if preset is None:
            raise ValueError(f'The file name of {source!r} contains no SAM2 preset. Set sam2_preset to one of: '
                             f'{", ".join(PRESETS)}.')
        return Sam2Source(preset, source)
    if source in _HUB_FILES:
        from huggingface_hub import hf_hub_download
        name = _HUB_FILES[source]
        return Sam2Source(_FILE_PRESETS[name], hf_hub_download(repo_id=source, filename=name))
    raise ValueError(f'No SAM2 weights at {source!r}. Give a .pt file, a hub name ({", ".join(_HUB_FILES)}), or a '
                     f'preset ({", ".join(PRESETS)}) for random weights.')


def load_sam2_weights(segmenter: Segmenter, path: str) -> None:
    """Loads the image path of a SAM2 checkpoint into `segmenter`, in place.

    Raises:
        ValueError: The file is not a SAM2 checkpoint of the segmenter's preset; lists the wrong keys.
    """
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, OSError, LookupError) as e:
        raise ValueError(f'{path!r} cannot be read as a SAM2 checkpoint: {e}') from e
    except pickle.UnpicklingError as e:
        raise ValueError(
            f'{path!r} is refused: it is damaged, or contains more than tensors (weights_only=True): {e}') from e
    state = checkpoint.get('model', checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f'{path!r} contains no state dict of tensors, neither at the top level nor under "model".')
    state = {key: value for key, value in state.items() if not key.startswith(VIDEO_PREFIXES)}
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
        raise ValueError(f'{path!r} is not a checkpoint of SAM2 preset {segmenter.preset!r}. Keys '
                         f'{"; ".join(problems)}. Set sam2_preset to the preset that it was trained with.')
    segmenter.load_state_dict(state, strict=True)
