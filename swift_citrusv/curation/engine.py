"""Runs the stages of a step with datatrove: on this machine, on Ray, or on Slurm."""
import gc
import multiprocess
import os
import shutil
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from loguru import logger
from tqdm import tqdm
from typing import Any

from ..settings import SettingError
from .progress import counted
from .step import Stage

# datatrove's tracebacks show the values of variables, which may be a patient's.
logger.disable('datatrove')
_VARIABLES = 'DATATROVE_'


class StageError(RuntimeError):
    """A task of a stage has failed."""


@dataclass(frozen=True)
class Engine:
    """Where tasks run.

    Attributes:
        executor: 'local', 'slurm' or 'ray'.
        workers: Tasks at a time.
        options: Arguments of datatrove's executor, e.g. `time` and `partition` of Slurm.
    """
    executor: str = 'local'
    workers: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, stages: Sequence[Stage], quiet: bool = False) -> bool:
        """Runs stages one after another; tasks that are complete are skipped.

        Args:
            stages: The stages.
            quiet: Whether to show no progress bar.

        Returns:
            Whether they are complete. Slurm's jobs run later.

        Raises:
            StageError: A task has failed.
        """
        with self._cluster():
            return self._run(stages, quiet)

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Ray's cluster: the one of RAY_ADDRESS, or else one on this machine for the time of the run."""
        if self.executor != 'ray':
            yield
            return
        try:
            import ray
        except ImportError as error:
            raise SettingError('--executor ray needs Ray: pip install ray.') from error
        is_own = not ray.is_initialized()
        if is_own:
            ray.init(include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            if is_own:
                ray.shutdown()

    def _run(self, stages: Sequence[Stage], quiet: bool) -> bool:
        previous = None
        for stage in stages:
            call = _Call(stage.task, stage.name, stage.folder, os.getcwd())
            executor = self._executor(stage, call, os.path.join(stage.folder, 'logs', stage.name), previous)
            if self.executor == 'slurm':
                previous = executor
                continue
            shutil.rmtree(os.path.join(stage.folder, 'errors'), ignore_errors=True)
            with _unchanged(), _progress_bar(stage, quiet):
                try:
                    executor.run()
                except Exception as error:
                    raise _failure(stage) or error from error
            left = executor.get_incomplete_ranks()
            if left:
                raise _failure(stage) or StageError(f'{stage.name}: the tasks {left[:10]} have not ended.')
        if previous is not None:
            previous.run()
            return False
        return True

    def _executor(self, stage: Stage, call: '_Call', logs: str, previous: Any) -> Any:
        # fsspec remembers relative names beyond a change of the folder.
        logs = os.path.abspath(logs)
        common = {'pipeline': [call], 'tasks': stage.num_tasks, 'logging_dir': logs}
        if self.executor == 'local':
            from datatrove.executor.local import LocalPipelineExecutor
            return LocalPipelineExecutor(workers=min(self.workers, stage.num_tasks), **common, **self.options)
        if self.executor == 'ray':
            from datatrove.executor.ray import RayPipelineExecutor
            return RayPipelineExecutor(workers=self.workers, **common, **{'mem_per_cpu_gb': 1, **self.options})
        from datatrove.executor.slurm import SlurmPipelineExecutor
        missing = {'time', 'partition'} - self.options.keys()
        if missing:
            raise SettingError(
                f'--executor slurm needs --executor-options {" ".join(f"{name}=..." for name in missing)}.')
        name = f'citrusv-{stage.name}'
        return SlurmPipelineExecutor(workers=self.workers, job_name=name, depends=previous, **common,
                                     **{'qos': None, **self.options})  # yapf: disable


@contextmanager
def _unchanged() -> Iterator[None]:
    """Lets datatrove start processes without a fork, and leaves this one as it was.

    A fork of a process that has threads, as the progress bar and DuckDB have, may never answer: a lock that a thread
    held stays locked in the copy. Afterwards `multiprocess` forks as before: `datasets` counts on that, and a process
    that it starts otherwise would lack the plugin's patches. The variables that datatrove sets for a task that it runs
    in this process go, too.
    """
    environ = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    before = multiprocess.get_start_method(allow_none=True)
    multiprocess.set_start_method('forkserver', force=True)
    try:
        yield
    finally:
        multiprocess.set_start_method(before, force=True)
        for name in [name for name in os.environ if name.startswith(_VARIABLES)]:
            del os.environ[name]
        os.environ.update(environ)


@dataclass
class _Call:
    """A task as datatrove calls it."""
    task: Any
    stage: str
    folder: str
    current: str

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        try:
            # Rows name their images from there.
            os.chdir(self.current)
            # Tasks make many small objects and no circles of them.
            gc.disable()
            self.task(rank)
        except Exception as error:
            os.makedirs(os.path.join(self.folder, 'errors'), exist_ok=True)
            with open(os.path.join(self.folder, 'errors', f'{self.stage}-{rank:05d}'), 'w', encoding='utf-8') as file:
                file.write(f'{error or type(error).__name__}\n\n{traceback.format_exc()}')
            raise
        finally:
            gc.enable()

    def __repr__(self) -> str:
        return f'{self.stage}'


def _failure(stage: Stage) -> StageError | None:
    """The error that the first failed task has left; None without one."""
    top = os.path.join(stage.folder, 'errors')
    for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
        with open(os.path.join(top, name), encoding='utf-8') as file:
            message = file.read().partition('\n\n')[0]
        return StageError(f'{stage.name}, part {int(name[-5:])}: {message} (All of it: {os.path.join(top, name)}. '
                          'Repeat the command to go on.)')
    return None


@contextmanager
def _progress_bar(stage: Stage, quiet: bool) -> Iterator[None]:
    """Shows what the tasks count, else tasks."""
    stop = threading.Event()

    def watch(bar: Any) -> None:
        while not stop.wait(.5):
            _show(bar, stage)

    with tqdm(total=stage.total if stage.unit else stage.num_tasks, desc=stage.name, unit=f' {stage.unit or "parts"}',
              disable=quiet) as bar:  # yapf: disable
        thread = threading.Thread(target=watch, args=(bar, ), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            _show(bar, stage)
            # Blank lines are no rows.
            bar.total = bar.n
            bar.refresh()


def _show(bar: Any, stage: Stage) -> None:
    completed = os.path.join(stage.folder, 'logs', stage.name, 'completions')
    bar.n = counted(stage.folder, stage.unit) if stage.unit else len(_listed(completed))
    bar.refresh()


def _listed(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []
