"""Which checkpoints of a run are complete: seals for new ones, and checks of the files of those without a seal.

A run that is killed while it saves leaves a folder with missing or truncated files. So a finished checkpoint is sealed:
once all files are on the disk, a list of them with their sizes is written last, and atomically. A checkpoint without a
seal (by stock ms-swift, or by a run that was killed just before sealing) is judged by its files. They are written in a
fixed order: weights, optimizer, scheduler, `trainer_state.json`; each rank adds its random state at any time.
"""
import errno
import json
import os
import re
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

SEAL = 'whole_checkpoint.json'
STATE = 'trainer_state.json'
# Prefix of a complete checkpoint that is saved again, until the new one is sealed. (Transformers treats every folder
# whose name begins with `checkpoint-` as one of its own.)
REPLACED = 'replaced-'
_NAME = re.compile(rf'(?:{REPLACED})?checkpoint-(\d+)')
# Users edit these files, so they must exist, but may have any size.
_TEXT = ('.json', '.jsonl', '.md', '.txt', '.py', '.jinja', '.yaml')
_TORCH = re.compile(r'.*\.(pt|pth)|(pytorch_model|adapter_model|optimizer|training_args).*\.bin')
# Some tuners choose their own names.
_WEIGHTS = re.compile(r'(?!training_args|optimizer).*\.(safetensors|bin)')
_ZERO = re.compile(r'.*zero_pp_rank_\d+_mp_rank_\d+_(optim|model)_states\.pt')
_RNG = re.compile(r'rng_state_(\d+)\.pth')


def step_of(folder: str) -> int | None:
    """The optimizer step of a folder that is named `checkpoint-N`, or None."""
    match = _NAME.fullmatch(os.path.basename(folder))
    return int(match[1]) if match else None


def checkpoints_of(run: str) -> list[str]:
    """All checkpoints of a run, complete or not, by step; of one step, the replaced one first."""
    folders = [os.path.join(run, name) for name in os.listdir(run) if _NAME.fullmatch(name)]
    return sorted(filter(os.path.isdir, folders), key=_order)


def _order(folder: str) -> tuple[int, bool]:
    return step_of(folder) or 0, not os.path.basename(folder).startswith(REPLACED)


# ---- writing


