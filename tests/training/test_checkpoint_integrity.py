"""Incomplete checkpoints are recognised, in every layout that ms-swift writes, after any file and within any file."""
import json
import os
import pytest
import shutil
import torch
from collections.abc import Callable
from pathlib import Path
from safetensors.torch import save_file

from swift_citrusv.training.checkpoint_integrity import (REPLACED, SEAL, checkpoints_of, delete_checkpoint, find_defect,
                                                         is_model_only, seal)
from swift_citrusv.training.checkpoint_selection import (CheckpointError, SelectedCheckpoint, checkpoints_to_delete,
                                                         select_checkpoint)

# The files of each kind, in the order of writing. (`args.json` has the number of ranks.)
PLAIN = ('config.json', 'model.safetensors', 'training_args.bin', 'args.json', 'tokenizer.json')
STATES = ('optimizer.pt', 'scheduler.pt')
ZERO = ('global_step4/mp_rank_00_model_states.pt', 'global_step4/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt',
        'global_step4/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt', 'latest', 'scheduler.pt')
RNG_2 = ('rng_state_0.pth', 'trainer_state.json', 'rng_state_1.pth')
KINDS = {
    'one rank': (*PLAIN, *STATES, 'rng_state.pth', 'trainer_state.json'),
    'two ranks': (*PLAIN, *STATES, *RNG_2),
    'shards': ('model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json',
               'args.json', *STATES, 'rng_state.pth', 'trainer_state.json'),
    'LoRA': ('adapter_model.safetensors', 'adapter_config.json', 'args.json', *STATES, *RNG_2),
    'ZeRO-2': (*PLAIN, *ZERO, *RNG_2),
    'ZeRO-3, not gathered': ('args.json', *(f'global_step4/zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt'
                                            for kind in ('model', 'optim') for rank in (0, 1)),
                             'latest', 'scheduler.pt', *RNG_2),
    'FSDP2': ('args.json', 'pytorch_model_fsdp_0/__0_0.distcp', 'pytorch_model_fsdp_0/__1_0.distcp',
              'pytorch_model_fsdp_0/.metadata', 'optimizer_0/__0_0.distcp', 'optimizer_0/__1_0.distcp',
              'optimizer_0/.metadata', 'scheduler.pt', *RNG_2),
    'model only': (*PLAIN, 'trainer_state.json'),
}  # yapf: disable
# Files that a run can resume without, or that only a seal can miss.
OPTIONAL = {'config.json', 'training_args.bin', 'args.json', 'tokenizer.json', 'adapter_config.json',
            'model.safetensors.index.json', 'optimizer_0/__0_0.distcp', 'pytorch_model_fsdp_0/__0_0.distcp',
            'pytorch_model_fsdp_0/__1_0.distcp', 'optimizer_0/__1_0.distcp'}  # yapf: disable
# DeepSpeed keeps the weights in its own files, and may have its own scheduler.
OPTIONAL_WITH_ZERO = {'model.safetensors', 'scheduler.pt'}
# Their format has no length.
NO_LENGTH = ('.distcp', '.metadata', 'latest', 'args.json', 'config.json', 'tokenizer.json')


