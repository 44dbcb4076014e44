"""Rows that are left out with `--strict false`: logged, and counted by kind."""
import logging
from collections import Counter
from dataclasses import dataclass, field

# A child of ms-swift's logger, which need not be loaded: its handlers and level count where it is.
logger = logging.getLogger('swift.citrusv')
# Skipped rows that are logged one by one; the rest are counted.
_MAX_LOGGED = 100


@dataclass
class SkipCounter:
    """Rows left out with `--strict false`, counted by kind; the first of them are logged one by one."""
    counts: Counter = field(default_factory=Counter)

    def add(self, error: Exception) -> None:
        kind = getattr(error, 'kind', type(error).__name__)
        self.counts[kind] += 1
        number = self.counts.total()
        if number <= _MAX_LOGGED:
            logger.warning(f'skipped ({number} so far): {error}')
        elif number == _MAX_LOGGED + 1:
            logger.warning('more rows are skipped; they are only counted from here on.')

    def report(self, what: str, num_rows: int | None = None) -> None:
        if self.counts:
            kinds = ', '.join(f'{kind}: {count}' for kind, count in self.counts.most_common())
            of = '' if num_rows is None else f' of {num_rows}'
            logger.warning(f'{what}: {self.counts.total()}{of} rows were skipped ({kinds}).')
