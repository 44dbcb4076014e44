"""The errors of files: what PIL and other readers raise on a broken file, and what a user is told of it."""
import importlib
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from PIL import Image
from typing import Any

from ..errors import RowError

# What PIL and its decoders raise on files that are missing, cut short, forged or not images (found by fuzzing), and on
# what names no file at all.
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, TypeError, RuntimeError, LookupError, AttributeError, AssertionError,
                ArithmeticError, Image.DecompressionBombError)
REPAIR_REMEDY = 'Repair or remove the file.'
# Beside what PIL raises: streams that are cut short, and headers that do not fit their format.
_STREAM_ERRORS = (EOFError, struct.error, zlib.error)


class FileError(OSError):
    """A file, URL or image that is refused, with a remedy and a kind of its own."""

    def __init__(self, problem: str, remedy: str, kind: str) -> None:
        super().__init__(problem)
        self.remedy = remedy
        self.kind = kind


def unreadable_file(row: str, what: str, error: Exception, kind: str, remedy: str = REPAIR_REMEDY) -> RowError:
    """The error of a row whose file cannot be used.

    Args:
        row: The row's name.
        what: The place in the row and what stands there, e.g. "images[0]='a.png'".
        error: One of `IMAGE_ERRORS`.
        kind: The kind, where the error has none of its own.
        remedy: As `kind`.
    """
    # PIL names what it cannot identify by its address; two reports of one file should not differ.
    problem = re.sub(r' object at 0x[0-9a-f]+>', '>', str(error)) or type(error).__name__
    return RowError(row, f'{what} cannot be read: {problem}.', getattr(error, 'remedy', remedy),
                    getattr(error, 'kind', kind))


def file_repr(reference: Any) -> str:
    """A repr of what a row has in the place of a file, cut where it holds the file itself."""
    if isinstance(reference, dict):
        reference = reference.get('path') or reference.get('bytes')
    if isinstance(reference, (str, bytes)) and len(reference) > 300:
        return f'{reference[:80]!r}...'
    return repr(reference)[:300]


def import_medical(name: str) -> Any:
    """Imports pydicom, nibabel, highdicom or a module of theirs.

    Raises:
        FileError: It is not installed (kind 'medical-extra').
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise FileError(f'it needs the package {name.partition(".")[0]} ({e})', "pip install 'swift-citrusv[medical]'",
                        'medical-extra') from e


@contextmanager
def reader_errors(what: str, *errors: type[Exception], remedy: str = REPAIR_REMEDY) -> Iterator[None]:
    """Turns what a library raises on a broken file into a FileError of kind 'medical-file'.

    Args:
        what: The kind of file, e.g. 'DICOM'.
        errors: The library's own errors, where they are none of the usual.
        remedy: What the user can do about it.
    """
    known: tuple[type[Exception], ...] = (*IMAGE_ERRORS, *_STREAM_ERRORS, *errors)
    try:
        yield
    except FileError:
        raise
    except known as e:
        text = ' '.join(str(e).split())[:400].rstrip('.') or type(e).__name__
        raise FileError(f'{what}: {text}', remedy, 'medical-file') from e
