"""`swift sft --streaming true`: the same gradient as without a stream, an exact resume, and two ranks with workers."""
import pytest
from collections import Counter
from pathlib import Path
from support.closeness import assert_same_update
from support.distributed.launcher import Ended, Launcher
from support.distributed.stream_passes import read_passes
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft

# name -> arguments; all of them make one optimizer step of the same twelve rows
LAYOUTS = {
    'four packs':
    '--packing true --packing_length 360 --gradient_accumulation_steps 4',
    'four packs and two without targets':
    '--packing true --packing_length 360 --gradient_accumulation_steps 6',
    'two packs in a batch, two workers':
    '--packing true --packing_length 360 --gradient_accumulation_steps 3 --per_device_train_batch_size 2 '
    '--dataloader_num_workers 2',
    'not packed':
    '--per_device_train_batch_size 4 --gradient_accumulation_steps 3',
}


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('every_kind')
    return write_jsonl(folder / 'train.jsonl', Maker(folder / 'images').every_kind())


def _arguments(dataset: str, checkpoint: str, output: Path) -> list[str]:
    return [
        '--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
        str(output), '--tuner_type', 'full', '--freeze_vit', 'false', '--freeze_aligner', 'false'
    ]


def _one_step(layout: str, dataset: str, checkpoint: str, output: Path):
    return run_sft(*_arguments(dataset, checkpoint, output), '--learning_rate', '1e-4', '--max_steps', '1',
                   '--model_kwargs', '{"pack_images": 16}', *layout.split())


@pytest.fixture(scope='module')
def reference(dataset, tiny_checkpoint, tmp_path_factory):
    layout = '--per_device_train_batch_size 1 --gradient_accumulation_steps 12'
    return _one_step(layout, dataset, tiny_checkpoint, tmp_path_factory.mktemp('out'))


def _check_same_step(watch, reference) -> None:
    assert watch.logs[0]['num_masks'] == reference.logs[0]['num_masks'] == 11 and watch.num_steps == 1
    for key in ('loss', 'loss_token', 'loss_dice', 'loss_bce'):
        assert watch.logs[0][key] == pytest.approx(reference.logs[0][key], rel=1e-5)
    assert_same_update(watch.gradients, reference.gradients)


@pytest.mark.parametrize('name', LAYOUTS)
def test_same_gradient(name, dataset, tiny_checkpoint, reference, tmp_path):
    _check_same_step(
        _one_step(f'--streaming true {LAYOUTS[name]}', dataset, tiny_checkpoint, tmp_path / 'out'), reference)


def test_same_gradient_of_chunks(tiny_checkpoint, tmp_path):
    """Rows that are cut into chunks: from a stream, and from a dataset in memory, in other packs."""
    maker = Maker(tmp_path / 'images')
    long = maker.row('Tell me all.', ' '.join(f'The cell {i} has a nucleus.' for i in range(60)))
    dataset = write_jsonl(tmp_path / 'train.jsonl', [*maker.every_kind(), long])
    streamed, whole = (
        _one_step(f'--packing true --truncation_strategy split --max_length 300 {layout}', dataset, tiny_checkpoint,
                  tmp_path / 'out')
        for layout in ('--streaming true --packing_length 320 --gradient_accumulation_steps '
                       '16', '--packing_length 700 --gradient_accumulation_steps 6'))
    _check_same_step(streamed, whole)


def test_resumed_in_a_later_pass(dataset, tiny_checkpoint, tmp_path):
    """Shuffled, with two workers: losses, learning rates and weights are those of the uninterrupted run."""
    arguments = [
        *_arguments(dataset, tiny_checkpoint, tmp_path / 'whole'),
        *'--streaming true --packing true '
        '--packing_length 360 --max_steps 7 --learning_rate 1e-3 --lr_scheduler_type cosine --dataset_shuffle true '
        '--gradient_accumulation_steps 2 --dataloader_num_workers 2 --save_strategy steps --save_steps 5 '
        # Adam divides by the size of the gradient, which would amplify the rounding error of a zero gradient.
        '--adam_epsilon 1e-4'.split()
    ]
    whole = run_sft(*arguments)
    assert whole.num_steps == 7
    resumed = run_sft(*arguments, '--output_dir', str(tmp_path / 'resumed'), '--resume_from_checkpoint',
                      str(tmp_path / 'whole' / 'checkpoint-5'))
    losses = [[log['loss'] for log in watch.logs if 'loss' in log] for watch in (whole, resumed)]
    assert len({round(loss, 6) for loss in losses[0]}) == 7 and losses[1] == pytest.approx(losses[0][5:], rel=1e-6)
    rates = [[log['learning_rate'] for log in watch.logs if 'learning_rate' in log] for watch in (whole, resumed)]
    assert rates[1] == rates[0][5:]
    assert_same_update(resumed.after, whole.after, whole.before)


