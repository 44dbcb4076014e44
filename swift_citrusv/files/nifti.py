"""Reads slices of NIfTI files, after checking the header."""
import gzip
import io
import logging
import math
import numpy as np
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO, Any

from .errors import FileError, import_medical, reader_errors
from .rules import FileRules
from .slices import SliceOrientation
from .windowing import AUTO, PERCENTILE, Window, apply_window

GZIP = b'\x1f\x8b'
# Header size of NIfTI-1 and NIfTI-2 -> offset of the magic, and its value in single files (.nii).
_HEADERS = {348: (344, b'n+1\0'), 540: (4, b'n+2\0')}
# The magic of files whose data are in an .img file.
_PAIR = (b'ni1\0', b'ni2\0')
HEADER_BYTES = 540
# nibabel's level of errors that it cannot fix.
_ERROR = 40
_SILENT = logging.getLogger(f'{__name__}.silent')
_SILENT.disabled = True


def header_size(start: bytes) -> int | None:
    """The size of the NIfTI header at the start of a file; None if there is no such header.

    Args:
        start: The first `HEADER_BYTES` bytes of the file, decompressed.
    """
    for size, (offset, magic) in _HEADERS.items():
        claimed = {int.from_bytes(start[:4], order) for order in ('little', 'big')} if len(start) >= size else set()
        if size in claimed and start[offset:offset + 4] in (magic, *_PAIR):
            return size
    return None


