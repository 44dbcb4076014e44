"""A line of progress for each stage, read from the log that ms-swift writes."""
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tqdm import tqdm
from typing import Any

_LABELS = {'loss_token': 'token', 'loss_dice': 'Dice', 'loss_bce': 'BCE'}
# Seconds until the verdict, and between two lines where the output is no terminal.
VERDICT_SECONDS, _LINE_SECONDS = 60., 15.


class Progress:
    """Steps, losses and time left of a run of `swift sft`; a context manager.

    Args:
        name: Of the stage.
        path: The `logging.jsonl` of the run.
        verdict: Called once, after the first minute of training or at the end.

    Attributes:
        entries: What was logged of each step.
    """

    def __init__(self, name: str, path: Path, verdict: Callable[['Progress'], None] | None = None) -> None:
        self.name = name
        self.entries: list[dict[str, Any]] = []
        self._path = path
        self._verdict = verdict
        self._offset = 0
        self._started: float | None = None
        self._bar: Any = None

    def __enter__(self) -> 'Progress':
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=f'{self.name:<12}',
            total=0,
            unit='step',
            mininterval=.5 if terminal else _LINE_SECONDS,
            maxinterval=_LINE_SECONDS,
            bar_format='{desc} {n_fmt}/{total_fmt} steps, {elapsed}, left {remaining}{postfix}')
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.update()
        self._bar.close()
        if kind is None:
            self._judge()

    def update(self) -> None:
        """Reads what has been logged since the last call."""
        if not self._path.exists():
            return
        with open(self._path, 'rb') as file:
            file.seek(self._offset)
            text = file.read()
        # The last line may be half written.
        end = text.rfind(b'\n') + 1
        self._offset += end
        for line in text[:end].splitlines():
            entry = json.loads(line)
            if 'loss_token' in entry and 'global_step/max_steps' in entry:
                self._show(entry)
        if self._started is not None and time.monotonic() > self._started + VERDICT_SECONDS:
            self._judge()

    def _show(self, entry: dict[str, Any]) -> None:
        if self._started is None:
            self._started = time.monotonic()
        self.entries.append(entry)
        done, total = map(int, entry['global_step/max_steps'].split('/'))
        self._bar.total = total
        losses = ', '.join(f'{label} {entry[key]:.2f}' for key, label in _LABELS.items() if key in entry)
        self._bar.set_postfix_str(f'losses: {losses}', refresh=False)
        self._bar.update(done - self._bar.n)

    def _judge(self) -> None:
        if self._verdict is not None and self.entries:
            verdict, self._verdict = self._verdict, None
            verdict(self)
