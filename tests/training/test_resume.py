"""A killed and resumed run equals the uninterrupted run bit by bit: losses, learning rates, rows and weights.

The step, rank and moment of the kill are random; a failure prints `CITRUSV_TEST_SEED`, which repeats them.
"""
import json
import os
import pytest
import random
import torch
from collections import Counter, defaultdict
from pathlib import Path
from support.distributed.launcher import Ended, RankError
from support.resumed_run import NUM_STEPS, PACKED, SAVE_STEPS, STREAM, assert_resumed, kill_in_step
from swift.metrics.utils import MeanMetric
from torch.utils.data import DataLoader, IterableDataset
from types import SimpleNamespace

from swift_citrusv.training import resume
from swift_citrusv.training.checkpoint_integrity import REPLACED, SEAL, find_defect, seal, step_of
from swift_citrusv.training.checkpoint_selection import CheckpointError, SelectedCheckpoint, select_checkpoint
from swift_citrusv.training.loss_plugin import SumMetric
from swift_citrusv.training.nonfinite import StepGuard
from swift_citrusv.training.skipping import SkippedRows
from swift_citrusv.training.stream_dataloader import UnpackedStreamLoader

SEED = int(os.environ.get('CITRUSV_TEST_SEED', random.randrange(10**6)))
# Logs at other steps than checkpoints, and random numbers (dropout) in every step.
LORA = '--tuner_type lora --lora_rank 4 --lora_dropout 0.3 --logging_steps 4 --gradient_accumulation_steps 2'
# Before a checkpoint is complete, rank 0 has written more files than this, and another rank fewer.
EVENTS = (20, 2)


def draw(*key: object) -> random.Random:
    print(f'CITRUSV_TEST_SEED={SEED}')
    return random.Random(f'{SEED} {key}')


def kill_in_save(start, num_ranks: int, arguments: str, output: Path, step: int, rng: random.Random) -> None:
    """Kills a run while it saves the checkpoint of a step."""
    rank = rng.randrange(num_ranks)
    number, share = rng.randrange(EVENTS[rank > 0]), rng.choice([0, rng.random()])
    print(f'killed in the save of step {step}, at event {number} of rank {rank}, {share} of the file')
    with pytest.raises(RankError, match=f'rank {rank} ended with exit code -'):
        start(num_ranks, arguments, output=output, sabotage=f'kills.die_in_save {step} {number} {share} {rank}')


@pytest.mark.parametrize('arguments', [
    LORA,
    f'{STREAM} {PACKED} --dataloader_num_workers 2',
    f'{STREAM} --gradient_accumulation_steps 5',
], ids=['not packed, LoRA', 'stream of packs', 'stream, not packed'])  # yapf: disable
def test_killed_in_a_step(arguments, start, tmp_path):
    rng = draw(arguments)
    whole = start(1, arguments)
    step = kill_in_step(start, 1, arguments, tmp_path / 'run', rng)
    resumed = start(1, f'{arguments} --resume_from_checkpoint {tmp_path}/run', output=tmp_path / 'run')
    assert_resumed(resumed, whole, step)


def test_killed_in_a_step_on_two_ranks_of_a_stream(start, tmp_path):
    arguments = f'{STREAM} {PACKED}'
    whole = start(2, arguments)
    step = kill_in_step(start, 2, arguments, tmp_path / 'run', draw('stream, two ranks'))
    resumed = start(2, f'{arguments} --resume_from_checkpoint {tmp_path}/run/last-checkpoint')
    assert_resumed(resumed, whole, step)


def test_killed_twice_on_two_ranks(start, tmp_path):
    """In a step, and after resuming, in the next save. The last complete checkpoint is always kept."""
    rng, run = draw('ddp'), tmp_path / 'run'
    arguments = f'{PACKED} --save_total_limit 1'
    whole = start(2, arguments)
    step = kill_in_step(start, 2, arguments, run, rng)
    kill_in_save(start, 2, f'{arguments} --resume_from_checkpoint {run}', run, step + SAVE_STEPS, rng)
    resumed = resume_from_incomplete(start, arguments, run, step)
    assert_resumed(resumed, whole, step)
    assert [path.name for path in run.glob('*checkpoint-*')] == [f'checkpoint-{NUM_STEPS}']
    assert find_defect(str(run / f'checkpoint-{NUM_STEPS}')) is None