class NiftiFile:
    """A NIfTI file whose header is read and checked on construction.

    Args:
        file: A path, or the content of a file; with or without gzip compression.
        rules: `max_voxels` limits the size in the header, and so the decompressed size.

    Attributes:
        header: The nibabel header.
        shape: The sizes of the three axes of space.
        stored_shape: The sizes of the axes of space in the file, two or three.
        num_volumes: The size of the fourth axis (time).
        affine: float [4, 4], from indices to RAS+ millimetres: the sform, else the qform, else nibabel's default from
            the voxel sizes.
        is_oriented: Whether the affine is the sform or the qform.
        colours: Whether the voxels are RGB.

    Raises:
        FileError: The file is not NIfTI, is truncated, exceeds the rules, or is of a kind that is not supported.
    """

    def __init__(self, file: str | BytesIO, rules: FileRules) -> None:
        nibabel = import_medical('nibabel')
        self._file = file
        self._values: np.ndarray | None = None
        with self._reading(), self._opened() as stream:
            block = stream.read(HEADER_BYTES)
            size = header_size(block)
            if size is None:
                raise ValueError('it has no NIfTI header')
            if block[_HEADERS[size][0]:][:4] in _PAIR:
                raise FileError('its data are in another file (.img)', 'Save it as a single .nii file.', 'medical-file')
            kind = nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header
            self.header = _fixed_header(kind(block[:size], check=False))
            self.affine = self.header.get_best_affine().astype(np.float64)
            self.is_oriented = bool(self.header['sform_code'] or self.header['qform_code'])
            self._dtype = self.header.get_data_dtype()
            self._offset = int(self.header.get_data_offset())
            scaling = self.header.get_slope_inter()
            shape = tuple(int(side) for side in self.header.get_data_shape())
            self._check(shape, rules.max_voxels)
        self._slope, self._inter = (default if value is None else float(value)
                                    for value, default in zip(scaling, (1, 0)))
        self.stored_shape = shape[:3]
        self.shape = (*shape[:3], 1, 1)[:3] if len(shape) < 3 else shape[:3]
        self.num_volumes = math.prod(shape[3:])
        self.colours = self._dtype.names is not None

    def _check(self, shape: tuple[int, ...], most: int) -> None:
        total = math.prod(shape)
        if len(shape) < 2 or min(shape) < 1:
            raise FileError(f'its header has the shape {list(shape)}', 'Save it as a volume of three axes.',
                            'medical-file')
        if math.prod(shape[4:]) > 1:
            raise FileError(f'it has the shape {list(shape)}: more than three axes of space and one of time',
                            'Save its parts as separate files.', 'medical-file')
        # The offset of the data counts too: a stream is decompressed up to it.
        if not 0 <= self._offset <= most or total > most:
            raise FileError(
                f'its header claims {total} voxels of shape {list(shape)} from byte {self._offset}, more '
                f'than max_volume_voxels={most}', 'Cut it into parts; raise max_volume_voxels only for '
                'trusted files.', 'too-many-pixels')
        names = self._dtype.names
        if names is not None and names[:3] != ('R', 'G', 'B') or names is None and self._dtype.kind not in 'iuf':
            raise FileError(f'its values are {self._dtype}', 'Save it with real numbers, or as RGB.', 'medical-file')
        # The decompressed size of a stream is unknown.
        if isinstance(self._file, str):
            with open(self._file, 'rb') as file:
                compressed = file.read(2) == GZIP
                size = file.seek(0, io.SEEK_END)
            needed = self._offset + total * self._dtype.itemsize
            if not compressed and size < needed:
                raise ValueError(f'it is truncated: its header needs {needed} bytes, but it has {size}')

    @property
    def own_window(self) -> Window | None:
        """The window in the header (cal_min, cal_max), or None."""
        low, high = float(self.header['cal_min']), float(self.header['cal_max'])
        return Window((low + high) / 2, high - low) if math.isfinite(high - low) and low < high else None

    def load(self, volume: int = 0) -> None:
        """Reads a whole volume into memory: faster for many slices of a compressed file."""
        with self._reading(), self._opened() as stream:
            self._values = self._proxy(stream)[..., volume]

    def values(self, view: SliceOrientation, index: int, volume: int = 0) -> np.ndarray:
        """A slice of the array, scaled by the slope and intercept of the header.

        Args:
            view: The orientation of the slices.
            index: The slice.
            volume: The volume, counted from 0; ignored after `load`.

        Returns:
            [a, b] with the array's other two axes in order; uint8 [a, b, 3] for RGB.
        """
        position = view.array_index(index)
        if self._values is not None:
            # Not `take`, which would copy the whole volume.
            plane = np.moveaxis(self._values, view.axis, 0)[position]
        else:
            with self._reading(), self._opened() as stream:
                plane = self._read(self._proxy(stream), view.axis, position, volume)
        if self.colours:
            return np.stack([plane[name] for name in ('R', 'G', 'B')], axis=-1)
        if (self._slope, self._inter) == (1, 0):
            return plane
        return plane.astype(np.float64) * self._slope + self._inter

    def image(self, view: SliceOrientation, index: int, volume: int, window: str | Window) -> np.ndarray:
        """A slice as an 8-bit image: uint8 [h, w], or [h, w, 3] for RGB, which is not windowed.

        Percentiles are those of the slice.
        """
        values = view.to_image(self.values(view, index, volume))
        if self.colours:
            return values
        if window == AUTO:
            window = self.own_window or PERCENTILE
        return apply_window(values, window)

    @staticmethod
    def _read(proxy: Any, axis: int, position: int, volume: int) -> np.ndarray:
        if axis:
            key: list[Any] = [slice(None), slice(None), slice(None), volume]
            key[axis] = position
            return proxy[tuple(key)]
        # The values of a slice along the fastest axis are scattered: nibabel would seek to each.
        return np.stack([proxy[:, :, k, volume][position] for k in range(proxy.shape[2])], axis=1)

    def _proxy(self, stream: IO[bytes]) -> Any:
        from nibabel.arrayproxy import ArrayProxy

        # Stored values, always with four axes.
        spec = ((*self.shape, self.num_volumes), self._dtype, self._offset)
        return ArrayProxy(stream, spec, mmap=False)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if isinstance(self._file, BytesIO):
            self._file.seek(0)
            with _decompressed(self._file) as stream:
                yield stream
        else:
            with open(self._file, 'rb') as file, _decompressed(file) as stream:
                yield stream

    @staticmethod
    def _reading() -> Any:
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError, ImageDataError
        from nibabel.wrapstruct import WrapStructError
        return reader_errors('NIfTI', ImageFileError, HeaderDataError, ImageDataError, WrapStructError)


def _fixed_header(header: Any) -> Any:
    """Fixes minor errors of a header, as nibabel does on loading, but without logging them.

    Raises:
        FileError: The fix would change the orientation.
    """
    for name in ('sform_code', 'qform_code'):
        if int(header[name]) not in range(6):
            raise FileError(f'its {name} is {int(header[name])}, which does not define the orientation of the volume',
                            'Set the sform or the qform of its header.', 'medical-file')
    header.check_fix(logger=_SILENT, error_level=_ERROR)
    return header


@contextmanager
def _decompressed(file: Any) -> Iterator[IO[bytes]]:
    compressed = file.read(2) == GZIP
    file.seek(0)
    if not compressed:
        yield file
        return
    with gzip.GzipFile(fileobj=file) as stream:
        yield stream  # type: ignore[misc]
