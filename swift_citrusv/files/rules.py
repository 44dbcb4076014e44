"""Image and video files: which of them a row may name, and how they are opened.

What a row names comes from whoever wrote the data set. So nothing is opened, by us or by ms-swift, before `FileRules`
has looked at its name, and nothing is decoded before it has looked at its size.
"""
import functools
import os
from dataclasses import dataclass
from stat import S_ISREG

from ..settings import SettingError, Settings
from .errors import FileError
from .windowing import WINDOW_FORMS, Window, parse_window

URL = ('http://', 'https://')
# Longer than any name of a file.
_MAX_NAME = 4096


@dataclass(frozen=True)
class FileRules:
    """What a row may name, and how large it may be. `file_rules()` gives the rules of this run.

    Attributes:
        data_root: The folder that all files must lie in, without symbolic links; None: anywhere.
        allow_urls: Whether a name may be an http or https URL.
        max_pixels: Most pixels of an image.
        image_dir: ms-swift's ROOT_IMAGE_DIR, where names are looked for that name nothing in the working directory.
        max_voxels: Most voxels of a NIfTI file or a DICOM series.
        window: How DICOM and NIfTI images are shown whose names do not say it.
    """
    data_root: str | None = None
    allow_urls: bool = False
    max_pixels: int = Settings.max_image_pixels
    image_dir: str | None = None
    max_voxels: int = Settings.max_volume_voxels
    window: str = Settings.image_window

    @property
    def default_window(self) -> str | Window:
        """`window`, parsed."""
        return parse_window(self.window)

    # ---- names

    def places(self, name: str) -> list[str]:
        """The paths where a file of that name is looked for, in order."""
        name = name.strip().removeprefix('file://')
        if self.data_root is not None:
            return [os.path.join(self.data_root, name)]
        return [name, os.path.expanduser(os.path.join(self.image_dir or '', name))]

    def path_of(self, name: str) -> str:
        """The absolute path of a file that a row names.

        Raises:
            FileError: It lies outside `data_root` (kind 'outside-root').
            OSError: There is no such file, or nothing in it, or it is no regular file.
            ValueError: No file can have such a name.
        """
        if not name.strip():
            raise FileNotFoundError('the name is empty')
        if len(name) > _MAX_NAME:
            raise OSError(f'no file has a name of {len(name)} characters')
        places = self.places(name)
        found = next(((place, stat) for place in places if (stat := _stat(place)) is not None), None)
        if self.data_root is None:
            path = os.path.abspath(found[0] if found else places[0])
        else:
            path = os.path.realpath(places[0])
            if not path.startswith(os.path.join(self.data_root, '')):
                raise FileError(f'it is outside of data_root={self.data_root!r}, symbolic links followed',
                                'Put the file there, name it from there, or set another data_root.', 'outside-root')
        if found is None:
            start = 'the working directory, or to ROOT_IMAGE_DIR' if self.data_root is None else 'data_root'
            raise FileNotFoundError(f'no such file (paths are relative to {start})')
        # PIL would wait for ever on a pipe, and calls an empty file unidentified.
        if not S_ISREG(found[1].st_mode):
            raise OSError('not a regular file')
        if not found[1].st_size:
            raise OSError('the file is empty')
        return path

    def check_url(self, url: str) -> None:
        """Raises a FileError of kind 'url' where URLs are not allowed."""
        if not self.allow_urls:
            raise FileError(
                'URLs are not allowed', 'Download the file, or set allow_urls to true, so that training '
                'asks whatever server a row names.', 'url')

    # ---- images

    def image_path(self, name: str) -> tuple[str, str]:
        """The absolute path of an image file that a row names, and what the name says behind a `#` of a slice in it.

        A file whose own name has the `#` goes before.

        Raises:
            As `path_of`.
        """
        base, mark, fragment = name.rpartition('#')
        if mark and not self._exists(name) and self._exists(base):
            return self.path_of(base), fragment
        return self.path_of(name), ''

    def _exists(self, name: str) -> bool:
        return len(name) <= _MAX_NAME and any(_stat(place) is not None for place in self.places(name))


def file_rules() -> FileRules:
    """The rules of this run, from its settings and ROOT_IMAGE_DIR.

    Raises:
        SettingError: `data_root` is no folder, or another setting cannot be used.
    """
    names = ('DATA_ROOT', 'ALLOW_URLS', 'MAX_IMAGE_PIXELS', 'MAX_VOLUME_VOXELS', 'IMAGE_WINDOW', 'ROOT_IMAGE_DIR')
    return _file_rules(tuple((name, os.environ[name]) for name in names if name in os.environ))


@functools.lru_cache(maxsize=1)
def _file_rules(env: tuple[tuple[str, str], ...]) -> FileRules:
    values = dict(env)
    image_dir = values.pop('ROOT_IMAGE_DIR', None)
    settings = Settings.from_env(values)
    root = settings.data_root
    if root is not None:
        if not os.path.isdir(root):
            raise SettingError(f'Setting data_root={root!r} is not a folder. Name the one that the data set lies in.')
        if image_dir:
            raise SettingError(f'Setting data_root={root!r} and ROOT_IMAGE_DIR={image_dir!r} both say where relative '
                               'names start. Remove ROOT_IMAGE_DIR.')
        root = os.path.realpath(root)
    try:
        parse_window(settings.image_window)
    except ValueError as e:
        raise SettingError(f'Setting image_window={settings.image_window!r}: {e}. {WINDOW_FORMS}') from None
    return FileRules(root, settings.allow_urls, settings.max_image_pixels, image_dir, settings.max_volume_voxels,
                     settings.image_window)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
