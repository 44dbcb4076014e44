"""All DICOM files that ship inside installed packages: shown as an independent rendering shows them, or refused."""
import importlib.util
import math
import numpy as np
import pydicom
import pytest
from collections import Counter
from pathlib import Path
from support.medical_images import RULES
from typing import Any

from swift_citrusv.files.errors import FileError
from swift_citrusv.files.images import open_image, to_rgb
from swift_citrusv.files.medical import DICOM, medical_format

# What an error must say, by the end of the file's path. Files of these kinds have no image, or are broken.
CAUSES = {
    'palettes/*.dcm': 'no image: it has no Rows|Color Palette',
    'DICOMDIR*': 'Media Storage Directory|no Rows',
    'TINY_ALPHA/*/*/*/IM*': 'CT Image, but has no Rows',
    'ExplVR_*EndNoMeta.dcm': 'RT Ion Plan',
    'rtplan*.dcm': 'RT Plan',
    'rtstruct.dcm': 'RT Structure Set',
    'reportsi*.dcm': 'Basic Text SR',
    'test-SR.dcm': 'Comprehensive SR',
    'waveform_ecg.dcm': 'no image',
    'chrJapMulti*.dcm': 'no pixel data',
    'chrKoreanMulti.dcm': 'no pixel data',
    'chrSQEncoding*.dcm': 'MR Image, but has no Rows',
    'csa_slice_norm.dcm': 'no pixel data',
    'UN_sequence.dcm': 'CT Image, but has no Rows',
    'priv_SQ.dcm': 'MR Image, but has no Rows',
    'no_meta_group_length.dcm': 'RT Image, but has no Rows',
    'meta_missing_tsyntax.dcm': 'no Rows',
    'no_meta.dcm': 'no Rows',
    'nested_priv_SQ.dcm': 'no Rows',
    'empty_charset_LEI.dcm': 'no Rows',
    'MR_truncated.dcm': 'truncated',
    'badVR.dcm': "NumberOfFrames is '1A'",
    'GDCMJ2K_TextGBR.dcm': 'broken data stream',
    # A sequence delimiter stands where its JPEG 2000 code should have the width.
    'JPEG2000-embedded-sequence-delimiter.dcm': '3722445056',
}
# Their decoders are optional; the remedy names the package.
NO_DECODER = {'JPEG-LL.dcm', 'JPGLosslessP14SV1_1s_1f_8b.dcm', 'bad_sequence.dcm', 'JPEG-lossy.dcm', 'JPGExtended.dcm',
              'SC_rgb_jpeg_gdcm.dcm'}  # yapf: disable


def shipped_files() -> list[Path]:
    folders = [
        Path(spec.origin).parent for name in ('pydicom', 'data_store', 'deid_data', 'nibabel')
        if (spec := importlib.util.find_spec(name)) and spec.origin
    ]
    found = sorted(path for folder in folders for path in folder.rglob('*') if path.is_file())
    return [path for path in found if path.suffix not in ('.py', '.pyc') and medical_format(str(path)) == DICOM]


# ---- an independent rendering


def table_of(descriptor: Any, data: Any, big: bool) -> tuple[int, np.ndarray, int]:
    count, first, bits = descriptor[0] or 65536, int(descriptor[1]), int(descriptor[2])
    if isinstance(data, bytes):
        kind = ('>' if big else '<') + 'u2' if len(data) >= 2 * count else 'u1'
        data = np.frombuffer(data, kind)
    return first, np.asarray(data)[:count].astype(float), bits


def looked_up(values: np.ndarray, table: tuple[int, np.ndarray, int]) -> np.ndarray:
    first, entries, _ = table
    out = np.empty(values.shape)
    for value in np.unique(values):
        out[values == value] = entries[int(min(max(value - first, 0), len(entries) - 1))]
    return out


def float_of(value: Any) -> float:
    value = value[0] if isinstance(value, pydicom.multival.MultiValue) and len(value) else value
    return float(value) if value not in (None, '', []) and not hasattr(value, '__len__') else math.nan


def groups_of(data: Any, frame: int, sequence: str) -> Any:
    own = list(data.get('PerFrameFunctionalGroupsSequence') or [])[frame:frame + 1]
    for groups in (*own, *list(data.get('SharedFunctionalGroupsSequence') or [])[:1]):
        if groups.get(sequence):
            return groups[sequence].value[0]
    return data