def write(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if name == 'args.json':
        num_ranks = 2 if 'rng_state_1.pth' in KINDS[kind] else 1
        path.write_text(json.dumps({'global_world_size': num_ranks, 'save_only_model': kind == 'model only'}))
    elif name.endswith('.index.json'):
        path.write_text(json.dumps({'weight_map': {'a': KINDS['shards'][0], 'b': KINDS['shards'][1]}}))
    elif name.endswith('.json'):
        path.write_text(json.dumps({'global_step': 4, 'log_history': [1.5] * 20}))
    elif name.endswith('.safetensors'):
        save_file({'a': torch.ones(7, 5), 'b': torch.ones(3, dtype=torch.bfloat16)}, path, metadata={'format': 'pt'})
    elif name.endswith(('.pt', '.pth', '.bin')):
        torch.save({'a': torch.ones(9), 'b': 'text'}, path)
    else:
        path.write_bytes(b'global_step4')


def make(folder: Path, kind: str = 'one rank', num_files: int | None = None) -> Path:
    for name in KINDS[kind][:num_files]:
        write(folder / name, kind)
    return folder


def cut(path: Path, num_bytes: int) -> None:
    os.truncate(path, num_bytes)


@pytest.mark.parametrize('kind', KINDS)
def test_written_up_to_any_byte(kind, tmp_path):
    """Files are added one by one, each first up to some byte; then each file of the complete checkpoint is removed."""
    run = tmp_path / 'run'
    # The folder of a run has the arguments from the start.
    write(run / 'args.json', kind)
    folder, names = run / 'checkpoint-4', KINDS[kind]
    folder.mkdir()
    assert find_defect(str(folder)) == 'trainer_state.json, which is written last, is missing'
    for name in names:
        path = folder / name
        write(path, kind)
        size = path.stat().st_size
        is_last = name == names[-1]
        if is_last:
            assert find_defect(str(folder)) is None and is_model_only(str(folder)) == (kind == 'model only')
        for num_bytes in {0, 1, 8, 9, 60, size // 2, size - 1} & set(range(size)):
            cut(path, num_bytes)
            assert find_defect(str(folder)), f'{name} with {num_bytes} of {size} bytes'
        write(path, kind)
    assert find_defect(str(folder)) is None
    for name in names:
        (folder / name).unlink()
        optional = OPTIONAL | OPTIONAL_WITH_ZERO if 'ZeRO' in kind else OPTIONAL
        assert bool(find_defect(str(folder))) == (name not in optional), name
        write(folder / name, kind)
        if not name.endswith(NO_LENGTH):
            cut(folder / name, (folder / name).stat().st_size - 1)
            assert find_defect(str(folder)), name
            write(folder / name, kind)


@pytest.mark.parametrize('kind', KINDS)
def test_seal(kind, tmp_path):
    """With a seal, every file must have its size; text files, which users edit, any size but 0."""
    folder = make(tmp_path / 'run' / 'checkpoint-4', kind)
    (folder / 'empty.py').touch()
    seal(str(folder), model_only=kind == 'model only')
    assert find_defect(str(folder)) is None and is_model_only(str(folder)) == (kind == 'model only')
    assert not list(folder.glob('*.tmp'))
    (folder / 'note.txt').write_text('added later')
    for name in KINDS[kind]:
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole + b' ')
        reason = None if path.suffix == '.json' else f'{name} has {len(whole) + 1:,} of its {len(whole):,} bytes'
        assert find_defect(str(folder)) == reason
        path.write_bytes(whole[:-1])
        assert (find_defect(str(folder)) is None) == (path.suffix == '.json')
        path.write_bytes(b'')
        assert find_defect(str(folder)) == f'{name} has 0 of its {len(whole):,} bytes'
        path.unlink()
        assert find_defect(str(folder)) == f'{name} is missing'
        path.write_bytes(whole)
    assert find_defect(str(folder)) is None
    (folder / SEAL).write_text('{"files": ')
    assert find_defect(str(folder)) == f'{SEAL} cannot be read'


def test_power_failure(tmp_path):
    """A file system may keep the size of a file and fill it with zeros."""
    folder = make(tmp_path / 'checkpoint-4')
    for name in ('model.safetensors', 'optimizer.pt', 'rng_state.pth', 'trainer_state.json'):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(bytes(len(whole)))
        assert find_defect(str(folder)), name
        (folder / name).write_bytes(whole)


def test_pickles_and_empty_safetensors(tmp_path):
    """DeepSpeed may write pickles, and a safetensors file may have no tensors."""
    folder = make(tmp_path / 'run' / 'checkpoint-4', 'ZeRO-2')
    torch.save({'a': 1}, folder / KINDS['ZeRO-2'][-4], _use_new_zipfile_serialization=False)
    save_file({}, folder / 'model.safetensors')
    assert find_defect(str(folder)) is None


def test_number_of_ranks(tmp_path):
    """Without args.json, the files present count; with a disk per node, each has only the files of its own ranks."""
    folder = make(tmp_path / 'run' / 'checkpoint-4', 'two ranks')
    (folder / 'args.json').unlink()
    assert find_defect(str(folder)) is None
    arguments = {'global_world_size': 4, 'save_on_each_node': False}
    (folder / 'args.json').write_text(json.dumps(arguments))
    assert find_defect(str(folder)) == 'rng_state_2.pth is missing'
    (folder / 'args.json').write_text(json.dumps({**arguments, 'save_on_each_node': True}))
    assert find_defect(str(folder)) is None


def test_a_partly_deleted_checkpoint_is_incomplete(tmp_path, monkeypatch):
    """At every moment of the deletion."""
    folder = make(tmp_path / 'run' / 'checkpoint-4', 'ZeRO-2')
    seal(str(folder))
    seen = []

    def noting(function: Callable) -> Callable:

        def noted(path, *args, **kwargs):
            result = function(path, *args, **kwargs)
            if folder.is_dir():
                seen.append(find_defect(str(folder)))
            return result

        return noted

    monkeypatch.setattr(os, 'unlink', noting(os.unlink))
    monkeypatch.setattr(shutil, 'rmtree', noting(shutil.rmtree))
    delete_checkpoint(str(folder))
    assert not folder.exists() and len(seen) > 10 and all(seen)


# ---- selection


@pytest.fixture
def run(tmp_path) -> Path:
    """Checkpoints 2, 4, 10 and 12; 4 and 12 are incomplete, and only 12 has a seal."""
    for step in (2, 4, 10, 12):
        folder = make(tmp_path / 'run' / f'checkpoint-{step}')
        if step == 12:
            seal(str(folder))
        if step in (4, 12):
            cut(folder / 'optimizer.pt', 100)
    (tmp_path / 'run' / 'checkpoint-final').mkdir()
    return tmp_path / 'run'


def test_selected_checkpoint(run):
    (run / 'last-checkpoint').symlink_to('checkpoint-12')
    for named, step, incomplete in (
        ('', 10, [12]),
        ('checkpoint-2', 2, []),
        ('checkpoint-4', 2, [4]),
        ('checkpoint-4/', 2, [4]),
        ('checkpoint-10', 10, []),
        ('checkpoint-12', 10, [12]),
        ('last-checkpoint', 10, [12]),
    ):
        selected = select_checkpoint(f'{run}/{named}')
        assert selected.path == str(run / f'checkpoint-{step}'), named
        rejected = [str(run / f'checkpoint-{step}') for step in incomplete]
        assert [folder for folder, _ in selected.incomplete] == rejected, named


def test_message(run):
    size = (run / 'checkpoint-10' / 'optimizer.pt').stat().st_size
    assert select_checkpoint(str(run)).message() == (
        f'{run}/checkpoint-12 (optimizer.pt has 100 of its {size:,} bytes) is incomplete. The run resumes from the '
        f'last complete checkpoint before: {run}/checkpoint-10.')
    cut(run / 'checkpoint-10' / 'model.safetensors', 50)
    message = select_checkpoint(str(run)).message()
    assert message.count('is truncated') == 2 and ' are incomplete' in message
    assert select_checkpoint(str(run / 'checkpoint-2')).message() == ''


def test_checkpoint_under_another_name(run):
    (run / 'checkpoint-10').rename(run / 'best')
    assert select_checkpoint(str(run / 'best')).path == str(run / 'best')
    cut(run / 'best' / 'optimizer.pt', 100)
    with pytest.raises(
            CheckpointError, match=r'best \(optimizer.pt is truncated\). Name one .* in \S*run: checkpoint-2\.'):
        select_checkpoint(str(run / 'best'))


def test_replaced_checkpoint_counts_until_the_new_one_is_complete(run):
    """Before the new one exists, and while it is incomplete."""
    (run / 'checkpoint-10').rename(run / f'{REPLACED}checkpoint-10')
    for named in (run, run / 'checkpoint-10'):
        assert select_checkpoint(str(named)).path == str(run / f'{REPLACED}checkpoint-10')
    make(run / 'checkpoint-10', num_files=3)
    selected = select_checkpoint(str(run / 'checkpoint-10'))
    assert [folder for folder, _ in selected.incomplete] == [str(run / 'checkpoint-10')]
    assert selected.path == str(run / f'{REPLACED}checkpoint-10')
    make(run / 'checkpoint-10')
    assert select_checkpoint(str(run / 'checkpoint-10')) == SelectedCheckpoint(str(run / 'checkpoint-10'))


def test_no_such_checkpoint(run):
    for named, message in (
        ('run/checkpoint-3',
         r'checkpoint-3 does not exist. Name one of the complete checkpoints in .*: checkpoint-2, checkpoint-10\.'),
        ('true', r'true is not a folder. Name a checkpoint, or the folder of a run.'),
        ('', r'neither a checkpoint nor the folder of a run with checkpoints. Name one of the runs in it: \S*run.$'),
        ('run/checkpoint-final', r'neither a checkpoint .* Name a folder checkpoint-N, or the folder above it.'),
    ):
        with pytest.raises(CheckpointError, match=message):
            select_checkpoint(str(run.parent / named))


def test_no_complete_checkpoint(run):
    delete_checkpoint(str(run / 'checkpoint-2'))
    with pytest.raises(
            CheckpointError, match=r'checkpoint-4 \(optimizer.pt is truncated\). Name one .*: checkpoint-10\.'):
        select_checkpoint(str(run / 'checkpoint-4'))
    delete_checkpoint(str(run / 'checkpoint-10'))
    message = r'resume from: \S*12 \(.*100 of its .*\), \S*4 \(.* truncated\). Start again without --resume_from_ch'
    with pytest.raises(CheckpointError, match=message):
        select_checkpoint(str(run))
    (run / 'args.json').write_text(json.dumps({'resume_from_checkpoint': '/before/checkpoint-8'}))
    for folder in checkpoints_of(str(run)):
        (Path(folder) / 'args.json').unlink()
    with pytest.raises(
            CheckpointError, match='That run itself resumed from /before/checkpoint-8, so name that one again.'):
        select_checkpoint(str(run))


def test_checkpoint_without_optimizer(tmp_path):
    folder = make(tmp_path / 'checkpoint-4', 'model only')
    for sealed in (False, True):
        if sealed:
            seal(str(folder), model_only=True)
        assert select_checkpoint(str(folder), needs_optimizer=False).path == str(folder)
        with pytest.raises(CheckpointError, match='saved with --save_only_model true.*Add --resume_only_model true'):
            select_checkpoint(str(folder))


# ---- deletion


def test_deletion_order(run):
    """Incomplete ones first, whatever their date and step; then the oldest."""
    for i, step in enumerate((4, 12, 2, 10)):
        os.utime(run / f'checkpoint-{step}', (i, i))
    for limit, keep, deleted in (
        (4, [10], []),
        (3, [10], [4]),
        (2, [10], [4, 12]),
        (1, [10], [4, 12, 2]),
        (1, [12, 2], [4, 10]),
        (2, [4], [12, 2]),
    ):
        folders = checkpoints_to_delete(str(run), limit, [str(run / f'checkpoint-{step}') for step in keep])
        assert [int(Path(folder).name.split('-')[1]) for folder in folders] == deleted, (limit, keep)
