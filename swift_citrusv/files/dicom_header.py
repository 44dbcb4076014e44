"""What DICOM headers say, where pydicom refuses or needs help."""
import math
from collections.abc import MutableSequence
from typing import Any

_VALUE_ERRORS = (ValueError, TypeError, OverflowError, NotImplementedError)


def numbers(item: Any, name: str) -> list[float]:
    """The values of an element of numbers; NaN for those that are none.

    Args:
        item: A pydicom `Dataset`.
        name: The element's keyword.

    Returns:
        A float for each value; [] if the element is absent or empty.
    """
    try:
        value = item.get(name)
    except _VALUE_ERRORS:
        # pydicom refuses a list with one invalid number as a whole.
        value = raw_text(item, name)
    if value is None or value == '':
        return []
    if isinstance(value, str):
        value = value.split('\\')
    values = value if isinstance(value, (list, tuple, MutableSequence)) else [value]
    return [_number(entry) for entry in values]


def _number(value: Any) -> float:
    try:
        return float(value)
    except _VALUE_ERRORS:
        return math.nan


def raw_text(item: Any, name: str) -> str:
    """The text of an element as it stands in the file, also where pydicom cannot convert it."""
    value = getattr(item.get_item(name), 'value', '')
    return value.decode('ascii', 'replace').strip(' \0') if isinstance(value, bytes) else str(value)


def object_kind(header: Any) -> str:
    """What a DICOM object without an image is, in words that follow 'it'."""
    uid = header.get('SOPClassUID') or getattr(header, 'file_meta', {}).get('MediaStorageSOPClassUID')
    name = str(getattr(uid, 'name', '') or '').removesuffix(' Storage')
    # pydicom names an unknown UID by itself.
    if not name or name[0].isdigit():
        return 'has no Rows, and may be no DICOM file'
    what = f'is a DICOM object of the kind {name}'
    return f'{what}, but has no Rows' if 'Image' in name else what


def with_syntax(dataset: Any) -> Any:
    """A whole dataset with the transfer syntax that its file lacks: that in which pydicom could read it.

    Source: DICOM PS3.5, section 10.1: without a statement, data is not compressed.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
    if not hasattr(dataset, 'file_meta'):
        dataset.file_meta = FileMetaDataset()
    if not dataset.file_meta.get('TransferSyntaxUID'):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def pixels_lack_vr(stream: Any) -> bool:
    """Whether the element of the pixel data begins without a VR, as some do in an explicit file too.

    Args:
        stream: The content of a DICOM file; left at this element.
    """
    from pydicom import dcmread
    stream.seek(0)
    dcmread(stream, stop_before_pixels=True, force=True)
    start = stream.tell()
    head = stream.read(6)
    stream.seek(start)
    return head[4:] not in (b'OB', b'OW', b'UN')