def test_killed_in_a_save_under_zero2(start, tmp_path):
    rng, run = draw('zero2'), tmp_path / 'run'
    arguments, step = f'{PACKED} --deepspeed zero2', rng.choice([SAVE_STEPS, 2 * SAVE_STEPS])
    whole = start(2, arguments)
    kill_in_save(start, 2, arguments, run, step + SAVE_STEPS, rng)
    assert_resumed(resume_from_incomplete(start, arguments, run, step), whole, step)


def resume_from_incomplete(start, arguments: str, run: Path, step: int) -> Ended:
    """Resumes from an incomplete checkpoint; the one of `step` is the last complete one."""
    incomplete = run / f'checkpoint-{step + SAVE_STEPS}'
    incomplete.mkdir(exist_ok=True)
    resumed = start(2, f'{arguments} --resume_from_checkpoint {incomplete}', output=run)
    line = f'The run resumes from the last complete checkpoint before: {run}/checkpoint-{step}.'
    assert str(incomplete) in resumed.text and line in resumed.text
    return resumed


def test_no_row_of_a_stream_is_lost():
    """Seven rows, two ranks, three batches per step: five batches are fillers, in every pass, resumed or not."""

    class TwoRanks(UnpackedStreamLoader):
        rank, world_size = 0, 2

        def _scatter_object_list(self, batches):
            seen.append(batches)
            return batches[0]

    def passes(skip: int) -> list[list[int]]:
        loader = TwoRanks(DataLoader(Rows(), batch_size=None), multiple=3)
        loader.skip_batches = skip
        seen.clear()
        for epoch in range(2):
            loader.set_epoch(epoch)
            list(loader)
        return [[int(row['input_ids']) if row and (row['labels'] >= 0).any() else -1 for row in batches]
                for batches in seen if batches[0] is not None]

    class Rows(IterableDataset):

        def __iter__(self):
            for i in range(7):
                yield {'input_ids': torch.tensor(i), 'labels': torch.tensor([i])}

    seen: list = []
    one_pass = [[0, 1], [2, 3], [4, 5], [6, -1], [-1, -1], [-1, -1]]
    assert passes(0) == one_pass * 2
    # The last two batches of a pass, and then a whole pass.
    assert passes(10) == [[-1, -1]] * 10 + one_pass[4:] + one_pass


# ---- a save that is killed at each of its events


def content(checkpoint: Path) -> dict[str, bytes]:
    """What a run resumes from: bytes by file name."""
    files = {
        str(path.relative_to(checkpoint)): path.read_bytes()
        for path in checkpoint.rglob('*') if path.is_file() and path.suffix in ('.safetensors', '.pt', '.pth')
    }
    state = json.loads((checkpoint / 'trainer_state.json').read_text())
    # The timings in the log differ.
    return {**files, 'step': str(state['global_step']).encode()}


@pytest.fixture(scope='module')
def deaths(start, tmp_path_factory):
    """An uninterrupted run, its folder, and copies of it that were killed while they saved the second checkpoint."""
    folder = tmp_path_factory.mktemp('deaths')
    whole = start(
        1, PACKED, output=folder / 'run', sabotage=f'kills.fork_saves {2 * SAVE_STEPS} {folder}/copies {SEED}')
    copies = json.loads((folder / 'copies' / 'deaths.json').read_text())
    return whole, folder / 'run', [(folder / 'copies' / str(i), death) for i, death in enumerate(copies)]


def test_save_killed_anywhere(deaths):
    """What is selected is complete, byte by byte, and a complete checkpoint is never rejected."""
    draw()
    _, run, copies = deaths
    expected = {step: content(run / f'checkpoint-{step}') for step in (SAVE_STEPS, 2 * SAVE_STEPS)}
    assert len(expected[SAVE_STEPS]) == 5
    count: Counter = Counter()
    for folder, death in copies:
        selected = select_checkpoint(str(folder))
        step = step_of(selected.path) or 0
        assert content(Path(selected.path)) == expected[step], death
        written = folder / f'checkpoint-{2 * SAVE_STEPS}'
        is_there = (written / 'trainer_state.json').exists() and content_or_none(written) == expected[2 * SAVE_STEPS]
        assert (step == 2 * SAVE_STEPS) == is_there, death
        assert is_there or bool(selected.incomplete) == written.exists()
        count[step, death['stock'], (Path(selected.path) / SEAL).exists()] += 1
    # Killed before and after the checkpoint was complete, with and without a seal.
    assert all(count[SAVE_STEPS, stock, True] > 20 for stock in (False, True))
    assert count[2 * SAVE_STEPS, False, False] and count[2 * SAVE_STEPS, True, False]


