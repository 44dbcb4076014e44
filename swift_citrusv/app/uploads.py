"""Uploaded files: images, and volumes of which the user selects a slice."""
import os
from dataclasses import dataclass, replace
from PIL import Image
from urllib.parse import urlencode

from ..files.errors import IMAGE_ERRORS, unreadable_file
from ..files.images import open_image, to_rgb
from ..files.medical import DICOM, NIFTI, medical_format
from ..files.rules import FileRules
from ..files.slices import PLANES, SliceOrientation


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
        path: The file, under the user's file name.
        rules: Which files may be opened. `data_root`, the folder of the datasets, does not apply to uploads.

    Attributes:
        name: The user's file name.
        rules: The given rules without `data_root` and `image_dir`.
        kind: 'DICOM', 'NIFTI', or None for other images.
        counts: Number of slices by plane, for DICOM (plane None) and NIfTI.
        num_volumes: Number of volumes in a NIfTI file.
        has_window: Whether a window maps its values to grey levels.

    Raises:
        UploadError: The file cannot be read.
    """

    def __init__(self, path: str, rules: FileRules) -> None:
        self.path, self.name = path, os.path.basename(path)
        self.rules = replace(rules, data_root=None, image_dir=None)
        self.counts: dict[str | None, int] = {}
        self.num_volumes = 1
        self.has_window = False
        try:
            self.kind = medical_format(path)
            if self.kind == DICOM:
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

    def _read_nifti(self) -> None:
        from ..files.nifti import NiftiFile
        file = NiftiFile(self.path, self.rules)
        self.counts = {plane: len(SliceOrientation.from_affine(file.affine, file.shape, plane)) for plane in PLANES}
        self.num_volumes = file.num_volumes
        self.has_window = not file.colours

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
            return to_rgb(open_image(f'{self.path}#{fragment}' if fragment else self.path, self.rules))
        except IMAGE_ERRORS as e:
            raise self._error(e) from e

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
        message = str(unreadable_file(self.name, 'The file', error, 'image-file'))
        return UploadError(message.replace(self.path, self.name))
