"""Completes the headers of source images, so that a DICOM segmentation can refer to them.

De-identified, converted and old files lack attributes that a segmentation must have, or have values that DICOM does not
allow. What is missing gets a value that says nothing about the patient; the caller's headers stay unchanged.
"""
import re
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import Any

# Attributes of the patient and study modules that must exist and may be empty.
_MAY_BE_EMPTY = ('PatientID', 'PatientName', 'PatientBirthDate', 'PatientSex', 'AccessionNumber', 'StudyID',
                 'StudyDate', 'StudyTime')
# Their values have a syntax, which readers and highdicom insist on.
_CHECKED_VRS = frozenset({'AS', 'CS', 'DA', 'DS', 'DT', 'IS', 'TM', 'UI'})
_SEXES = ('', 'M', 'F', 'O')
_DATE = re.compile(r'(\d{4})[./-]?(\d{2})[./-]?(\d{2})')
_TIME = re.compile(r'(\d{2}):?(\d{2}):?(\d{2})(\.\d{1,6})?')
# The storage classes of what has none, by Modality; else Secondary Capture.
_CLASSES = {
    'CT': '1.2.840.10008.5.1.4.1.1.2',
    'MR': '1.2.840.10008.5.1.4.1.1.4',
    'PT': '1.2.840.10008.5.1.4.1.1.128',
    'CR': '1.2.840.10008.5.1.4.1.1.1',
    'US': '1.2.840.10008.5.1.4.1.1.6.1',
}
_SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7'
# Groups of pixels, and of private and empty elements, are not a segmentation's.
_PIXEL_GROUP = 0x7fe0
_NEW_UIDS = {
    'StudyInstanceUID': 'StudyInstanceUID was missing; a new one is derived from the series',
    'SeriesInstanceUID': 'SeriesInstanceUID was missing; a new one is derived from the images',
    'FrameOfReferenceUID': 'FrameOfReferenceUID was missing; a new one is derived from the series, so viewers may not '
                           'overlay the masks on other series of the study',
}  # yapf: disable
_SHARED, _PER_FRAME = 'SharedFunctionalGroupsSequence', 'PerFrameFunctionalGroupsSequence'
_GEOMETRY = ('PixelMeasuresSequence', 'PlaneOrientationSequence')


def complete_sources(sources: Sequence[Any], slice_distance: float | None = None) -> tuple[list[Any], list[str]]:
    """The headers of a series, completed.

    Args:
        sources: The pydicom datasets of the images, in the order of the slices, or the one with all frames.
        slice_distance: Millimetres between slices, where known; for a missing SliceThickness.

    Returns:
        New datasets without pixels, and for each kind of change a sentence. The sentences name attributes, and no
        values: a wrong value may be the patient's.
    """
    notes: Counter[str] = Counter()
    completed = [_valid_copy(source, notes) for source in sources]
    for data in completed:
        for name in _MAY_BE_EMPTY:
            if name not in data:
                setattr(data, name, '')
                notes[f'{name} was missing and is empty'] += 1
        if str(data.PatientSex) not in _SEXES:
            data.PatientSex = ''
            notes['PatientSex was not M, F or O and is empty'] += 1
    _complete_uids(completed, notes)
    for data in completed:
        _complete_class(data, notes)
        _correct_distances(data, slice_distance, notes)
        _share_geometry(data, notes)
    return completed, [
        f'{text}.' if count in (1, len(completed)) else f'{text} (in {count} of {len(completed)} images).'
        for text, count in notes.items()
    ]


def select_frames(data: Any, frames: Sequence[int]) -> None:
    """Leaves only these frames, counted from 0, in a completed header of an image with several."""
    groups = data.get(_PER_FRAME)
    if groups:
        setattr(data, _PER_FRAME, [groups[number] for number in frames])
    data.NumberOfFrames = len(frames)


