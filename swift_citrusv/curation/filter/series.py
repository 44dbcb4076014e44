"""Whether the slices that rows name belong to sound series, by an output of `citrusv data dicom`."""
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl

from ...errors import RowError
from ...files.errors import IMAGE_ERRORS
from ...files.medical import medical_format
from ...files.rules import FileRules
from ...settings import SettingError
from ..images import remembered
from ..inputs import is_output
from ..step import Decision

RULE = 'unsound-series'
# A file, and the keys that select a slice in it.
_Slice = tuple[str, tuple[tuple[str, str], ...]]


def check_output(folder: str) -> None:
    """Whether a folder is an output of `citrusv data dicom`.

    Raises:
        SettingError: It is none.
    """
    if not is_output(folder) or not os.path.exists(os.path.join(folder, 'series.csv')):
        raise SettingError(f'{folder} is not the output of `citrusv data dicom`: it has no series.csv.')


class SeriesJudge:
    """Knows the slices that passed.

    Args:
        folder: The output of `citrusv data dicom`.
        files: What rows may name.
    """

    def __init__(self, folder: str, files: FileRules) -> None:
        self._files = files
        self._sound: set[_Slice] = set()
        top = os.path.join(folder, 'rows')
        for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
            with open(os.path.join(top, name), encoding='utf-8') as file:
                for line in file:
                    self._sound.update(filter(None, map(self._slice, json.loads(line)['images'])))
        # Many rows ask about one slice.
        self._passes = remembered(self._look)

    def decide(self, images: Sequence[Any]) -> Iterator[Decision]:
        """Yields the decisions on the images of a row; images that are no slices pass."""
        for image in images:
            name = image.get('path') if isinstance(image, dict) else image
            if isinstance(name, str) and not self._passes(name):
                yield Decision(RULE, 'dropped', evidence_id=name[:200],
                               detail='it did not pass `citrusv data dicom`, or was not in its input')  # yapf: disable

    def _look(self, name: str) -> bool:
        found = self._slice(name)
        try:
            return found is None or found in self._sound or medical_format(found[0]) is None
        except IMAGE_ERRORS:
            return True

    def _slice(self, name: str) -> _Slice | None:
        """The file, and the slice in it without its window; None for what is no file."""
        try:
            path, fragment = self._files.resolve_image(name)
        except (*IMAGE_ERRORS, RowError):
            return None
        keys = sorted((key, value) for key, value in parse_qsl(fragment) if key in ('frame', 'index', 'volume'))
        return os.path.realpath(path), tuple(keys)
