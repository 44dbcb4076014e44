"""The weight files of a published Citrus-V checkpoint: finding and reading them, and mapping each weight to our name.

Code in pickles is never run (`weights_only=True`), and every weight that is not converted is reported.
"""
import json
import math
import pickle
import torch
import zipfile
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing import Any

from .config import CitrusVConfig
from .modeling import CitrusVForConditionalGeneration
from .published_layout import parameter_name
from .sam2_weights import VIDEO_PREFIXES

_INDICES = ('model.safetensors.index.json', 'pytorch_model.bin.index.json')
_SINGLE = ('model.safetensors', 'pytorch_model.bin')
_AGAIN = 'Download the checkpoint again.'
# The supported dtypes, with bytes per element; others are quantised.
_FLOATS = {'float64': 8, 'float32': 4, 'bfloat16': 2, 'float16': 2}
_SAFETENSORS_TYPES = {'F64': 'float64', 'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16'}
_PARTS = {'seg_projector.': 'projector', 'segmenter.': 'SAM2'}
_HEAD = 'lm_head.weight'
_EMBEDDING = 'model.language_model.embed_tokens.weight'


@dataclass(frozen=True)
class Weight:
    """A weight in a file.

    path: The file.
    name: The name in our layout; empty if there is none.
    shape: The shape of the tensor.
    dtype: As torch writes it, 'bfloat16'.
    """
    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * _FLOATS[self.dtype]


@dataclass(frozen=True)
class WeightPlan:
    """The weights to convert.

    weights: By published name, in the order of the files.
    left_out: A sentence for each group of weights that is not converted.
    """
    weights: dict[str, Weight]
    left_out: list[str]

    @property
    def num_bytes(self) -> int:
        return sum(weight.num_bytes for weight in self.weights.values())

    def parts(self) -> dict[str, list[Weight]]:
        """The weights of 'MLLM', 'projector' and 'SAM2'."""
        parts: dict[str, list[Weight]] = {part: [] for part in ('MLLM', *_PARTS.values())}
        for weight in self.weights.values():
            parts[_part(weight.name)].append(weight)
        return parts

    def mllm_dtype(self) -> torch.dtype:
        """A dtype that represents all weights of the MLLM exactly."""
        types = {weight.dtype for weight in self.parts()['MLLM']}
        # Neither of float16 and bfloat16 contains the other.
        widest = max(types, key=lambda dtype: _FLOATS[dtype])
        return torch.float32 if len(types) > 1 and _FLOATS[widest] < 4 else getattr(torch, widest)


def _part(name: str) -> str:
    return next((part for prefix, part in _PARTS.items() if name.startswith(prefix)), 'MLLM')


def find_weight_files(folder: Path) -> list[Path]:
    """The weight files of a directory; safetensors if there are both kinds, as in Transformers.

    Raises:
        FileNotFoundError: There are none, or some that the index names are missing.
        ValueError: The index cannot be read, or names files in other folders.
    """
    for single, index in zip(_SINGLE, _INDICES):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _files_in_index(folder, folder / index)
    shards = sorted(path.name for path in folder.iterdir() if path.suffix in {'.safetensors', '.bin'})
    if shards:
        raise FileNotFoundError(f'{folder} holds {", ".join(shards[:3])}, but neither {" nor ".join(_SINGLE)} nor an '
                                f'index of its files ({", ".join(_INDICES)}). {_AGAIN}')
    raise FileNotFoundError(f'{folder} holds no weights ({", ".join(_SINGLE)}). {_AGAIN}')


def _files_in_index(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values()))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as e:
        raise ValueError(f'{index} cannot be read as an index of weights: {e!r}. {_AGAIN}') from e
    elsewhere = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if elsewhere or not names:
        raise ValueError(f'{index} names {elsewhere or "no files"}; it must name files in its own folder. {_AGAIN}')
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f'{folder} lacks {len(missing)} of the {len(names)} files that {index.name} names: '
                                f'{", ".join(missing)}. {_AGAIN}')
    return [folder / name for name in names]


def tensor_specs(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape and dtype of each tensor of a file, by name, without reading the tensors.

    Raises:
        ValueError: The file is damaged, or contains other objects than tensors.
    """
    if path.suffix != '.safetensors':
        return {
            key: (tuple(value.shape), str(value.dtype).removeprefix('torch.'))
            for key, value in _load_bin(path).items()
        }
    found = {}
    with _open_safetensors(path) as file:
        for key in file.keys():
            view = file.get_slice(key)
            dtype = view.get_dtype()
            found[key] = tuple(view.get_shape()), _SAFETENSORS_TYPES.get(dtype, dtype)
    return found


def iter_tensors(path: Path, keys: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields name and tensor for the names in `keys` that a file contains; reads one tensor at a time.

    Raises:
        ValueError: As in `tensor_specs`.
    """
    if path.suffix == '.safetensors':
        with _open_safetensors(path) as file:
            for key in file.keys():
                if key in keys:
                    yield key, file.get_tensor(key)
    else:
        for key, value in _load_bin(path).items():
            if key in keys:
                # A copy: they may be views of one storage, which safetensors refuses.
                yield key, value.clone(memory_format=torch.contiguous_format)


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework='pt') as file:
            yield file
    except SafetensorError as e:
        raise ValueError(f'{path} cannot be read as safetensors: {e}. {_AGAIN}') from e


