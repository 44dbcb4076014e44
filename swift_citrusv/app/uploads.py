"""Files that users of the page upload: pictures, and volumes, of which they choose a slice."""
import os
from dataclasses import dataclass, replace
from PIL import Image
from urllib.parse import urlencode

from ..files.errors import IMAGE_ERRORS, unreadable
from ..files.images import open_image, to_rgb
from ..files.medical import DICOM, NIFTI, kind_of
from ..files.rules import FileRules
from ..files.slices import PLANES, PlaneView


class UploadError(ValueError):
    """A file that cannot be used; the text is for who uploaded it."""


@dataclass(frozen=True)
class Cut:
    """A slice of a volume, and how it is shown.

    Attributes:
        index: The slice, or the frame of a DICOM file, from 0.
        plane: Of a NIfTI volume: see `planes`.
        volume: Which volume of several, from 0.
        window: As `windows.FORMS`; None: that of the run.
    """
    index: int
    plane: str | None = None
    volume: int = 0
    window: str | None = None


class Upload:
    """A file, of which the header has been read.

    Args:
        path: Where it lies; its last part is the name that the user gave it.
        rules: What may be opened. The folder that bounds data sets does not bound uploads.

    Attributes:
        name: The user's.
        rules: As given, without that bound.
        kind: 'DICOM', 'NIFTI', or None for other images.
        counts: Of DICOM and NIfTI, the number of slices by plane; a DICOM file's plane is None.
        num_volumes: Of a NIfTI file.
        has_window: Whether its values need a window.

    Raises:
        UploadError: It cannot be read.
    """

    def __init__(self, path: str, rules: FileRules) -> None:
        self.path, self.name = path, os.path.basename(path)
        self.rules = replace(rules, data_root=None, image_dir=None)
        self.counts: dict[str | None, int] = {}
        self.num_volumes = 1
        self.has_window = False
        try:
            self.kind = kind_of(path)
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
        self.counts = {plane: len(PlaneView.of(file.affine, file.shape, plane)) for plane in PLANES}
        self.num_volumes = file.num_volumes
        self.has_window = not file.colours

    def middle(self) -> Cut | None:
        """The slice to begin with; None of an ordinary image."""
        if self.kind is None:
            return None
        plane, count = next(iter(self.counts.items()))
        return Cut(count // 2, plane)

    def open(self, cut: Cut | None) -> Image.Image:
        """The picture that the model sees, RGB.

        Raises:
            UploadError: It cannot be decoded, or the window does not fit it.
        """
        fragment = self._fragment(cut)
        try:
            return to_rgb(open_image(f'{self.path}#{fragment}' if fragment else self.path, self.rules))
        except IMAGE_ERRORS as e:
            raise self._error(e) from e

    def title(self, cut: Cut | None) -> str:
        """The name, with the slice."""
        if cut is None or list(self.counts.values()) == [1]:
            return self.name
        series = f', volume {cut.volume}' if self.num_volumes > 1 else ''
        return f'{self.name}, {cut.plane or "frame"} {cut.index}{series}'

    def _fragment(self, cut: Cut | None) -> str:
        if cut is None:
            return ''
        asked: dict[str, str | int] = {'frame': cut.index}
        if self.kind == NIFTI:
            asked = {'plane': cut.plane or PLANES[0], 'index': cut.index, 'volume': cut.volume}
        if cut.window is not None and self.has_window:
            asked['window'] = cut.window
        return urlencode(asked)

    def _error(self, error: Exception) -> UploadError:
        told = str(unreadable(self.name, 'The file', error, 'image-file'))
        return UploadError(told.replace(self.path, self.name))
