"""Runs `swift sft` and `swift infer` in processes that have ms-swift imported already.

A start of `swift` takes 15 to 30 seconds, nearly all of it imports. Here they are paid once: a server process imports
everything, and each run, one process a rank, is forked from it.
"""
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from . import child

# Imported before the fork, because they are slow to import.
_PRELOAD = ('torch', 'transformers', 'swift.pipelines.train.sft', 'swift.pipelines.infer.infer',
            'swift_citrusv.plugin.register', 'swift_citrusv.encoding.template', 'swift_citrusv.plugin.loader',
            'swift_citrusv.model.build', 'swift_citrusv.inference.generation', 'swift_citrusv.training.loss_plugin',
            'swift_citrusv.training.optimizer', 'swift_citrusv.training.callbacks',
            'swift_citrusv.training.jsonl_dataset', 'swift_citrusv.training.packed_dataset', 'qwen_vl_utils',
            'datasets.packaged_modules.generator.generator', 'swift_citrusv.tryout.child')
# No model hub is contacted. One thread a process: OpenMP threads spin while they wait, which is slow on busy cores.
_ENVIRONMENT = {
    'HF_HUB_OFFLINE': '1',
    'TRANSFORMERS_OFFLINE': '1',
    'OMP_NUM_THREADS': '1',
    'PYTHONUNBUFFERED': '1',
    'TOKENIZERS_PARALLELISM': 'false',
}
_LOG_LINES = 30
# Seconds that a process has to end by itself.
_PATIENCE = 3.


class RunError(ValueError):
    """A run failed; the message has the end of its log."""


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


class SwiftProcesses:
    """Starts runs; a context manager that ends what still runs.

    Args:
        variables: Further environment variables of all runs.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = {**_ENVIRONMENT, **(variables or {})}
        self._context: Any = multiprocessing.get_context('forkserver')
        self._alive: list[Any] = []

    def __enter__(self) -> 'SwiftProcesses':
        from multiprocessing.forkserver import ensure_running
        self._context.set_forkserver_preload(list(_PRELOAD))
        # The server, and so all runs, keep the environment of its start.
        before = dict(os.environ)
        os.environ.update(self._variables)
        try:
            # Its imports go on while this process goes on.
            ensure_running()
        finally:
            for name in self._variables:
                if name in before:
                    os.environ[name] = before[name]
                else:
                    del os.environ[name]
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def swift(self,
              command: str,
              arguments: Sequence[str],
              log: Path,
              num_ranks: int = 1,
              watch: Callable[[], None] | None = None) -> float:
        """Runs `swift COMMAND` to its end.

        Args:
            command: 'sft' or 'infer'.
            arguments: As on the command line.
            log: The file of its output; further ranks write `NAME.rankN.log` beside it.
            num_ranks: Number of processes; the arguments need `--ddp_backend gloo` if there are several.
            watch: Called a few times a second while it runs.

        Returns:
            The seconds that it took.

        Raises:
            RunError: It failed.
        """
        port = _free_port()
        calls = []
        for rank in range(num_ranks):
            ranks = {}
            if num_ranks > 1:
                ranks = {
                    'RANK': str(rank),
                    'LOCAL_RANK': str(rank),
                    'WORLD_SIZE': str(num_ranks),
                    'LOCAL_WORLD_SIZE': str(num_ranks),
                    'MASTER_ADDR': '127.0.0.1',
                    'MASTER_PORT': str(port)
                }
            path = log if rank == 0 else log.with_suffix(f'.rank{rank}{log.suffix}')
            path.unlink(missing_ok=True)
            calls.append((child.run_swift, (command, list(arguments), self._variables | ranks, str(path))))
        return self._run(f'swift {command}', calls, log, watch)

    def build(self, output: Path, corpus: list[str], log: Path, max_pixels: int | None = None) -> float:
        """Builds a tiny random model; see `child.run_build`.

        Raises:
            RunError: It failed.
        """
        log.unlink(missing_ok=True)
        call = (child.run_build, (str(output), corpus, max_pixels, self._variables, str(log)))
        return self._run('the build of the tiny model', [call], log, None)

    def _run(self, name: str, calls: Sequence[tuple[Callable, tuple]], log: Path,
             watch: Callable[[], None] | None) -> float:
        start = time.monotonic()
        self._alive = [self._context.Process(target=function, args=arguments) for function, arguments in calls]
        try:
            for process in self._alive:
                process.start()
            failed = None
            waiting = list(self._alive)
            while waiting and failed is None:
                wait([process.sentinel for process in waiting], timeout=0.3)
                if watch is not None:
                    watch()
                failed = next((process.exitcode for process in waiting if process.exitcode), None)
                waiting = [process for process in waiting if process.exitcode is None]
            if failed is not None:
                raise RunError(f'{name} failed with exit code {failed}. The end of {log}:\n{_tail(log)}')
        finally:
            self._end()
        return time.monotonic() - start

    def _end(self) -> None:
        """Ends the processes that are still alive, and their data workers."""
        deadline = time.monotonic() + _PATIENCE
        for number in (signal.SIGTERM, signal.SIGKILL):
            alive = [process for process in self._alive if process.pid and process.exitcode is None]
            for process in alive:
                _kill(process.pid, number)
            for process in alive:
                process.join(max(0., deadline - time.monotonic()) if number == signal.SIGTERM else None)
        self._alive = []


def _kill(pid: int, number: int) -> None:
    try:
        # Each process leads a group of its own, once it has started.
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        pass


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


def _tail(log: Path) -> str:
    if not log.exists():
        return '(it wrote nothing)'
    lines = [line for line in log.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
    return '\n'.join(lines[-_LOG_LINES:])
