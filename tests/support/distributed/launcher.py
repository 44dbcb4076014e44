"""Starts the ranks of a distributed run on this machine, and turns a hang into a failure that shows every rank's stack.

The ranks are forked from one process that has imported ms-swift already, which takes 15 s: a run of two or four ranks
then starts in a second. Each is what `torchrun` would have started: the same environment variables and rendezvous.
"""
import datetime
import json
import multiprocessing
import os
import signal
import time
import torch
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from support.distributed.ranks import run_rank
from torch.distributed import TCPStore
from typing import Any

# Imported before the fork, because they are slow to import.
PRELOAD = (
    'torch',
    'transformers',
    'deepspeed',
    'swift.pipelines.train.sft',
    'swift_citrusv.plugin.register',
    'swift_citrusv.encoding.template',
    'swift_citrusv.plugin.loader',
    'swift_citrusv.training.loss_plugin',
    'swift_citrusv.training.optimizer',
    'swift_citrusv.training.callbacks',
    'swift_citrusv.training.eval_metrics',
    'swift_citrusv.training.jsonl_dataset',
    # What a run imports only when it trains. The last of them has `torch.compile` import torch's compiler.
    'qwen_vl_utils',
    'scipy.io',
    'multiprocess.managers',
    'datasets.packaged_modules.generator.generator',
    'deepspeed.runtime.zero.muon.muon_optimizer')
# Seconds that the first run waits for these imports.
START_SECONDS = 90.
# Seconds without output from any rank after which the run counts as hanging; normal pauses are up to about 3 s.
SILENCE_SECONDS = 60.
# Seconds that a rank has to write its stack.
STACK_SECONDS = 1.
LOG_CHARACTERS = 6000


class RankError(AssertionError):
    """A failed run: a rank failed, or all ranks hung. Contains the log and the stack of every rank."""


@dataclass
class Ended:
    """The results of a run.

    start: The trained parameters before the first step, by name; of a run of one rank, else empty.
    weights: The trained parameters after the last step, whole ones, by name; of rank 0.
    digests: For each rank a text that is the same where all of them are, bit by bit.
    logs: For each rank what it logged.
    rows: For each rank the rows of each batch that it trained on, as "file.jsonl:line".
    text: What rank 0 wrote to the console.
    """
    start: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    digests: list[str]
    logs: list[list[dict[str, float]]]
    rows: list[list[list[str]]]
    text: str

    @property
    def steps(self) -> list[dict[str, float]]:
        """What rank 0 logged of each optimizer step."""
        return [log for log in self.logs[0] if 'loss' in log]


class Launcher:
    """Runs `swift sft` on several ranks.

    Args:
        folder: Where logs and results go.
        start_method: How ranks start; 'spawn' on CUDA, which does not survive a fork.
    """

    def __init__(self, folder: Path, start_method: str = 'forkserver') -> None:
        self.folder = folder
        self.num_runs = 0
        self._context: Any = multiprocessing.get_context(start_method)
        self._context.set_forkserver_preload(list(PRELOAD))
        self._start_seconds = START_SECONDS

    def run(self,
            world_size: int,
            arguments: Sequence[str],
            *,
            silence: float = SILENCE_SECONDS,
            sabotage: str | None = None,
            output: Path | None = None) -> Ended:
        """Runs `swift sft` with `arguments` on `world_size` ranks.

        Args:
            world_size: Number of ranks; 1 is a run that is not distributed.
            arguments: As on the command line, without `--output_dir`. They win over `ranks.COMMON`.
            silence: Seconds without output from any rank after which the run counts as hanging.
            sabotage: The name of a function of `sabotages`, or `module.function` of this package, which breaks
                something in every rank; its arguments, strings, stand behind it. (The environment variable
                `CITRUSV_TEST_SABOTAGE` names one for all runs, to see a whole test session fail.)
            output: The folder of the run; a new one where None.

        Raises:
            RankError: A rank failed, or the run hung.
        """
        sabotage = sabotage or os.environ.get('CITRUSV_TEST_SABOTAGE')
        folder = self.folder / f'run_{self.num_runs}'
        self.num_runs += 1
        folder.mkdir(parents=True)
        # This process holds the port; the ranks are clients, as they are under torchrun.
        store = TCPStore(
            '127.0.0.1', 0, world_size, True, timeout=datetime.timedelta(minutes=5), wait_for_workers=False)
        arguments = [*arguments, '--output_dir', str(output or folder / 'output')]
        processes = [
            self._context.Process(
                target=run_rank, args=(rank, world_size, store.port, str(folder), arguments, sabotage))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        started = time.monotonic()
        fault = _watch(processes, folder, silence, self._start_seconds)
        self._start_seconds = 0.
        if fault is not None:
            raise RankError(_report(fault, folder, world_size, time.monotonic() - started))
        results = [json.loads((folder / f'rank_{rank}.json').read_text()) for rank in range(world_size)]
        weights = torch.load(folder / 'weights.pt')
        return Ended(
            start=weights['start'],
            weights=weights['end'],
            digests=[result['digest'] for result in results],
            logs=[result['logs'] for result in results],
            rows=[result['rows'] for result in results],
            text=(folder / 'rank_0.log').read_text(encoding='utf-8', errors='replace'))


def _watch(processes: list[Any], folder: Path, silence: float, start: float) -> str | None:
    """Waits until all have finished. At the first failure the others write their stacks and are killed."""
    fault = None
    num_bytes, heard = 0, time.monotonic() + start
    alive = list(processes)
    while alive and fault is None:
        wait([process.sentinel for process in alive], timeout=0.2)
        written = sum(path.stat().st_size for path in folder.glob('rank_*.log'))
        if written > num_bytes:
            num_bytes, heard = written, time.monotonic()
        failed = [(rank, process.exitcode) for rank, process in enumerate(processes) if process.exitcode]
        alive = [process for process in alive if process.exitcode is None]
        if failed:
            fault = ', '.join(f'rank {rank} ended with exit code {code}' for rank, code in failed)
        elif alive and time.monotonic() > heard + silence:
            fault = f'no output from any rank for {silence:.0f} s, and {len(alive)} of {len(processes)} hang'
    for process in alive:
        os.kill(process.pid, signal.SIGUSR1)
    if alive:
        time.sleep(STACK_SECONDS)
    for process in alive:
        process.kill()
    for process in processes:
        process.join()
    return fault


def _report(fault: str, folder: Path, world_size: int, seconds: float) -> str:
    parts = [f'After {seconds:.0f} s: {fault}.']
    for rank in range(world_size):
        path = folder / f'rank_{rank}.log'
        log = path.read_text(encoding='utf-8', errors='replace') if path.exists() else '(nothing)'
        parts.append(f'---- rank {rank} ----\n{log[-LOG_CHARACTERS:]}')
    return '\n'.join(parts)