def _load_bin(path: Path) -> dict[str, Tensor]:
    try:
        # Memory-mapped, so only the tensors in use are read. Files from before torch 1.6 are no zips and cannot be.
        state = torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        raise ValueError(f'{path} is refused: it is damaged, or contains more than tensors (weights_only=True): {e}. '
                         f'{_AGAIN}') from e
    except (RuntimeError, EOFError, LookupError) as e:
        raise ValueError(f'{path} cannot be read as weights: {e}. {_AGAIN}') from e
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'{path} contains no state dict of tensors. {_AGAIN}')
    return state


def plan_weights(files: Iterable[Path], config: CitrusVConfig) -> WeightPlan:
    """Maps each weight to its name in our layout, from names and shapes alone.

    Args:
        files: The weight files.
        config: The new model's; its `architectures`, `dtype` and `seg_projector_hidden_size` are filled in.

    Raises:
        ValueError: Weights are missing, unknown, duplicated, or of another shape or dtype; lists all of them.
    """
    found: dict[str, Weight] = {}
    problems = []
    for path in files:
        for key, (shape, dtype) in tensor_specs(path).items():
            if key in found:
                problems.append(f'{key} is in {found[key].path.name} and in {path.name}')
            found[key] = Weight(path, parameter_name(key, config.residual_projector) or '', shape, dtype)
    inner = [w.shape[0] for w in found.values() if w.name == 'seg_projector.fc1.weight' and w.shape]
    if inner and inner[0] != config.text_config.hidden_size:
        config.seg_projector_hidden_size = inner[0]
    try:
        with torch.device('meta'):
            model = CitrusVForConditionalGeneration(config)
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as e:
        raise ValueError(f'With the sizes in config.json no Qwen2.5-VL can be built: {e!r}. {_AGAIN}') from e
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}

    video = tuple(f'segmenter.{prefix}' for prefix in VIDEO_PREFIXES)
    left_out = [key for key, weight in found.items() if weight.name.startswith(video)]
    kept = {key: weight for key, weight in found.items() if not weight.name.startswith(video)}
    problems += _problems(kept, wanted, tied=config.tie_word_embeddings)
    if problems:
        kind = 'the residual projector' if config.residual_projector else 'the plain projector'
        raise ValueError(f'The weights do not match config.json, a published Citrus-V with SAM2 {config.sam2_preset!r} '
                         f'and {kind}. {". ".join(problems)}. Nothing was converted.')
    sentences = []
    if left_out:
        modules = dict.fromkeys(found[key].name.removeprefix('segmenter.').split('.')[0] for key in left_out)
        sentences.append(f"{len(left_out)} weights of SAM2's video path: {', '.join(modules)}")
    if config.tie_word_embeddings:
        sentences += _drop_tied_head(kept)
    plan = WeightPlan(kept, sentences)
    config.architectures = [CitrusVForConditionalGeneration.__name__]
    # The dtype of the weights, not that of the published config.json, to which Transformers would round them.
    config.dtype = config.text_config.dtype = config.vision_config.dtype = plan.mllm_dtype()
    return plan


def _problems(weights: dict[str, Weight], wanted: dict[str, tuple[int, ...]], tied: bool) -> list[str]:
    """The problems with the weights, one sentence per kind."""
    sources: dict[str, list[str]] = {}
    for key, weight in weights.items():
        sources.setdefault(weight.name, []).append(key)
    kinds = {
        'unknown': [key for key, weight in weights.items() if weight.name not in wanted],
        'missing': [name for name in wanted if name not in sources and not (tied and name == _HEAD)],
        'duplicated under two names':
        [' and '.join(keys) for name, keys in sources.items() if name in wanted and len(keys) > 1],
        'of another shape': [
            f'{key} {list(weight.shape)} instead of {list(wanted[weight.name])}' for key, weight in weights.items()
            if weight.name in wanted and weight.shape != wanted[weight.name]
        ],
        f'of another dtype than {", ".join(_FLOATS)}': [
            f'{key} ({weight.dtype})' for key, weight in weights.items()
            if weight.name in wanted and weight.dtype not in _FLOATS
        ],
    }
    # Missing weights have our names: their published names are ambiguous. If nothing matches, ten are enough.
    shown = {kind: found[:10] if kind == 'missing' else found for kind, found in kinds.items()}
    return [
        f'{len(found)} {kind}: {", ".join(shown[kind])}{", ..." if len(found) > len(shown[kind]) else ""}'
        for kind, found in kinds.items() if found
    ]


def _drop_tied_head(kept: dict[str, Weight]) -> list[str]:
    """Removes the language head, which config.json ties to the embedding; returns sentences for `left_out`."""
    keys = {weight.name: key for key, weight in kept.items()}
    if _HEAD not in keys:
        return []
    head, embedding = (dict(iter_tensors(kept[key].path, {key}))[key] for key in (keys[_HEAD], keys[_EMBEDDING]))
    if not torch.equal(head, embedding):
        raise ValueError(
            f'config.json ties the language head to the embedding (tie_word_embeddings), but {keys[_HEAD]} '
            f'and {keys[_EMBEDDING]} differ. Set tie_word_embeddings to false.')
    del kept[keys[_HEAD]]
    return [f'{keys[_HEAD]}, which is tied to the embedding (tie_word_embeddings)']
