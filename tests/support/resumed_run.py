"""Runs that are killed and resumed."""
import pytest
import random
from pathlib import Path
from support.distributed.kills import MOMENTS
from support.distributed.launcher import Ended, Launcher, RankError
from support.distributed.mixtures import make_row
from support.rows import Maker, write_jsonl

NUM_STEPS, SAVE_STEPS = 9, 3
COMMON = (f'--max_steps {NUM_STEPS} --save_strategy steps --save_steps {SAVE_STEPS} --learning_rate 1e-3 '
          '--lr_scheduler_type cosine --train_dataloader_shuffle true --gradient_accumulation_steps 1 '
          '--gradient_checkpointing false --freeze_vit false --freeze_aligner false').split()
PACKED = '--packing true --packing_length 128'
STREAM = '--streaming true --dataset_shuffle true --shuffle_buffer_size 5'
EXACT = ('step', 'loss', 'loss_token', 'loss_dice', 'loss_bce', 'num_masks', 'grad_norm', 'learning_rate', 'token_acc')


@pytest.fixture(scope='module')
def start(tiny_checkpoint, tmp_path_factory):
    """Starts runs: number of ranks, arguments, options of `Launcher.run`."""
    folder = tmp_path_factory.mktemp('resume')
    maker = Maker(folder / 'images')
    dataset = write_jsonl(folder / 'train.jsonl', [make_row(maker, kind) for kind in ('text', 'image', 'masks') * 4])
    launcher = Launcher(folder / 'runs')

    def start(num_ranks: int, arguments: str, **kwargs) -> Ended:
        given = ['--model', tiny_checkpoint, '--dataset', dataset, '--tuner_type', 'full', *COMMON, *arguments.split()]
        return launcher.run(num_ranks, given, **kwargs)

    return start


def assert_resumed(resumed: Ended, whole: Ended, step: int) -> None:
    """`resumed` equals `whole` after `step`, on every rank, bit for bit."""
    for rank, rows in enumerate(whole.rows):
        per_step = len(rows) // NUM_STEPS
        assert len(rows) == per_step * NUM_STEPS and resumed.rows[rank] == rows[per_step
                                                                                * step:], f'rows of rank {rank}'
    assert len({str(rows) for rows in whole.rows[0]}) > 2
    assert len({log['loss'] for log in whole.steps}) == len(whole.steps)
    logs = [[{
        key: log.get(key)
        for key in EXACT
    } for log in run.steps if log['step'] > step] for run in (resumed, whole)]
    assert logs[0] == logs[1] and logs[0]
    assert resumed.digests == whole.digests


def kill_in_step(start, num_ranks: int, arguments: str, output: Path, rng: random.Random) -> int:
    """Kills a run at a random step after its first checkpoint; returns the step of its last checkpoint."""
    step = rng.randint(SAVE_STEPS + 1, NUM_STEPS)
    moment, rank = rng.choice(MOMENTS), rng.randrange(num_ranks)
    print(f'killed in step {step}, {moment}, rank {rank}')
    with pytest.raises(RankError, match=f'rank {rank} ended with exit code -9'):
        start(num_ranks, arguments, output=output, sabotage=f'kills.die_at {step} {moment} {rank}')
    return (step - 1) // SAVE_STEPS * SAVE_STEPS