def rendered(path: Path, frame: int) -> np.ndarray:
    """Grey values or RGB as DICOM PS3.3, C.11 has them, float [h, w] or [h, w, 3] from 0 to 255."""
    frames = int(pydicom.dcmread(path, stop_before_pixels=True, force=True).get('NumberOfFrames') or 1)
    # (pydicom cannot read one of the files as a whole.)
    data = pydicom.dcmread(path, stop_before_pixels=frames > 1, force=True)
    if 'TransferSyntaxUID' not in getattr(data, 'file_meta', {}):
        data.ensure_file_meta()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    if frames > 1:
        with path.open('rb') as file:
            stored = pydicom.pixels.pixel_array(file, index=frame)
    else:
        stored = data.pixel_array
    big = str(data.file_meta.TransferSyntaxUID) == '1.2.840.10008.1.2.2'
    photometric = data.PhotometricInterpretation
    if photometric == 'PALETTE COLOR':
        if 'RedPaletteColorLookupTableData' not in data:
            return (pydicom.pixels.apply_color_lut(stored, data)[..., :3] >> 8).astype(float)
        tables = [
            table_of(data[f'{name}PaletteColorLookupTableDescriptor'].value,
                     data[f'{name}PaletteColorLookupTableData'].value, big) for name in ('Red', 'Green', 'Blue')
        ]
        wide = any(entries.max() > 255 for _, entries, _ in tables)
        return np.stack([looked_up(stored, table) // (256 if wide else 1) for table in tables], -1)
    if not photometric.startswith('MONOCHROME'):
        return (stored >> max(0, data.BitsStored - 8)).astype(float)
    transform = groups_of(data, frame, 'PixelValueTransformationSequence')
    if data.get('ModalityLUTSequence'):
        lut = data.ModalityLUTSequence[0]
        values = looked_up(stored, table_of(lut.LUTDescriptor, lut.LUTData, big))
    else:
        slope, intercept = float_of(transform.get('RescaleSlope')), float_of(transform.get('RescaleIntercept'))
        values = stored.astype(float)
        if not math.isnan(slope) and not math.isnan(intercept):
            values = values * slope + intercept
    voi = groups_of(data, frame, 'FrameVOILUTSequence')
    centre, width = float_of(voi.get('WindowCenter')), float_of(voi.get('WindowWidth'))
    if voi.get('VOILUTSequence'):
        lut = voi.VOILUTSequence[0]
        table = table_of(lut.LUTDescriptor, lut.LUTData, big)
        grey = looked_up(np.rint(values), table) / (2**table[2] - 1)
    elif not math.isnan(centre) and width >= 1:
        assert voi.get('VOILUTFunction', 'LINEAR') == 'LINEAR'
        # C.11.2.1.2.1, with output from 0 to 1.
        with np.errstate(divide='ignore', invalid='ignore'):
            grey = (values - (centre - .5)) / (width - 1) + .5
        grey = np.where(values <= centre - .5 - (width - 1) / 2, 0, grey)
        grey = np.where(values > centre - .5 + (width - 1) / 2, 1, grey)
    else:
        counted = values
        if data.get('PixelPaddingValue') is not None:
            ends = int(data.PixelPaddingValue), int(data.get('PixelPaddingRangeLimit', data.PixelPaddingValue))
            counted = values[(stored < min(ends)) | (stored > max(ends))]
        low, high = np.percentile(counted, (.5, 99.5)) if counted.size else (0, 0)
        if low == high and counted.size:
            low, high = counted.min(), counted.max()
        grey = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    grey = np.clip(grey, 0, 1) * 255
    return 255 - grey if photometric == 'MONOCHROME1' else grey


def problem_of(path: Path, counts: Counter[str]) -> str | None:
    """What is wrong with the way in which a file is shown or refused; None if nothing is."""
    cause = next((text for pattern, text in CAUSES.items() if path.match(pattern)), None)
    frames = [0]
    try:
        to_rgb(open_image(str(path), RULES))
        suffix = ''
    except FileError as e:
        if e.kind == 'image-fragment':
            # Several frames: one must be named.
            number = int(pydicom.dcmread(path, stop_before_pixels=True).NumberOfFrames)
            frames, suffix = [0, number - 1], '#frame={}'
        else:
            counts['refused'] += 1
            if path.name in NO_DECODER:
                return None if 'pip install' in e.remedy else f'no decoder is named: {e.remedy}'
            return None if cause and any(word in str(e) for word in cause.split('|')) else f'{e} (expected {cause})'
    if cause:
        return f'shown, though it should be refused: {cause}'
    for frame in frames:
        shown = np.asarray(to_rgb(open_image(str(path) + suffix.format(frame), RULES))).astype(float)
        expected = rendered(path, frame)
        shown = shown[..., 0] if expected.ndim == 2 else shown
        if shown.shape != expected.shape:
            return f'shape {shown.shape}, expected {expected.shape}'
        off = float(np.abs(shown - expected).max())
        if off > .5 + 1e-6:
            return f'frame {frame} is off by {off:.2f} grey, mean {shown.mean():.1f} for {expected.mean():.1f}'
        counts['shown'] += 1
    return None


def test_every_shipped_file(capsys):
    files = shipped_files()
    for name, package in (('data_store', 'pydicom-data'), ('deid_data', 'deid-data')):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f'{package} is not installed')
    counts: Counter[str] = Counter()
    problems = {str(path): problem for path in files if (problem := problem_of(path, counts))}
    with capsys.disabled():
        print(f'{len(files)} DICOM files: {counts["shown"]} images as rendered, {counts["refused"]} files refused')
    assert not problems, '\n'.join(f'{path}: {problem}' for path, problem in problems.items())
    assert len(files) > 270 and counts['shown'] > 160
