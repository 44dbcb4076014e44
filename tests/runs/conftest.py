"""Runs of stock `swift sft` on several ranks, on CPUs (gloo)."""
import json
import pytest
from collections.abc import Callable
from support.distributed.launcher import Ended, Launcher
from support.distributed.mixtures import MAX_LENGTH
from support.rows import write_jsonl


@pytest.fixture(scope='session')
def launcher(tmp_path_factory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp('ranks'))


@pytest.fixture(scope='session')
def run_rows(launcher, tiny_checkpoint, tmp_path_factory) -> Callable[..., Ended]:
    """Trains on rows: `run_rows(rows, num_ranks, *arguments, step=2, **options of Launcher.run)`.

    A step takes `step` rows, one a rank at a time; so a run of one rank takes the same rows by accumulation. SAM2 sees
    one image at a time.
    """
    files: dict[str, str] = {}

    def run(rows, num_ranks: int, *arguments: str, step: int = 2, **options) -> Ended:
        key = json.dumps(rows)
        if key not in files:
            files[key] = write_jsonl(tmp_path_factory.mktemp('rows') / 'train.jsonl', rows)
        return launcher.run(num_ranks, [
            '--model', tiny_checkpoint, '--dataset', files[key], '--tuner_type', 'full',
            '--gradient_accumulation_steps',
            str(step // num_ranks), '--model_kwargs', '{"seg_chunk": 1}', '--max_length',
            str(MAX_LENGTH), '--truncation_strategy', 'right', '--optim', 'sgd', '--learning_rate', '0.1', *arguments
        ], **options)

    return run