def test_evaluation_on_a_stream(dataset, tiny_checkpoint, tmp_path):
    """The same figures as from a dataset in memory."""
    arguments = [
        *_arguments(dataset, tiny_checkpoint, tmp_path), '--val_dataset', dataset, *'--packing true --packing_length '
        '360 --max_steps 1 --learning_rate 0 --eval_strategy steps --eval_steps 1'.split()
    ]
    logs = []
    for streaming in ('true', 'false'):
        watch = run_sft(*arguments, '--streaming', streaming)
        logs.append(next(log for log in watch.logs if 'eval_loss' in log))
    assert logs[0]['eval_num_masks'] == 11
    for key in ('eval_loss', 'eval_loss_token', 'eval_loss_dice', 'eval_dice', 'eval_num_masks', 'eval_token_acc'):
        assert logs[0][key] == pytest.approx(logs[1][key], rel=1e-5), key


# ---- two ranks


def _two_ranks(launcher: Launcher, arguments: list[str], folder: Path) -> tuple[Ended, list[list[list[list[str]]]]]:
    """A run, and for each rank the passes, each with its batches of rows."""
    folder.mkdir()
    ended = launcher.run(2, arguments, sabotage=f'stream_passes.record {folder}', output=folder / 'output')
    return ended, [read_passes(folder, rank) for rank in range(2)]


def test_two_ranks(launcher, tiny_checkpoint, tmp_path):
    """Two workers each, shares of unlike size: each row once a pass, both end together, and resumed exactly."""
    maker = Maker(tmp_path / 'images')
    rows = [maker.row(f'Row {i}?', 'Yes.' + (i > 12) * 9 * ' And more of the same.') for i in range(24)]
    rows[3] = maker.row('<image>Row 3?', 'The cell: [SEG].', images=[maker.image()], masks=[maker.mask()])
    arguments = [
        '--model', tiny_checkpoint, '--dataset',
        write_jsonl(tmp_path / 'train.jsonl',
                    rows), '--tuner_type', 'full', '--freeze_vit', 'false', '--freeze_aligner', 'false',
        *'--gradient_checkpointing false --max_grad_norm 0 --streaming true --packing true '
        '--packing_length 200 --max_steps 16 --learning_rate 1e-3 --save_strategy '
        'steps --gradient_accumulation_steps 2 --dataloader_num_workers 2 --dataset_shuffle true --save_steps 9 '
        '--shuffle_buffer_size 10 --eval_strategy steps --eval_steps 16'.split()
    ]
    # Seven packs for four readers, each with as many targets as any other.
    answers = [maker.row(f'Row {10 + i}?', 'Yes.' + 9 * ' And more of the same.') for i in range(7)]
    arguments += ['--val_dataset', write_jsonl(tmp_path / 'val.jsonl', answers)]
    whole_run, whole = _two_ranks(launcher, arguments, tmp_path / 'whole')
    passes = list(zip(*whole))
    assert len(passes) >= 3
    for index, pair in enumerate(passes):
        assert len(pair[0]) == len(pair[1]) and len(pair[0]) % 2 == 0
        count = Counter(row for rank in pair for batch in rank for row in batch)
        # The last pass may be cut short by --max_steps.
        assert max(count.values()) == 1 and (index == len(passes) - 1 or len(count) == 24)
    assert any(batch == [] for pair in passes for rank in pair for batch in rank)

    checkpoint = tmp_path / 'whole' / 'output' / 'checkpoint-9'
    resumed_run, resumed = _two_ranks(
        launcher, [*arguments, '--resume_from_checkpoint', str(checkpoint)], tmp_path / 'resumed')
    for rank in range(2):
        assert sum(resumed[rank], []) == sum(whole[rank], [])[2 * 9:]
    losses = [[log['loss'] for log in run.steps] for run in (whole_run, resumed_run)]
    assert losses[1] == pytest.approx(losses[0][9:], rel=1e-5) and len(losses[1]) == 7
    for run in (whole_run, resumed_run):
        evaluated = next(log for log in run.logs[0] if 'eval_loss' in log)
        # Here the mean over packs is the mean over tokens, though a rank has no pack left for the last of them.
        assert evaluated['eval_loss'] == pytest.approx(evaluated['eval_loss_token'], rel=1e-3)
