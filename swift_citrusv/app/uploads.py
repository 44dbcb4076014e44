"""Uploaded files: images, and volumes of which the user selects a slice; also a series of DICOM files."""
import os
import zipfile
import zlib
from dataclasses import dataclass, replace
from PIL import Image
from urllib.parse import urlencode

from ..files.errors import IMAGE_ERRORS, unreadable_file
from ..files.images import open_image, to_rgb
from ..files.medical import DICOM, NIFTI, medical_format
from ..files.rules import FileRules
from ..files.slices import PLANES, SliceOrientation
from ..volumes.frames import Frame, PhasesError
from ..volumes.volume import Volume
from .geometry import Geometry, of_frame, of_plane

# An upload that is a folder with the files of a DICOM series.
SERIES = 'series'
# Opened volumes that are kept: the slices of a series are scrolled through.
_KEPT = 3
# Limits of an uploaded ZIP file.
_MAX_UNPACKED, _MAX_ENTRIES = 4 << 30, 5000


class UploadError(ValueError):
    """An uploaded file cannot be used. The message is shown to the user."""


@dataclass(frozen=True)
class VolumeSlice:
    """A slice of a volume, and its window.

    Attributes:
        index: The slice of a NIfTI volume or the frame of a DICOM file, from 0.
        plane: The plane of a NIfTI volume, see `files.slices`; None for DICOM.
        volume: Which volume of a 4D NIfTI file, from 0.
        window: As `windowing.WINDOW_FORMS`; None: that of the run.
    """
    index: int
    plane: str | None = None
    volume: int = 0
    window: str | None = None


