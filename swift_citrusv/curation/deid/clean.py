"""Cleans the files of rows, each once, whichever row or worker comes first."""
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ...errors import RowError
from ...files.dicom import dicom_errors
from ...files.errors import IMAGE_ERRORS, FileError
from ...files.medical import DICOM, NIFTI, medical_format
from ..data_files import FILES, read_json, whole_file, write_json
from ..inputs import sha256_of
from . import dicom_file, image_file
from .dicom_file import DicomCleaner
from .header import HeaderCleaner, identities_of
from .ocr import ENGINES, reader
from .pseudonyms import Pseudonyms
from .result import FileResult
from .text import DeidRules, TextCleaner


@dataclass(frozen=True)
class Options:
    """How identities are taken out.

    Attributes:
        rules: For texts, and for what may stay in images.
        key: The secret of pseudonyms.
        keep: Names of `actions.OPTIONS`.
        moves_dates: Whether dates move; else they go.
        engines: The OCR engines whose texts are blanked in pixels; () leaves pixels as they are.
        blanks_outside: Whether all that lies outside the regions of an ultrasound image goes.
        proves: Whether all engines read again what was written.
    """
    rules: DeidRules
    key: bytes
    keep: tuple[str, ...] = ()
    moves_dates: bool = True
    engines: tuple[str, ...] = ENGINES
    blanks_outside: bool = True
    proves: bool = False


class FileCleaner:
    """Cleans files into a folder.

    Args:
        options: The options.
        folder: The folder that `files/` lies in.
        tick: Called after each frame.
    """

    def __init__(self, options: Options, folder: str, tick: Callable[[], None] = lambda: None) -> None:
        self.pseudonyms, self._options, self._folder, self._tick = Pseudonyms(options.key), options, folder, tick
        self.texts = TextCleaner(options.rules)
        headers = HeaderCleaner(self.pseudonyms, self.texts, options.keep, options.moves_dates)
        self._dicom = DicomCleaner(headers, options.rules.is_allowed, options.engines, options.blanks_outside)
        self._labels = DicomCleaner(headers, options.rules.is_allowed, ())
        self._hash = lru_cache(1 << 16)(sha256_of)
        self.identities = lru_cache(1 << 12)(self._identities)

    def clean(self, path: str, are_labels: bool = False) -> FileResult:
        """Cleans a file, or finds what another row has made of it.

        Args:
            path: The file.
            are_labels: Whether it is a label map: text is not sought in it.

        Returns:
            What was done; `name` is where it lies.

        Raises:
            FileError: It cannot be cleaned (kind 'closed': not for certain; else it cannot be read).
        """
        kind = medical_format(path)
        name = self._name(path, kind, are_labels)
        record = os.path.join(self._folder, 'cleaned', f'{name}.json')
        if os.path.exists(record):
            return FileResult.from_json(read_json(record))
        target = os.path.join(self._folder, FILES, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            result = self._cleaned(path, target, kind, are_labels)
        except (*IMAGE_ERRORS, RowError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(str(error) or type(error).__name__, 'Repair or remove the file.', 'damaged') from error
        if self._options.proves and not are_labels and kind != NIFTI:
            left = dicom_file.texts_left if kind == DICOM else image_file.texts_left
            written = os.path.join(self._folder, FILES, result.name)
            result.left = sum(len(left(written, self._options.rules.is_allowed, reader(engine).read))
                              for engine in self._options.engines)  # yapf: disable
        write_json(record, result.as_json(), is_shared=True)
        return result

    def _cleaned(self, path: str, target: str, kind: str | None, are_labels: bool) -> FileResult:
        base = os.path.join(self._folder, FILES, '')
        if kind is None:
            result, extension = image_file.clean_image(path, target, self._options.rules.is_allowed,
                                                       () if are_labels else self._options.engines)  # yapf: disable
            result.name = f'{target}{extension}'.removeprefix(base)
            return result
        with whole_file(target, is_shared=True) as part:
            if kind == DICOM:
                result = (self._labels if are_labels else self._dicom).clean(path, part, self._tick)
            else:
                result = image_file.clean_nifti(path, part)
        result.name = target.removeprefix(base)
        return result

    def _name(self, path: str, kind: str | None, are_labels: bool) -> str:
        """The name of the cleaned file: that of its content, under its patient and series."""
        digest = self.pseudonyms.code('file', f'{self._hash(path)} {are_labels}')[1:].lower()
        if kind == DICOM:
            from pydicom import dcmread
            with dicom_errors():
                header = dcmread(path, stop_before_pixels=True, force=True,
                                 specific_tags=['PatientID', 'PatientName', 'SeriesInstanceUID'])  # yapf: disable
                patient = str(header.get('PatientID') or header.get('PatientName') or '')
                series = str(header.get('SeriesInstanceUID') or '')
            parts = [self.pseudonyms.patient(patient) or 'unknown', self.pseudonyms.code('series', series) or 'single']
            return os.path.join(*parts, f'{digest}.dcm')
        if kind == NIFTI:
            return os.path.join('volumes', digest[:2], f'{digest}.nii{".gz" if path.lower().endswith("gz") else ""}')
        return os.path.join('images', digest[:2], digest)

    @staticmethod
    def _identities(path: str) -> tuple[str, ...]:
        """The identities of a file's header, for the texts of its rows; () if it has none."""
        try:
            if medical_format(path) != DICOM:
                return ()
            from pydicom import dcmread
            with dicom_errors():
                return identities_of(dcmread(path, stop_before_pixels=True, force=True))
        except (*IMAGE_ERRORS, RowError):
            return ()