def content_or_none(checkpoint: Path) -> dict[str, bytes] | None:
    try:
        return content(checkpoint)
    except ValueError:
        return None


def test_resumed_after_such_a_save(deaths, start):
    """After an incomplete checkpoint, and one that only lacks its seal; both are saved again without old files."""
    whole, run, copies = deaths
    rng = draw('after')
    incomplete = [
        folder for folder, death in copies if select_checkpoint(str(folder)).incomplete and not death['stock']
    ]
    unsealed = [folder for folder, death in copies if step_of(select_checkpoint(str(folder)).path) == 2 * SAVE_STEPS]
    for folder, step in ((rng.choice(incomplete), SAVE_STEPS), (rng.choice(unsealed), 2 * SAVE_STEPS)):
        named = folder / f'checkpoint-{2 * SAVE_STEPS}'
        (named / 'left_over.bin').touch()
        resumed = start(1, f'{PACKED} --resume_from_checkpoint {named}', output=folder)
        assert_resumed(resumed, whole, step)
        assert ('incomplete' in resumed.text) == (step == SAVE_STEPS)
        for number in range(step + SAVE_STEPS, NUM_STEPS + 1, SAVE_STEPS):
            name = f'checkpoint-{number}'
            assert content(folder / name) == content(run / name)
            assert {path.name for path in (folder / name).iterdir()} == {path.name for path in (run / name).iterdir()}


def test_model_only_from_an_incomplete_checkpoint(deaths, start):
    """--resume_only_model reads the model from the folder before anything else."""
    _, _, copies = deaths
    folder = draw('weights').choice([folder for folder, death in copies if select_checkpoint(str(folder)).incomplete])
    ended = start(
        1, f'{PACKED} --resume_from_checkpoint {folder}/checkpoint-{2 * SAVE_STEPS} --resume_only_model true '
        f'--model {folder}/checkpoint-{2 * SAVE_STEPS} --max_steps {SAVE_STEPS + 1} --save_strategy no')
    assert f'last complete checkpoint before: {folder}/checkpoint-{SAVE_STEPS}.' in ended.text
    assert len(ended.steps) == 1


# ---- without a run


def trainer(folder: Path, world_size: int = 1, **arguments) -> SimpleNamespace:
    """What `resume` reads of a trainer, with its output in `folder`."""
    args = SimpleNamespace(
        device=torch.device('cpu'),
        world_size=world_size,
        process_index=0,
        output_dir=str(folder),
        resume_from_checkpoint=None,
        resume_only_model=False,
        **arguments)
    metrics: dict = defaultdict(lambda: MeanMetric(nan_value=None, device=args.device))
    return SimpleNamespace(
        args=args,
        custom_metrics={'train': metrics},
        is_world_process_zero=lambda: True,
        _tr_loss=torch.tensor(0.),
        _globalstep_last_logged=7,
        _total_loss_scalar=0.)


def test_logs_continue(tmp_path):
    """Sums, means and counts; the mean over the later steps does not contain the loss of the earlier ones."""
    before = trainer(tmp_path)
    before._tr_loss += 0.1
    before._globalstep_last_logged = 4
    metrics = before.custom_metrics['train']
    metrics['loss_token'].update(torch.tensor([0.1, 0.2, 0.7]))
    metrics['skipped_steps'] = SumMetric(torch.device('cpu'))
    metrics['skipped_steps'].update(3)
    StepGuard.of(before).num_skipped = 5
    SkippedRows.of(before).skips.counts.update(['mask-count', 'mask-count', 'image'])
    progress = json.dumps([resume._log_progress(before)])
    (tmp_path / resume.PROGRESS).write_text(progress)

    after = trainer(tmp_path)
    after.args.resume_from_checkpoint = str(tmp_path)
    resume.restore_logs(after)
    assert json.dumps([resume._log_progress(after)]) == progress
    assert after._total_loss_scalar == -before._tr_loss
    assert after.custom_metrics['train']['loss_token'].compute() == metrics['loss_token'].compute()
    assert after.custom_metrics['train']['skipped_steps'].compute() == {'value': 3}
    # The sums of another number of ranks are not restored.
    other = trainer(tmp_path, world_size=2)
    other.args.resume_from_checkpoint = str(tmp_path)
    resume.restore_logs(other)
    assert other._tr_loss == 0 and other._globalstep_last_logged == 7