class Upload:
    """An uploaded file, whose header has been read.

    Args:
        path: The file, under the user's file name; or a folder with a DICOM series.
        rules: Which files may be opened. `data_root`, the folder of the datasets, does not apply to uploads.

    Attributes:
        name: The user's file name.
        rules: The given rules without `data_root` and `image_dir`.
        kind: 'DICOM', 'NIFTI', 'series', or None for other images.
        counts: Number of slices by plane, for DICOM (plane None: as stored) and NIfTI.
        num_volumes: Number of volumes in a NIfTI file, or of images at each position of a series.
        has_window: Whether a window maps its values to grey levels.

    Raises:
        UploadError: The file cannot be read.
    """

    def __init__(self, path: str, rules: FileRules) -> None:
        self.path, self.name = path, os.path.basename(path)
        self.rules = _upload_rules(rules)
        self.counts: dict[str | None, int] = {}
        self.num_volumes = 1
        self.has_window = False
        self._volumes: dict[tuple[str | None, int, str | None], Volume] = {}
        try:
            self.kind = SERIES if os.path.isdir(path) else medical_format(path)
            if self.kind == SERIES:
                self._read_series()
            elif self.kind == DICOM:
                self._read_dicom()
            elif self.kind == NIFTI:
                self._read_nifti()
        except IMAGE_ERRORS as e:
            raise self._error(e) from e

    def _read_dicom(self) -> None:
        from ..files.dicom import DicomFile
        file = DicomFile(self.path, self.rules, force=True)
        self.counts = {None: file.num_frames}
        self.has_window = not file.colours

    def _read_series(self) -> None:
        self.name = f'series of {len(os.listdir(self.path))} images'
        try:
            volume = self._volume(None, 0, None)
        except PhasesError as e:
            self.num_volumes = e.count
            volume = self._volume(None, 0, None)
        self.counts = {None: len(volume)}
        if volume.affine is not None:
            self.counts |= {plane: len(self._volume(plane, 0, None)) for plane in PLANES}
        self.has_window = not volume.has_colours

    def _volume(self, plane: str | None, number: int, window: str | None) -> Volume:
        """A series as a volume; the last few are kept."""
        key = plane, number, window
        if key not in self._volumes:
            chosen = number if self.num_volumes > 1 else None
            try:
                opened = Volume(self.path, plane, window, volume=chosen, rules=self.rules)
            except ValueError as e:
                # With the phases of a series as its cause.
                raise e.__cause__ if isinstance(e.__cause__, PhasesError) else e from None
            for old in list(self._volumes)[:max(len(self._volumes) - _KEPT, 0)]:
                del self._volumes[old]
            self._volumes[key] = opened
        return self._volumes[key]

    def _read_nifti(self) -> None:
        from ..files.nifti import NiftiFile
        file = NiftiFile(self.path, self.rules)
        self.counts = {plane: len(SliceOrientation.from_affine(file.affine, file.shape, plane)) for plane in PLANES}
        self.num_volumes = file.num_volumes
        self.has_window = not file.colours

    @property
    def is_dicom(self) -> bool:
        """Whether a DICOM segmentation may refer to it."""
        return self.kind in (DICOM, SERIES)

    def middle_slice(self) -> VolumeSlice | None:
        """Returns the slice that is selected first; None for an ordinary image."""
        if self.kind is None:
            return None
        plane, count = next(iter(self.counts.items()))
        return VolumeSlice(count // 2, plane)

    def open(self, selected: VolumeSlice | None) -> Image.Image:
        """Decodes the image as the model sees it, RGB.

        Raises:
            UploadError: The file cannot be decoded, or its window is invalid.
        """
        fragment = self._fragment(selected)
        try:
            if self.kind == SERIES:
                assert selected is not None
                return self._volume(selected.plane, selected.volume, selected.window).image(selected.index)
            return to_rgb(open_image(f'{self.path}#{fragment}' if fragment else self.path, self.rules))
        except IMAGE_ERRORS as e:
            raise self._error(e) from e

    def geometry(self, selected: VolumeSlice | None) -> Geometry:
        """The size of the image's pixels, and the sides of the body at its edges, as far as the file tells."""
        if selected is None:
            return Geometry()
        try:
            if self.kind == NIFTI:
                from ..files.nifti import NiftiFile
                file = NiftiFile(self.path, self.rules)
                plane = selected.plane or PLANES[0]
                view = SliceOrientation.from_affine(file.affine, file.shape, plane)
                return of_plane(file.affine, view, plane, file.is_oriented)
            if self.kind == SERIES:
                volume = self._volume(selected.plane, selected.volume, selected.window)
                if selected.plane is not None and volume.affine is not None:
                    return of_plane(volume.affine, volume.view, selected.plane)
                frame = volume.frame(selected.index)
            else:
                from ..files.dicom import DicomFile
                frame = Frame.of(DicomFile(self.path, self.rules, force=True), selected.index)
            return of_frame(frame.file.header, frame.spacing, frame.directions)
        except IMAGE_ERRORS:
            # A header that cannot be read says nothing of its place.
            return Geometry()

    def title(self, selected: VolumeSlice | None) -> str:
        """Returns the file name, with plane and index of a slice."""
        if selected is None or list(self.counts.values()) == [1]:
            return self.name
        series = f', volume {selected.volume}' if self.num_volumes > 1 else ''
        return f'{self.name}, {selected.plane or "frame"} {selected.index}{series}'

    def _fragment(self, selected: VolumeSlice | None) -> str:
        if selected is None:
            return ''
        options: dict[str, str | int] = {'frame': selected.index}
        if self.kind == NIFTI:
            options = {'plane': selected.plane or PLANES[0], 'index': selected.index, 'volume': selected.volume}
        if selected.window is not None and self.has_window:
            options['window'] = selected.window
        return urlencode(options)

    def _error(self, error: Exception) -> UploadError:
        return _upload_error(self.path, self.name, error)


def _upload_error(path: str, name: str, error: Exception) -> UploadError:
    """An error that names a file as the user does."""
    message = str(unreadable_file(name, 'The file', error, 'image-file'))
    return UploadError(message.replace(path, name))


def _upload_rules(rules: FileRules) -> FileRules:
    """Uploads do not lie in the folder of the datasets."""
    return replace(rules, data_root=None, image_dir=None)


def series_of(path: str, rules: FileRules) -> str | None:
    """The series of a single-frame DICOM file; None for other files and for files without a SeriesInstanceUID.

    Raises:
        UploadError: The file cannot be read.
    """
    try:
        if medical_format(path) != DICOM:
            return None
        from ..files.dicom import DicomFile
        file = DicomFile(path, _upload_rules(rules), force=True)
    except IMAGE_ERRORS as e:
        raise _upload_error(path, os.path.basename(path), e) from e
    uid = file.header.get('SeriesInstanceUID')
    return f'{uid} {file.size}' if uid and file.num_frames == 1 else None


def unpacked(path: str) -> str | None:
    """Unpacks a ZIP file with a DICOM series beside it. Returns the folder; None for another file.

    Raises:
        UploadError: The archive is damaged, too large, or has no DICOM file.
    """
    if not zipfile.is_zipfile(path):
        return None
    name, folder = os.path.basename(path), f'{path}.files'
    os.mkdir(folder)
    left = _MAX_UNPACKED
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir() and entry.file_size]
            if len(entries) > _MAX_ENTRIES:
                raise UploadError(
                    f'{name}: it has {len(entries):,} files, more than {_MAX_ENTRIES:,}. Upload the files of '
                    'one series.')
            for number, entry in enumerate(entries):
                # Not under its own name, which may point anywhere.
                target = os.path.join(folder, f'{number:05}')
                with archive.open(entry) as source, open(target, 'wb') as out:
                    while part := source.read(1 << 20):
                        left -= len(part)
                        if left < 0:
                            raise UploadError(f'{name}: it unpacks to more than {_MAX_UNPACKED >> 30} GiB. Upload the '
                                              'files of one series.')
                        out.write(part)
                if medical_format(target) != DICOM:
                    os.remove(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        raise UploadError(
            f'{name}: the ZIP file cannot be read ({type(e).__name__}). Upload the files themselves.') from e
    if not os.listdir(folder):
        raise UploadError(f'{name}: the ZIP file has no DICOM file. Upload the images themselves.')
    return folder
