"""Errors of files: the exceptions that readers raise on broken files, and their conversion to user errors."""
import importlib
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from PIL import Image
from typing import Any

from ..errors import RowError

# What PIL and its decoders raise (found by fuzzing) on files that are missing, truncated, forged or not images, and on
# values that are not file names.
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, TypeError, RuntimeError, LookupError, AttributeError, AssertionError,
                ArithmeticError, Image.DecompressionBombError)
REPAIR_REMEDY = 'Repair or remove the file.'
# What other readers raise on truncated streams and on headers that do not fit their format.
_STREAM_ERRORS = (EOFError, struct.error, zlib.error)


class FileError(OSError):
    """A file, URL or image that is rejected.

    Args:
        problem: What is wrong, with the value.
        remedy: What the user can do about it.
        kind: A short, stable name of the problem, as in `RowError`.
    """

    def __init__(self, problem: str, remedy: str, kind: str) -> None:
        super().__init__(problem)
        self.remedy = remedy
        self.kind = kind


def unreadable_file(row: str, what: str, error: Exception, kind: str, remedy: str = REPAIR_REMEDY) -> RowError:
    """The RowError of a file that cannot be used.

    Args:
        row: The row's name.
        what: The position in the row and its value, e.g. "images[0]='a.png'".
        error: One of `IMAGE_ERRORS`.
        kind, remedy: Used if the error has none of its own (see `FileError`).
    """
    # Without the memory address in PIL's message, so that the same file always gives the same error.
    problem = re.sub(r' object at 0x[0-9a-f]+>', '>', str(error)) or type(error).__name__
    return RowError(row, f'{what} cannot be read: {problem}.', getattr(error, 'remedy', remedy),
                    getattr(error, 'kind', kind))


def file_repr(reference: Any) -> str:
    """A repr of a row's file reference, truncated if it is the content of the file."""
    if isinstance(reference, dict):
        reference = reference.get('path') or reference.get('bytes')
    if isinstance(reference, (str, bytes)) and len(reference) > 300:
        return f'{reference[:80]!r}...'
    return repr(reference)[:300]


def import_medical(name: str) -> Any:
    """Imports pydicom, nibabel, highdicom or one of their modules.

    Raises:
        FileError: The package is not installed (kind 'medical-extra').
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise FileError(f'it needs the package {name.partition(".")[0]} ({e})', "pip install 'swift-citrusv[medical]'",
                        'medical-extra') from e


@contextmanager
def reader_errors(what: str, *errors: type[Exception], remedy: str = REPAIR_REMEDY) -> Iterator[None]:
    """Converts what a library raises on a broken file to a FileError of kind 'medical-file'.

    Args:
        what: The kind of file, e.g. 'DICOM'.
        errors: Further exceptions of the library.
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
