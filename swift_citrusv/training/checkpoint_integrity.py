"""Which checkpoints of a run are whole: half-written ones are recognised, and never cost a whole one.

A run that is killed while it saves leaves a folder in which files are missing or cut short. Here a finished checkpoint
is sealed: once every file is on the disk, a list of them with their sizes is written last, and appears in one piece. A
checkpoint without a seal (of stock ms-swift, or of a run that was killed right before) is judged by its files. They
are written in a fixed order: weights, optimizer, scheduler, `trainer_state.json`; each rank adds its own state of the
random numbers at any time.
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
# A whole checkpoint that is about to be written anew waits under this name until the new one is sealed. (Transformers
# takes every folder whose name begins with `checkpoint-` for one of its own.)
REPLACED = 'replaced-'
_NAME = re.compile(rf'(?:{REPLACED})?checkpoint-(\d+)')
# People edit these by hand; such a file must be there, of whatever size.
_TEXT = ('.json', '.jsonl', '.md', '.txt', '.py', '.jinja', '.yaml')
_TORCH = re.compile(r'.*\.(pt|pth)|(pytorch_model|adapter_model|optimizer|training_args).*\.bin')
# Some tuners have names of their own for them.
_WEIGHTS = re.compile(r'(?!training_args|optimizer).*\.(safetensors|bin)')
_ZERO = re.compile(r'.*zero_pp_rank_\d+_mp_rank_\d+_(optim|model)_states\.pt')
_RNG = re.compile(r'rng_state_(\d+)\.pth')


def step_of(folder: str) -> int | None:
    """The optimizer step of a folder that is named `checkpoint-N`, or None."""
    match = _NAME.fullmatch(os.path.basename(folder))
    return int(match[1]) if match else None


def checkpoints_of(run: str) -> list[str]:
    """The checkpoints of a run, whole or not, the first step first; of one step that which is replaced first."""
    folders = [os.path.join(run, name) for name in os.listdir(run) if _NAME.fullmatch(name)]
    return sorted(filter(os.path.isdir, folders), key=_order)


def _order(folder: str) -> tuple[int, bool]:
    return step_of(folder) or 0, not os.path.basename(folder).startswith(REPLACED)


# ---- writing


def _files(folder: str) -> Iterator[str]:
    """All files of a checkpoint but the seal, as names relative to it."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.relpath(os.path.join(parent, name), folder)
            if not path.startswith(SEAL):
                yield path


