"""The proof: invented identities are planted, everything runs, and a second engine reads again."""
import dataclasses
import numpy as np
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from PIL import Image, ImageDraw, ImageFont
from typing import Any

from ...scoring.html_report.markup import escaped, html_table
from ..data_files import FILES, write_json
from ..progress import Progress
from .clean import FileCleaner, Options
from .image_file import texts_left
from .invented import Inventor
from .ocr import reader

_SEED = 20250914
# Survivors that are named.
_MAX_NAMED = 20
_SIDES = (360, 900)


@dataclass(frozen=True)
class ProveTask:
    """Plants identities, cleans what has them, and counts what is left.

    Attributes:
        options: As for the run.
        count: Headers, images, and sentences of each kind.
        folder: The work folder.
    """
    options: Options
    count: int
    folder: str

    def __call__(self, index: int) -> None:
        top = os.path.join(self.folder, 'planted')
        shutil.rmtree(top, ignore_errors=True)
        os.makedirs(os.path.join(top, 'in'))
        planted: Counter[str] = Counter()
        survived: Counter[str] = Counter()
        named: list[dict[str, str]] = []
        progress = Progress(self.folder, 'planted', 'all')

        def count(kind: str, is_left: bool, text: str) -> None:
            planted[kind] += 1
            if is_left:
                survived[kind] += 1
                if len(named) < _MAX_NAMED:
                    named.append({'kind': kind, 'text': text})

        # The first engine alone: what it misses, the second one counts.
        cleaner = FileCleaner(dataclasses.replace(self.options, proves=False, engines=self.options.engines[:1]), top)
        for number in range(self.count):
            inventor = Inventor(_SEED + number)
            _sentences(inventor, cleaner, count)
            _header(inventor, cleaner, top, number, count)
            if self.options.engines:
                self._image(inventor, cleaner, top, number, count)
            progress.add()
        shutil.rmtree(top)
        write_json(os.path.join(self.folder, 'proof.json'), {
            'planted': dict(planted),
            'survived': {kind: survived[kind] for kind in planted},
            'survivors': named, 'engines': list(self.options.engines)})  # yapf: disable
        progress.end()

    def _image(self, inventor: Inventor, cleaner: FileCleaner, top: str, number: int, count: Callable[[str, bool, str],
                                                                                                      None]) -> None:
        """An image with burned-in lines, read again by both engines."""
        path = os.path.join(top, 'in', f'{number}.png')
        lines = inventor.burned()
        draw_image(lines, number).save(path)
        result = cleaner.clean(path)
        output = os.path.join(top, FILES, result.name)
        for engine in self.options.engines:
            left = texts_left(output, self.options.rules.is_allowed, reader(engine).read)
            count(f'pixels, read by {engine}', bool(left), ' | '.join(left))


def _sentences(inventor: Inventor, cleaner: FileCleaner, count: Callable[[str, bool, str], None]) -> None:
    for item in inventor.planted():
        text, _ = cleaner.texts.clean(item.text)
        count(f'text, {item.kind}', item.identity in text, item.identity)
        count('text that must stay', item.rest not in text, item.rest)


def _header(inventor: Inventor, cleaner: FileCleaner, top: str, number: int, count: Callable[[str, bool, str],
                                                                                             None]) -> None:
    path = os.path.join(top, 'in', f'{number}.dcm')
    hidden = write_header(path, inventor)
    result = cleaner.clean(path)
    with open(os.path.join(top, FILES, result.name), 'rb') as file:
        content = file.read()
    for kind, text in hidden:
        count(f'header, {kind}', text.encode('utf-8') in content or text.upper().encode('utf-8') in content, text)