def _valid_copy(source: Any, notes: Counter[str]) -> Any:
    """A copy without pixels, private elements and values that break the syntax of their kind."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian
    copied = Dataset()
    for tag in source.keys():
        if tag.group >= _PIXEL_GROUP or tag.is_private:
            continue
        try:
            element = source[tag]
        except (ValueError, TypeError, OverflowError, NotImplementedError):
            notes[f'{_keyword(tag)} was not valid and is left out'] += 1
            continue
        if element.VR in _CHECKED_VRS:
            values = _texts(element)
            if not all(map(_checker(element.VR), values)):
                corrected = _corrected(element.VR, values)
                if corrected is not None:
                    notes[f'{element.keyword} was not written as DICOM requires, and is now'] += 1
                    copied.add_new(tag, element.VR, corrected)
                elif element.keyword in _MAY_BE_EMPTY:
                    notes[f'{element.keyword} was not valid and is empty'] += 1
                    copied.add_new(tag, element.VR, '')
                else:
                    notes[f'{_keyword(tag)} was not valid and is left out'] += 1
                continue
        # Setting a value changes the element itself.
        copied[tag] = deepcopy(element) if element.VR == 'SQ' else copy(element)
    copied.file_meta = FileMetaDataset()
    copied.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return copied


def _keyword(tag: Any) -> str:
    from pydicom.datadict import keyword_for_tag
    return keyword_for_tag(tag) or f'({tag.group:04x},{tag.element:04x})'


def _texts(element: Any) -> list[str]:
    value = element.value
    if value is None or value == '':
        return []
    values = value if isinstance(value, (list, tuple)) or hasattr(value, 'append') else [value]
    # What pydicom has converted (DS, IS) prints as it was.
    return [str(getattr(entry, 'original_string', entry)) for entry in values]


def _checker(vr: str) -> Callable[[str], bool]:
    from pydicom.config import RAISE
    from pydicom.valuerep import DA, TM, validate_value

    def is_valid(text: str) -> bool:
        try:
            validate_value(vr, text, RAISE)
            # The pattern alone allows the 31st of February.
            if vr in ('DA', 'TM') and text:
                (DA if vr == 'DA' else TM)(text)
        except ValueError:
            return False
        return True

    return is_valid


def _corrected(vr: str, values: list[str]) -> str | None:
    """A date or time with the separators of other notations, as DICOM writes it; None for anything else."""
    pattern = {'DA': _DATE, 'TM': _TIME}.get(vr)
    match = pattern.fullmatch(values[0].strip()) if pattern is not None and len(values) == 1 else None
    text = ''.join(part or '' for part in match.groups()) if match else ''
    return text if text and _checker(vr)(text) else None


# ---- UIDs


def _complete_uids(sources: list[Any], notes: Counter[str]) -> None:
    """Derives UIDs that are missing, always the same ones for the same series."""
    from pydicom.uid import generate_uid
    first = sources[0]
    base = [str(first.get(name) or '') for name in ('SeriesInstanceUID', 'StudyInstanceUID', 'SOPInstanceUID')]
    if not any(base):
        # Nothing identifies the series: its geometry does as well as anything.
        base += [str(data.get('ImagePositionPatient') or data.get('InstanceNumber') or '') for data in sources]
    names = ['StudyInstanceUID', 'SeriesInstanceUID']
    if any(_has_place(data) for data in sources):
        names.append('FrameOfReferenceUID')
    for name in names:
        present = Counter(str(data.get(name)) for data in sources if data.get(name))
        uid = present.most_common(1)[0][0] if present else generate_uid(entropy_srcs=[name, *base])
        for data in sources:
            if not data.get(name):
                setattr(data, name, uid)
                notes[_NEW_UIDS[name] if not present else f'{name} was missing, and is that of the other images'] += 1
    seen: set[str] = set()
    for number, data in enumerate(sources):
        uid = str(data.get('SOPInstanceUID') or '')
        if not uid or uid in seen:
            notes[
                'SOPInstanceUID was missing or not unique; a new one is derived, so viewers cannot match these images '
                'by it, only by position'] += 1
            uid = generate_uid(entropy_srcs=['SOPInstanceUID', *base, str(number)])
            data.SOPInstanceUID = uid
        seen.add(uid)


def _has_place(data: Any) -> bool:
    return 'ImagePositionPatient' in data or _PER_FRAME in data


def _complete_class(data: Any, notes: Counter[str]) -> None:
    from pydicom.uid import UID
    uid = UID(str(data.get('SOPClassUID') or ''))
    if uid.type != 'SOP Class' or not uid.name.endswith('Storage'):
        data.SOPClassUID = _CLASSES.get(str(data.get('Modality')), _SECONDARY_CAPTURE)
        notes['SOPClassUID was missing or unknown, and is that of the modality'] += 1


# ---- geometry


def _correct_distances(data: Any, slice_distance: float | None, notes: Counter[str]) -> None:
    """SliceThickness, which may be empty in an image and not in a segmentation, and the distance between slices."""
    places = [] if _PER_FRAME in data else [data]
    for groups in (*(data.get(_SHARED) or ()), *(data.get(_PER_FRAME) or ())):
        places += list(groups.get('PixelMeasuresSequence') or ())
    for place in places:
        stated = place.get('SpacingBetweenSlices')
        if stated is not None and slice_distance and abs(float(stated) - slice_distance) > .01 * slice_distance:
            place.SpacingBetweenSlices = _decimal(slice_distance)
            notes['SpacingBetweenSlices contradicted the positions, and is the distance between them'] += 1
        elif stated is not None and float(stated) <= 0:
            del place.SpacingBetweenSlices
            notes['SpacingBetweenSlices was not above 0 and is left out'] += 1
        if not place.get('SliceThickness') or float(place.SliceThickness) <= 0:
            known = place.get('SpacingBetweenSlices') or slice_distance
            place.SliceThickness = _decimal(abs(float(known or 1)))
            value = 'the distance between slices' if known else '1 mm'
            notes[f'SliceThickness was missing, and is {value}'] += 1


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat
    return DSfloat(value, auto_format=True)


def _share_geometry(data: Any, notes: Counter[str]) -> None:
    """Moves spacing and orientation that each frame repeats to the groups of all frames, where highdicom reads them."""
    frames = data.get(_PER_FRAME)
    if not frames:
        return
    from pydicom import Dataset, Sequence
    if not data.get(_SHARED):
        setattr(data, _SHARED, Sequence([Dataset()]))
    shared = data[_SHARED].value[0]
    for name in _GEOMETRY:
        values = [frame.get(name) for frame in frames]
        if not shared.get(name) and all(values) and all(value[0] == values[0][0] for value in values):
            setattr(shared, name, values[0])
            notes[f'{name} stands in each frame, and is the same in all of them'] += 1
