"""The cases of an evaluation, stored by column to save memory."""
import numpy as np
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .cases import Case


class CaseTable:
    """Cases in the order of the reference file.

    Attributes:
        columns: float64 [number of cases] by column name, after `close`; NaN for a case without a value.
        data: `Case.data` of each case; empty if no case has any.
        rows: int64 [number of cases], the row of each case, from 0; `indices` is its position among the row's cases.
        names: The names of the rows, by file and line.
        ids: The rows' own ids; '' for none.
        groups: By column, the group of each case; '' for none.
        clusters: For each row, the cluster that the bootstrap resamples as a unit.
        flags: By flag, the indices of the cases that have it.
    """

    def __init__(self) -> None:
        self.columns: dict[str, np.ndarray] = {}
        self.data: list[Any] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.clusters: list[str] = []
        self.groups: dict[str, list[str]] = {}
        self.flags: dict[str, list[int]] = {}
        self._values: dict[str, array] = {}
        self._rows, self._indices = array('q'), array('q')
        # Interned strings: many cases share a group or cluster.
        self._interned: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> np.ndarray:
        return np.array(self._rows, np.int64)

    @property
    def indices(self) -> np.ndarray:
        return np.array(self._indices, np.int64)

    def add_row(self, name: str, cluster: str, groups: dict[str, str], cases: Sequence[Case], own_id: str = '') -> None:
        """Adds the cases of the next row.

        Args:
            name: The row's name.
            cluster: The row's cluster.
            groups: The row's group by column.
            cases: The row's cases; may be empty.
            own_id: The row's own id; '' for none.
        """
        row = len(self.names)
        self.names.append(name)
        self.ids.append(own_id)
        self.clusters.append(self._interned.setdefault(cluster, cluster))
        for index, case in enumerate(cases):
            number = len(self)
            self._rows.append(row)
            self._indices.append(index)
            for column, value in case.values.items():
                values = self._values.setdefault(column, array('d'))
                values.extend([np.nan] * (number - len(values)))
                values.append(value)
            for column, text in {**groups, **case.groups}.items():
                texts = self.groups.setdefault(column, [])
                texts.extend([''] * (number - len(texts)))
                texts.append(self._interned.setdefault(text, text))
            for flag in dict.fromkeys(case.flags):
                self.add_flag(number, flag)
            if case.data is not None:
                self.data.extend([None] * (number - len(self.data)))
                self.data.append(case.data)

    def close(self) -> None:
        """Call after the last row: builds `columns` and pads what is shorter than the table."""
        for column, values in self._values.items():
            values.extend([np.nan] * (len(self) - len(values)))
            self.columns[column] = np.array(values, np.float64)
        self._values.clear()
        for texts in self.groups.values():
            texts.extend([''] * (len(self) - len(texts)))
        if self.data:
            self.data.extend([None] * (len(self) - len(self.data)))

    def add_flag(self, case: int, flag: str) -> None:
        """Adds a flag to a case."""
        self.flags.setdefault(flag, []).append(case)

    def flag_counts(self) -> dict[str, int]:
        """The number of cases with each flag, the most frequent first."""
        return dict(Counter({flag: len(cases) for flag, cases in self.flags.items()}).most_common())

    def case_name(self, case: int) -> str:
        """'case-7 (test.jsonl:12)', or 'case-7#2 (test.jsonl:12)' for the second of several cases of a row.

        Without an id 'test.jsonl:12#2'.
        """
        row = self._rows[case]
        several = case + 1 < len(self) and self._rows[case + 1] == row or self._indices[case] > 0
        number = f'#{self._indices[case] + 1}' if several else ''
        own, name = self.ids[row], self.names[row]
        return f'{own}{number} ({name})' if own else f'{name}{number}'

    def row_title(self, row: int) -> str:
        """'case-7 (test.jsonl:12)', or without an id 'test.jsonl:12'."""
        return f'{self.ids[row]} ({self.names[row]})' if self.ids[row] else self.names[row]