def draw_image(lines: list[str], seed: int) -> Image.Image:
    """An image with lines at random places, of random sizes, bright on dark or dark on bright, on noise and shapes.

    Args:
        lines: The lines.
        seed: The same seed gives the same image.
    """
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(*_SIDES, 2))
    is_dark = bool(rng.random() < .75)
    ground = rng.normal(30 if is_dark else 215, 8, (height, width))
    y, x = np.mgrid[:height, :width]
    radius = .35 * min(height, width)
    inside = (y - height / 2)**2 + (x - width / 2)**2 < radius**2
    ground[inside] += (1 if is_dark else -1) * (60 + 25 * np.sin(x / 17)[inside] * np.cos(y / 23)[inside])
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8)).convert('RGB')
    draw = ImageDraw.Draw(image)
    place = int(rng.integers(4, 20))
    for line in lines:
        size = int(rng.integers(12, 30))
        font = ImageFont.load_default(size)
        length = int(draw.textlength(line, font))
        left = int(rng.integers(2, max(width - length - 2, 3)))
        colour = (255, 255, int(rng.integers(120, 256))) if is_dark else (0, 0, int(rng.integers(0, 120)))
        draw.text((left, place), line, colour, font)
        place += size + int(rng.integers(8, max(9, (height - place) // len(lines))))
        if place > height - 34:
            place = 4
    return image


def write_header(path: str, inventor: Inventor) -> list[tuple[str, str]]:
    """Writes a DICOM file whose header has invented identities at every depth; returns (kind, text) of each."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    patient, doctor, nurse, year = inventor.name(), inventor.name(), inventor.name(), inventor.day()
    record, accession, phone = inventor.record(), inventor.digits(9), f'555-{inventor.digits(4)}'
    day = f'{year[0]}{year[1]:02d}{year[2]:02d}'
    street = f'{inventor.digits(3)} Larkfield Road'
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = '1.2.840.10008.5.1.4.1.1.7'
    uids = [generate_uid(entropy_srcs=[record, kind]) for kind in ('study', 'series', 'instance', 'other')]
    data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID = uids[:3]
    data.SpecificCharacterSet = 'ISO_IR 192'
    data.PatientName = '^'.join(reversed(patient.split()))
    data.PatientID, data.AccessionNumber, data.StudyDate, data.PatientBirthDate = record, accession, day, day
    data.ReferringPhysicianName = '^'.join(reversed(doctor.split()))
    data.OperatorsName = '^'.join(reversed(nurse.split()))
    data.PatientTelephoneNumbers, data.PatientAddress = phone, street
    data.StudyDescription = f'CT CHEST for {patient}'
    data.ImageComments = f'Seen by Dr. {doctor}; MRN {record}; call (415) {phone}'
    data.SeriesDescription = f'AXIAL {record}'
    data.ManufacturerModelName = f'Scanner of {patient.split()[1]}'
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.PatientID = uids[3], record
    item.StudyDate = day
    data.SourceImageSequence = Sequence([item])
    text = Dataset()
    text.ValueType, text.TextValue = 'TEXT', f'{patient} was seen by Dr. {doctor} on {year[1]}/{year[2]}/{year[0]}'
    data.ContentSequence = Sequence([text])
    block = data.private_block(0x0029, 'ACME 1.0', create=True)
    block.add_new(0x01, 'LO', patient)
    data.Rows = data.Columns = 8
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 7, 0, 1
    data.PhotometricInterpretation = 'MONOCHROME2'
    data.PixelData = bytes(64)
    data.save_as(path, enforce_file_format=True)
    return [*(('name', word) for name in (patient, doctor, nurse) for word in name.split()),
            ('number', record), ('number', accession), ('phone', phone), ('address', street), ('date', day),
            *(('uid', uid) for uid in uids)]  # yapf: disable


def html_of(proof: Mapping[str, Any]) -> str:
    """The section of the report."""
    rows = [[escaped(kind), f'{count:,}', f'{proof["survived"][kind]:,}'] for kind, count in proof['planted'].items()]
    named = ''.join(f'<p>{escaped(item["kind"])}: {escaped(item["text"])}</p>' for item in proof['survivors'])
    return ('<p>Invented identities were planted in texts, headers and pixels, and all was cleaned as the rows of this '
            f'run. What is left:</p>{html_table("What survived", ["kind", "planted", "survived"], rows)}{named}')