def _flush(path: str) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        # Some network file systems cannot do it for a folder.
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def seal(folder: str, *, model_only: bool = False) -> None:
    """Marks a checkpoint as whole. To be called once all of it is written, by one process.

    All files are flushed to the disk first, so that the seal holds after a power cut too.

    Args:
        folder: The checkpoint.
        model_only: Whether it was saved without optimizer, scheduler and state of the random numbers.
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


def remove(folder: str) -> None:
    """Deletes a checkpoint, its seal last: at any time in between, files are seen to be missing."""
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


# ---- judging


def fault(folder: str) -> str | None:
    """What is missing of a checkpoint; None where it is whole."""
    path = os.path.join(folder, SEAL)
    if not os.path.isfile(path):
        return _fault_without_seal(folder)
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
    """Whether a whole checkpoint has nothing but the model (`--save_only_model true`)."""
    sealed = _read_json(os.path.join(folder, SEAL))
    return sealed['model_only'] if sealed is not None else not _has_optimizer(folder)


def arguments_of(folder: str) -> dict[str, Any]:
    """The arguments of a run, as ms-swift keeps them in its folder and in each checkpoint; empty where it did not."""
    for path in (folder, os.path.dirname(folder)):
        arguments = _read_json(os.path.join(path, 'args.json'))
        if isinstance(arguments, dict):
            return arguments
    return {}


def _read_json(path: str) -> Any:
    """None where there is no such file, or no JSON in it."""
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _fault_without_seal(folder: str) -> str | None:
    names = list(_files(folder))
    state = _read_json(os.path.join(folder, STATE))
    if state is None:
        return f'{STATE}, which is written last, is {"cut short" if STATE in names else "missing"}'
    for name in names:
        problem = _cut_short(os.path.join(folder, name))
        if problem:
            return f'{name} {problem}'
    return _missing_weights(folder, names) or _missing_states(folder, names)


def _cut_short(path: str) -> str | None:
    """Whether a file of tensors ends before its end, by what its format says."""
    name, size = os.path.basename(path), os.path.getsize(path)
    if name.endswith('.safetensors'):
        whole = _safetensors_size(path, size)
        return None if whole == size else f'has {size:,} of its {whole:,} bytes' if whole else 'is cut short'
    if _TORCH.fullmatch(name):
        with open(path, 'rb') as file:
            start = file.read(2)
        # DeepSpeed can be told to write pickle files instead, of which nothing can be said without loading them.
        if start[:1] == b'\x80':
            return None
        try:
            # The list of a zip file's members stands at its end.
            zipfile.ZipFile(path).close()
        except zipfile.BadZipFile:
            return 'is cut short'
    if name.endswith('.distcp') and not size:
        return 'is empty'
    return None


def _safetensors_size(path: str, size: int) -> int | None:
    """The bytes that a safetensors file says it has; None where it ends before it says so."""
    with open(path, 'rb') as file:
        start = file.read(8)
        num_bytes = struct.unpack('<Q', start)[0] if len(start) == 8 else size
        if 8 + num_bytes > size:
            return None
        try:
            header = json.loads(file.read(num_bytes))
        except ValueError:
            # Filled with zeros by the file system, after a power cut.
            return None
    ends = [tensor['data_offsets'][1] for name, tensor in header.items() if name != '__metadata__']
    return 8 + num_bytes + max(ends, default=0)


def _missing_weights(folder: str, names: list[str]) -> str | None:
    for name in names:
        if not name.endswith('.index.json'):
            continue
        index = _read_json(os.path.join(folder, name))
        if index is None:
            return f'{name} is cut short'
        for shard in sorted(set(index.get('weight_map', {}).values())):
            if os.path.join(os.path.dirname(name), shard) not in names:
                return f'{shard} is missing'
    parts = [name for name in names if name.endswith('.distcp')]
    for part in parts:
        # The first rank writes it once all have written their parts.
        metadata = os.path.join(os.path.dirname(part), '.metadata')
        if metadata not in names:
            return f'{metadata} is missing'
    # ZeRO-3 may keep the weights in DeepSpeed's own files alone.
    states = [name for name in names if name.endswith('model_states.pt')]
    if not (parts or states or any(_WEIGHTS.fullmatch(os.path.basename(name)) for name in names)):
        return 'the weights are missing'
    return None


def _has_optimizer(folder: str) -> bool:
    names = list(_files(folder))
    kinds = (r'optimizer\.(pt|bin)', r'optimizer_\d+/.*\.distcp', r'global_step[^/]*/.*states\.pt')
    return any(re.fullmatch(kind, name) for kind in kinds for name in names)


def _missing_states(folder: str, names: list[str]) -> str | None:
    """As `fault`, for optimizer, scheduler and the states of the random numbers."""
    arguments = arguments_of(folder)
    if arguments.get('save_only_model'):
        return None
    if not _has_optimizer(folder):
        return 'the state of the optimizer is missing'
    # On disks of their own, each node has its own ranks' files.
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
    """As `fault`, for DeepSpeed's files: each rank has a share of the optimizer's state; of the weights with ZeRO-3."""
    if not any(name.endswith('model_states.pt') for name in names):
        return 'mp_rank_00_model_states.pt is missing'
    found = Counter(match[1] for match in map(_ZERO.fullmatch, names) if match)
    for kind, count in found.items():
        if num_ranks is not None and count < num_ranks:
            return f'{count} of {num_ranks} files zero_pp_rank_*_{kind}_states.pt are there'
    return None
