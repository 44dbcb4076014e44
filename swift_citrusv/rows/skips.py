"""Counts and logs the rows that `--strict false` skips."""
import logging
from collections import Counter
from dataclasses import dataclass, field

# A child of ms-swift's logger: it inherits handlers and level if ms-swift is loaded.
logger = logging.getLogger('swift.citrusv')
# Maximum number of skipped rows that are logged one by one.
_MAX_LOGGED = 100


@dataclass
class SkipCounter:
    """Counts skipped rows by kind of error, and logs the first 100 one by one.

    Attributes:
        counts: The number of skipped rows for each kind.
    """
    counts: Counter = field(default_factory=Counter)

    def add(self, error: Exception) -> None:
        """Counts the row that caused `error`."""
        kind = getattr(error, 'kind', type(error).__name__)
        self.counts[kind] += 1
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
            kinds = ', '.join(f'{kind}: {count}' for kind, count in self.counts.most_common())
            of = '' if num_rows is None else f' of {num_rows}'
            logger.warning(f'{what}: {self.counts.total()}{of} rows were skipped ({kinds}).')
