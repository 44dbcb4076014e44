"""Names of rows in messages: folder, file and number, 'A/train.jsonl:3'."""
import os
from collections.abc import Iterable

# The file that each name belongs to, so that no two files of a run share a name.
_owners: dict[str, str] = {}


def file_name(path: str) -> str:
    """A short name of a file: 'A/train.jsonl' for '/data/A/train.jsonl'.

    If another file of this process has that name already, it gets as many folders as tell the two apart.
    """
    path = os.path.abspath(path)
    parts = path.split(os.sep)
    name = path
    for count in range(min(2, len(parts)), len(parts) + 1):
        name = '/'.join(parts[-count:])
        if _owners.setdefault(name, path) == path:
            break
    return name


class RowNames:
    """Finds rows by their names; also by the name without a folder, or with the one where the file was before.

    Args:
        names: The names of all rows.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        # None where two rows differ in the folder only.
        self._by_base: dict[str, str | None] = {}
        for name in self._names:
            self._by_base[_base(name)] = None if _base(name) in self._by_base else name

    def find(self, name: str) -> str | None:
        """The row's name in `names`, or None."""
        return name if name in self._names else self._by_base.get(_base(name))


def _base(name: str) -> str:
    return name.rpartition('/')[2]
