"""Kills a rank with SIGKILL, as the out-of-memory killer does, at any moment of a step or of a save."""
import functools
import importlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import torch
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from support.distributed.ranks import Report
from swift.trainers.mixin import SwiftMixin
from typing import Any

from swift_citrusv.training import resume
from swift_citrusv.training.nonfinite import StepGuard

# The moments of a step; 'watch' lies between a batch's forward and its backward pass.
MOMENTS = ('on_step_begin', 'watch', 'on_pre_optimizer_step', 'on_optimizer_step', 'on_step_end')
# Python's audit events that change a folder -> the position of the path among their arguments.
_AUDITED = {'os.mkdir': 0, 'os.rename': 1, 'os.remove': 0, 'os.rmdir': 0, 'os.symlink': 1}
# Assumed bytes of a file that no earlier checkpoint has.
_UNKNOWN_SIZE = 1000


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(step: str, moment: str, rank: str = '0') -> None:
    """Kills one rank in an optimizer step (from 1), at one of the `MOMENTS`."""
    if os.environ.get('RANK', '0') != rank:
        return
    owner = StepGuard if moment == 'watch' else Report
    original = getattr(owner, moment)

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if Report.last.step == int(step):
            _die()
        return result

    setattr(owner, moment, dying)


class Saving:
    """Counts what happens to the checkpoints of a run, and dies at one of these events.

    Events are folders made, links made, files renamed or deleted, and the start of writing a file.

    Args:
        run: The folder of the run.
        number: The event at which to die, from 0; None to live.
        share: Where the event is the writing of a file: the share of its bytes that are still written. At 0, none.
    """

    def __init__(self, run: str, number: int | None, share: float) -> None:
        self.run = os.path.abspath(run)
        self.number = number
        self.share = share
        self.events: list[str] = []
        sizes = sorted(Path(run).glob('checkpoint-*/**/*'))
        self.sizes = {path.name: path.stat().st_size for path in sizes if path.is_file()}
        sys.addaudithook(self._audit)
        # Neither opens its file in Python.
        torch.save = self._noting(torch.save, 1)
        safetensors = importlib.import_module('safetensors.torch')
        setattr(safetensors, 'serialize_file', self._noting(getattr(safetensors, 'serialize_file'), 1))

    def _noting(self, write: Callable, position: int) -> Callable:

        @functools.wraps(write)
        def noting(*args: Any, **kwargs: Any) -> Any:
            if isinstance(args[position], str):
                self._note('write', args[position])
            return write(*args, **kwargs)

        return noting

    def _audit(self, event: str, args: tuple) -> None:
        if event == 'open' and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._note('write', args[0])
        elif event in _AUDITED:
            self._note(event, os.fspath(args[_AUDITED[event]]))

    def _note(self, event: str, path: str) -> None:
        name = os.path.relpath(os.path.abspath(path), self.run)
        if not name.startswith(('checkpoint-', 'replaced-', 'last-checkpoint')):
            return
        num_before = len(self.events)
        self.events.append(f'{event} {name}')
        if self.number is None or num_before < self.number:
            return
        if num_before > self.number or event != 'write' or not self.share:
            _die()
        # A write beyond the limit ends the process by a signal, with the file cut off right there.
        size = int(self.share * self.sizes.get(os.path.basename(path), _UNKNOWN_SIZE))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _wrap_save(step: str, wrapper: Callable[[Any, Callable], Any]) -> None:
    """Calls `wrapper(trainer, save)` in the place of the save of one step."""
    original = SwiftMixin._save_checkpoint

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        save = functools.partial(original, self, *args, **kwargs)
        return wrapper(self, save) if self.state.global_step == int(step) else save()

    SwiftMixin._save_checkpoint = wrapped


def die_in_save(step: str, number: str, share: str, rank: str = '0') -> None:
    """Kills one rank while it saves the checkpoint of a step: see `Saving`."""
    if os.environ.get('RANK', '0') != rank:
        return

    def dying(trainer: Any, save: Callable) -> Any:
        Saving(trainer.args.output_dir, int(number), float(share))
        return save()

    _wrap_save(step, dying)


def fork_saves(step: str, folder: str, seed: str) -> None:
    """Lets many copies of the process die while they save the checkpoint of a step; then saves it and continues.

    They die before each event of `Saving`, and in the middle of each file; all of it once with a seal at the end, and
    once as ms-swift alone saves. (One rank only: threads do not survive a fork.)

    Args:
        step: The step.
        folder: Where the copies' runs go: 0, 1, ...; and 'deaths.json', which has for each its event.
        seed: Of the random shares of the files that are written.
    """

    def forking(trainer: Any, save: Callable) -> Any:
        root, rng = Path(folder), random.Random(seed)
        root.mkdir()
        deaths: list[dict[str, Any]] = []
        for stock in (False, True):
            events = _fork(trainer, save, root / f'lives_{stock}', None, 0, stock)
            for number, event in enumerate(events):
                for share in (0, rng.random()) if event.startswith('write') else (0, ):
                    assert _fork(trainer, save, root / str(len(deaths)), number, share, stock) == events[:number + 1]
                    deaths.append({'event': event, 'share': share, 'stock': stock})
        (root / 'deaths.json').write_text(json.dumps(deaths))
        return save()

    _wrap_save(step, forking)


def _fork(trainer: Any, save: Callable, folder: Path, number: int | None, share: float, stock: bool) -> list[str]:
    """The events of a copy's save, up to its death where a number is given."""
    # What is there already is not written to again, so a link does for a copy.
    shutil.copytree(trainer.args.output_dir, folder, copy_function=os.link, symlinks=True)
    reader, writer = os.pipe()
    state = random.getstate()
    pid = os.fork()
    if not pid:
        # Python gives the copy a new seed.
        random.setstate(state)
        os.close(reader)
        trainer.args.output_dir = str(folder)
        if stock:
            setattr(resume, 'saving', lambda trainer: nullcontext())
        saving = Saving(str(folder), number, share)
        saving.events = _PipedList(writer)
        save()
        os._exit(0)
    os.close(writer)
    with open(reader, encoding='utf-8') as file:
        events = file.read().splitlines()
    _, status = os.waitpid(pid, 0)
    # The last event may be one too late for the limit on a file's size.
    assert (os.WIFSIGNALED(status) and number is not None) or (status == 0 and number is None), status
    return events if number is None else list(itertools.islice(events, number + 1))


class _PipedList(list):
    """A list that also writes its items into a pipe, since its process may die."""

    def __init__(self, writer: int) -> None:
        super().__init__()
        self.writer = writer

    def append(self, event: str) -> None:
        super().append(event)
        os.write(self.writer, f'{event}\n'.encode())
