"""Runs of stock `swift sft` on several ranks, on CPUs (gloo), and a server of `swift deploy`."""
import json
import pytest
import torch
from collections.abc import Callable, Iterator
from support.chat_requests import pipeline_answer
from support.distributed.launcher import Ended, Launcher
from support.distributed.mixtures import MAX_LENGTH
from support.requests_with_images import mixed_requests
from support.rows import write_jsonl
from support.serving import Server, build_adapter, deployed
from typing import Any

from swift_citrusv import CitrusVPipeline


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


@pytest.fixture(scope='module')
def server(talkative_checkpoint, tmp_path_factory) -> Iterator[Server]:
    """`swift deploy` of the model as `citrusv`, with two adapters, `a` and `b`."""
    folder = tmp_path_factory.mktemp('adapters')
    adapters = [f'{name}={build_adapter(talkative_checkpoint, str(folder / name), seed)}'
                for seed, name in enumerate('ab')]  # yapf: disable
    with deployed(talkative_checkpoint, '--served_model_name', 'citrusv', '--max_batch_size', '8', '--adapters',
                  *adapters) as running:
        yield running


@pytest.fixture(scope='module')
def pipe(talkative_checkpoint) -> CitrusVPipeline:
    """Answers one request at a time, without the server."""
    return CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32)


@pytest.fixture(scope='module')
def single(pipe) -> list[dict[str, Any]]:
    return [pipeline_answer(pipe, request) for request in mixed_requests()]
