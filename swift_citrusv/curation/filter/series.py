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
from ..inputs import is_output
from ..step import Decision

RULE = 'unsound-series'


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
        self._sound: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        top = os.path.join(folder, 'rows')
        for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
            with open(os.path.join(top, name), encoding='utf-8') as file:
                for line in file:
                    self._sound.update(map(self._key, json.loads(line)['images']))

    def decide(self, images: Sequence[Any]) -> Iterator[Decision]:
        """Yields the decisions on the images of a row; images that are no slices pass."""
        for image in images:
            name = image.get('path') if isinstance(image, dict) else image
            if isinstance(name, str) and self._is_medical(name) and self._key(name) not in self._sound:
                yield Decision(RULE, 'dropped', evidence_id=name[:200],
                               detail='it did not pass `citrusv data dicom`, or was not in its input')  # yapf: disable

    def _key(self, name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The file, and the slice in it without its window."""
        path = self._path(name)
        fragment = name.partition('#')[2] if path is not None and not os.path.exists(name) else ''
        keys = sorted((key, value) for key, value in parse_qsl(fragment) if key in ('frame', 'index', 'volume'))
        return path or name, tuple(keys)

    def _path(self, name: str) -> str | None:
        for candidate in (name, name.partition('#')[0]):
            try:
                return os.path.realpath(self._files.resolve(candidate))
            except (*IMAGE_ERRORS, RowError):
                continue
        return None

    def _is_medical(self, name: str) -> bool:
        path = self._path(name)
        try:
            return path is not None and medical_format(path) is not None
        except IMAGE_ERRORS:
            return False
