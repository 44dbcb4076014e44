"""Restricts the files and URLs that rows may name, and the size of images and volumes.

Datasets may be untrusted. So `FileRules` checks each name before the package or ms-swift opens the file, and each size
before anything is decoded.
"""
import functools
import os
from dataclasses import dataclass
from stat import S_ISDIR, S_ISREG

from ..settings import SettingError, Settings, variable
from .errors import FileError
from .windowing import AUTO, WINDOW_FORMS, Window, parse_window

URL_SCHEMES = ('http://', 'https://')
# Longer than any file name.
_MAX_NAME = 4096


@dataclass(frozen=True)
class FileRules:
    """Limits on the files of rows; `file_rules()` returns those of this run.

    Attributes:
        data_root: The folder that must contain all files, with symbolic links resolved; None: no restriction.
        allow_urls: Whether a name may be an http or https URL.
        max_pixels: Maximum number of pixels of an image.
        image_dir: ms-swift's ROOT_IMAGE_DIR, searched for names that do not exist in the working directory.
        max_voxels: Maximum number of voxels of a NIfTI file or a DICOM series.
        window: Window for images whose names do not set one; None: see `default_window` and `named_window`.
    """
    data_root: str | None = None
    allow_urls: bool = False
    max_pixels: int = Settings.max_image_pixels
    image_dir: str | None = None
    max_voxels: int = Settings.max_volume_voxels
    window: str | None = Settings.image_window

    @property
    def default_window(self) -> str | Window:
        """The window of DICOM and NIfTI images: `window`, parsed; 'auto' if it is not set."""
        return parse_window(self.window or AUTO)

    @property
    def named_window(self) -> str | Window | None:
        """The window of 16-bit images: `window`, parsed; None, which is their full range, if it is not set."""
        return None if self.window is None else parse_window(self.window)

    def candidate_paths(self, name: str) -> list[str]:
        """The paths at which a file of this name is searched, in order."""
        name = name.strip().removeprefix('file://')
        if self.data_root is not None:
            return [os.path.join(self.data_root, name)]
        return [name, os.path.expanduser(os.path.join(self.image_dir or '', name))]

    def resolve(self, name: str) -> str:
        """Finds a file that a row names, and returns its absolute path.

        Raises:
            FileError: The file is outside `data_root` (kind 'outside-root').
            OSError: The file does not exist, is empty, or is not a regular file.
            ValueError: The name is not a valid file name.
        """
        if not name.strip():
            raise FileNotFoundError('the name is empty')
        if len(name) > _MAX_NAME:
            raise OSError(f'the name has {len(name)} characters, too many for a file')
        candidates = self.candidate_paths(name)
        found = next(((path, stat) for path in candidates if (stat := _stat(path)) is not None), None)
        if self.data_root is None:
            path = os.path.abspath(found[0] if found else candidates[0])
        else:
            path = os.path.realpath(candidates[0])
            if not path.startswith(os.path.join(self.data_root, '')):
                raise FileError(f'it is outside of data_root={self.data_root!r}, symbolic links followed',
                                'Move the file into it, use a name relative to it, or set another data_root.',
                                'outside-root')
        if found is None:
            base = 'the working directory, or to ROOT_IMAGE_DIR' if self.data_root is None else 'data_root'
            raise FileNotFoundError(f'no such file (paths are relative to {base})')
        # PIL would block on a pipe, and reports an empty file as unidentified.
        if S_ISDIR(found[1].st_mode):
            raise FileError('it is a folder', 'Name a file in it; `citrusv volume` takes the folder of a DICOM '
                            'series.', 'file-format')
        if not S_ISREG(found[1].st_mode):
            raise OSError('not a regular file')
        if not found[1].st_size:
            raise OSError('the file is empty')
        return path

    def check_url(self, url: str) -> None:
        """Raises a FileError of kind 'url' if URLs are not allowed."""
        if not self.allow_urls:
            raise FileError(
                'URLs are not allowed', 'Download the file, or set allow_urls to true, so that training '
                'connects to any server that a row names.', 'url')

    def resolve_image(self, name: str) -> tuple[str, str]:
        """Splits the name of an image file into its absolute path and the fragment after `#`, which selects a slice.

        A file whose name itself contains the `#` takes precedence.

        Raises:
            As `resolve`.
        """
        base, mark, fragment = name.rpartition('#')
        if mark and not self._exists(name) and self._exists(base):
            return self.resolve(base), fragment
        return self.resolve(name), ''

    def _exists(self, name: str) -> bool:
        return len(name) <= _MAX_NAME and any(_stat(path) is not None for path in self.candidate_paths(name))


def file_rules() -> FileRules:
    """The rules of this run, from its settings and ROOT_IMAGE_DIR.

    Raises:
        SettingError: `data_root` is not a folder, or another setting cannot be used.
    """
    settings = ('data_root', 'allow_urls', 'max_image_pixels', 'max_volume_voxels', 'image_window')
    names = (*map(variable, settings), 'ROOT_IMAGE_DIR')
    return _file_rules(tuple((name, os.environ[name]) for name in names if name in os.environ))


@functools.lru_cache(maxsize=1)
def _file_rules(env: tuple[tuple[str, str], ...]) -> FileRules:
    values = dict(env)
    image_dir = values.pop('ROOT_IMAGE_DIR', None)
    settings = Settings.from_env(values)
    root = settings.data_root
    if root is not None:
        if not os.path.isdir(root):
            raise SettingError(f'Setting data_root={root!r} is not a folder. Set it to the folder of the dataset.')
        if image_dir:
            raise SettingError(
                f'Setting data_root={root!r} and ROOT_IMAGE_DIR={image_dir!r} both define where relative '
                'names start. Unset ROOT_IMAGE_DIR.')
        root = os.path.realpath(root)
    try:
        parse_window(settings.image_window or AUTO)
    except ValueError as e:
        raise SettingError(f'Setting image_window={settings.image_window!r}: {e}. {WINDOW_FORMS}') from None
    return FileRules(root, settings.allow_urls, settings.max_image_pixels, image_dir, settings.max_volume_voxels,
                     settings.image_window)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # ValueError: an invalid file name
        return None