def _files(folder: str) -> Iterator[str]:
    """The relative paths of all files of a checkpoint except the seal."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.relpath(os.path.join(parent, name), folder)
            if not path.startswith(SEAL):
                yield path


def _flush(path: str) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        # Some network file systems do not support it for a folder.
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def seal(folder: str, *, model_only: bool = False) -> None:
    """Marks a checkpoint as complete. One process calls it, once all files are written.

    All files are flushed to the disk first, so that the seal is valid after a power failure too.

    Args:
        folder: The checkpoint.
        model_only: Whether it was saved without optimizer, scheduler and random states.
    """
    names = sorted(_files(folder))
    for name in names:
        _flush(os.path.join(folder, name))
    for parent, _, _ in os.walk(folder):
        _flush(parent)
    content = {'model_only': model_only, 'files': {name: os.path.getsize(os.path.join(folder, name)) for name in names}}
    path = os.path.join(folder, SEAL)
    with open(f'{path}.tmp', 'w', encoding='utf-8') as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f'{path}.tmp', path)
    _flush(folder)
    _flush(os.path.dirname(os.path.abspath(folder)))


def delete_checkpoint(folder: str) -> None:
    """Deletes a checkpoint, its seal last, so that a partly deleted one has missing files."""
    if os.path.islink(folder):
        os.unlink(folder)
        return
    for entry in list(os.scandir(folder)):
        if entry.name == SEAL:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    shutil.rmtree(folder)


# ---- checking


def find_defect(folder: str) -> str | None:
    """What is wrong with a checkpoint; None where it is complete."""
    path = os.path.join(folder, SEAL)
    if not os.path.isfile(path):
        return _defect_without_seal(folder)
    sealed = _read_json(path)
    if not isinstance(sealed, dict) or not isinstance(sealed.get('files'), dict):
        return f'{SEAL} cannot be read'
    for name, size in sealed['files'].items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            return f'{name} is missing'
        found = os.path.getsize(path)
        if found != size and not (name.endswith(_TEXT) and found):
            return f'{name} has {found:,} of its {size:,} bytes'
    return None


def is_model_only(folder: str) -> bool:
    """Whether a complete checkpoint has only the model (`--save_only_model true`)."""
    sealed = _read_json(os.path.join(folder, SEAL))
    return sealed['model_only'] if sealed is not None else not _has_optimizer(folder)


def arguments_of(folder: str) -> dict[str, Any]:
    """The `args.json` that ms-swift writes to a run and to its checkpoints; empty where there is none."""
    for path in (folder, os.path.dirname(folder)):
        arguments = _read_json(os.path.join(path, 'args.json'))
        if isinstance(arguments, dict):
            return arguments
    return {}


def _read_json(path: str) -> Any:
    """The content of a JSON file; None where there is no such file, or no JSON in it."""
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _defect_without_seal(folder: str) -> str | None:
    names = list(_files(folder))
    state = _read_json(os.path.join(folder, STATE))
    if state is None:
        return f'{STATE}, which is written last, is {"truncated" if STATE in names else "missing"}'
    for name in names:
        problem = _truncation(os.path.join(folder, name))
        if problem:
            return f'{name} {problem}'
    return _missing_weights(folder, names) or _missing_states(folder, names)


def _truncation(path: str) -> str | None:
    """How a file of tensors is truncated, by its format; None where it is not."""
    name, size = os.path.basename(path), os.path.getsize(path)
    if name.endswith('.safetensors'):
        expected = _safetensors_size(path, size)
        return None if expected == size else f'has {size:,} of its {expected:,} bytes' if expected else 'is truncated'
    if _TORCH.fullmatch(name):
        with open(path, 'rb') as file:
            start = file.read(2)
        # DeepSpeed may write pickle files instead, which cannot be checked without loading them.
        if start[:1] == b'\x80':
            return None
        try:
            # The list of a zip file's members is at its end.
            zipfile.ZipFile(path).close()
        except zipfile.BadZipFile:
            return 'is truncated'
    if name.endswith('.distcp') and not size:
        return 'is empty'
    return None


def _safetensors_size(path: str, size: int) -> int | None:
    """The size of a safetensors file by its header, in bytes; None where the header is truncated or unreadable."""
    with open(path, 'rb') as file:
        start = file.read(8)
        num_bytes = struct.unpack('<Q', start)[0] if len(start) == 8 else size
        if 8 + num_bytes > size:
            return None
        try:
            header = json.loads(file.read(num_bytes))
        except ValueError:
            # The file system fills it with zeros after a power failure.
            return None
    ends = [tensor['data_offsets'][1] for name, tensor in header.items() if name != '__metadata__']
    return 8 + num_bytes + max(ends, default=0)


def _missing_weights(folder: str, names: list[str]) -> str | None:
    for name in names:
        if not name.endswith('.index.json'):
            continue
        index = _read_json(os.path.join(folder, name))
        if index is None:
            return f'{name} is truncated'
        for shard in sorted(set(index.get('weight_map', {}).values())):
            if os.path.join(os.path.dirname(name), shard) not in names:
                return f'{shard} is missing'
    parts = [name for name in names if name.endswith('.distcp')]
    for part in parts:
        # The first rank writes it after all ranks have written their parts.
        metadata = os.path.join(os.path.dirname(part), '.metadata')
        if metadata not in names:
            return f'{metadata} is missing'
    # ZeRO-3 may keep the weights only in DeepSpeed's own files.
    states = [name for name in names if name.endswith('model_states.pt')]
    if not (parts or states or any(_WEIGHTS.fullmatch(os.path.basename(name)) for name in names)):
        return 'the weights are missing'
    return None


def _has_optimizer(folder: str) -> bool:
    names = list(_files(folder))
    kinds = (r'optimizer\.(pt|bin)', r'optimizer_\d+/.*\.distcp', r'global_step[^/]*/.*states\.pt')
    return any(re.fullmatch(kind, name) for kind in kinds for name in names)


def _missing_states(folder: str, names: list[str]) -> str | None:
    """As `find_defect`, for optimizer, scheduler and random states."""
    arguments = arguments_of(folder)
    if arguments.get('save_only_model'):
        return None
    if not _has_optimizer(folder):
        return 'the optimizer state is missing'
    # Then each node's disk has only the files of its own ranks.
    num_ranks = None if arguments.get('save_on_each_node') else arguments.get('global_world_size')
    if any(name.startswith('global_step') for name in names):
        if 'latest' not in names:
            return 'latest is missing'
        problem = _missing_zero(names, num_ranks)
        if problem:
            return problem
    elif 'scheduler.pt' not in names:
        return 'scheduler.pt is missing'
    ranks = {int(match[1]) for match in map(_RNG.fullmatch, names) if match}
    if 'rng_state.pth' in names or (num_ranks is None and ranks):
        return None
    missing = set(range(num_ranks or 1)) - ranks
    return f'rng_state_{min(missing)}.pth is missing' if missing else None


def _missing_zero(names: list[str], num_ranks: int | None) -> str | None:
    """As `find_defect`, for DeepSpeed's files: each rank has part of the optimizer state (and weights, with ZeRO-3)."""
    if not any(name.endswith('model_states.pt') for name in names):
        return 'mp_rank_00_model_states.pt is missing'
    found = Counter(match[1] for match in map(_ZERO.fullmatch, names) if match)
    for kind, count in found.items():
        if num_ranks is not None and count < num_ranks:
            return f'{count} of {num_ranks} files zero_pp_rank_*_{kind}_states.pt are there'
    return None
