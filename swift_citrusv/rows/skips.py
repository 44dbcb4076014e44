"""Counts and logs the rows that `--strict false` skips."""
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..errors import RowError

# A child of ms-swift's logger: it inherits handlers and level if ms-swift is loaded.
logger = logging.getLogger('swift.citrusv')
# Maximum number of skipped rows that are logged one by one.
_MAX_LOGGED = 100
# Errors that the error for a dataset without any usable row repeats.
_MAX_REASONS = 3
_listeners: list['SkipCounter'] = []


@dataclass
class SkipCounter:
    """Counts skipped rows by kind of error, and logs the first 100 one by one.

    Attributes:
        counts: The number of skipped rows for each kind.
        reasons: The first errors.
    """
    counts: Counter = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    def count(self, error: Exception) -> None:
        """Counts the row that caused `error`, without a line in the log."""
        self.counts[getattr(error, 'kind', type(error).__name__)] += 1
        self.reasons = [*self.reasons, str(error)][:_MAX_REASONS]

    def add(self, error: Exception) -> None:
        """Counts the row that caused `error`, and logs it."""
        for counter in (self, *_listeners):
            counter.count(error)
        number = self.counts.total()
        if number <= _MAX_LOGGED:
            logger.warning(f'skipped ({number} so far): {error}')
        elif number == _MAX_LOGGED + 1:
            logger.warning('further skipped rows are only counted.')

    def report(self, what: str, num_rows: int | None = None) -> None:
        """Logs the counts, if any row was skipped.

        Args:
            what: The name of the step or file.
            num_rows: The number of all rows, if known.
        """
        if self.counts:
            of = '' if num_rows is None else f' of {num_rows}'
            logger.warning(f'{what}: {self.counts.total()}{of} rows were skipped ({self._kinds()}).')

    def none_left(self, what: str) -> RowError:
        """The error for a dataset or file, `what`, of which every row was skipped."""
        reasons = ''.join(f'\n  {reason}' for reason in self.reasons)
        return RowError(
            what, f'no row is left: all {self.counts.total()} were skipped under --strict false ({self._kinds()}). The '
            f'first errors:{reasons}\n', 'Follow what they say; `citrusv check-data FILE --model MODEL` lists all bad '
            'rows of a file.', 'empty')

    def _kinds(self) -> str:
        return ', '.join(f'{kind}: {count}' for kind, count in self.counts.most_common())


@contextmanager
def every_skip() -> Iterator[SkipCounter]:
    """Counts what any counter of this process adds inside the context."""
    counter = SkipCounter()
    _listeners.append(counter)
    try:
        yield counter
    finally:
        _listeners.pop()