def test_a_change_of_the_order_of_rows_is_logged(tmp_path, caplog):
    """The number of workers decides the order of a stream of packs only; a checkpoint may lack args.json."""
    arguments = {'global_world_size': 2, 'seed': 2, 'dataloader_num_workers': 2, 'dataset': []}
    packed_stream = {'streaming': True, 'packing': True}
    for before, now, expected in (
        (arguments, arguments, None),
        (arguments, {
            **arguments, 'seed': 4
        }, None),
        (arguments, {
            **arguments, 'global_world_size': 4
        }, 'others not (global_world_size was 2 and is 4)'),
        (arguments, {
            **arguments, 'dataloader_num_workers': 3
        }, None),
        ({
            **arguments,
            **packed_stream
        }, {
            **arguments,
            **packed_stream
        }, None),
        ({
            **arguments,
            **packed_stream
        }, {
            **arguments,
            **packed_stream, 'dataloader_num_workers': 3
        }, 'others not (dataloader_num_workers was 2 and is 3)'),
        (None, arguments, None),
        (None, {
            **arguments,
            **packed_stream
        }, 'old/checkpoint-4 has no args.json'),
    ):
        for folder, content in (('old/checkpoint-4', before), ('new', now)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / 'args.json').unlink(missing_ok=True)
            if content is not None:
                (tmp_path / folder / 'args.json').write_text(json.dumps(content))
        run = trainer(tmp_path / 'new')
        run.args.resume_from_checkpoint = str(tmp_path / 'old' / 'checkpoint-4')
        caplog.clear()
        resume.check_resume(run)
        assert len(caplog.records) == (expected is not None), (before, now)
        assert expected is None or expected in caplog.text, (before, now)


def test_ranks_that_see_different_files(tmp_path, monkeypatch):

    def all_gather_object(paths, path, group=None):
        paths[:] = [path, '/node/checkpoint-8']

    monkeypatch.setattr(torch.distributed, 'all_gather_object', all_gather_object)
    run = trainer(tmp_path, world_size=2)
    run.args.resume_from_checkpoint = '/node/checkpoint-4'
    with pytest.raises(
            CheckpointError, match=r'\(rank 0: /node/checkpoint-4, rank 1: /node/checkpoint-8\). Start again'):
        resume.check_resume(run)


def test_a_complete_checkpoint_is_kept_until_the_new_one_is(tmp_path, monkeypatch):
    """--save_strategy epoch saves the last step twice; the first checkpoint is kept while the second is written."""
    folder = tmp_path / 'checkpoint-4'
    folder.mkdir()
    (folder / 'model.safetensors').write_bytes(b'first')
    seal(str(folder))
    arguments = {'should_save': True, 'save_only_model': False, 'save_total_limit': 1}
    run = trainer(tmp_path, **arguments)
    run.state = SimpleNamespace(global_step=4, best_model_checkpoint=None)
    run.accelerator = SimpleNamespace(wait_for_everyone=lambda: None)
    waiting = tmp_path / f'{REPLACED}checkpoint-4'
    for dies in (True, True, False):
        try:
            with resume.saving(run):
                assert select_checkpoint(str(tmp_path)).path == str(waiting) and find_defect(str(folder))
                (folder / 'model.safetensors').write_bytes(b'second')
                if dies:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert select_checkpoint(str(tmp_path)).path == str(waiting)
    assert not waiting.exists() and select_checkpoint(str(tmp_path)) == SelectedCheckpoint(str(folder))
    assert (folder / 'model.safetensors').read_bytes() == b'second'
