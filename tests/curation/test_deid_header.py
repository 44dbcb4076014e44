"""DICOM headers by PS3.15: every element of the table, at every depth; planted sets; what stays."""
import numpy as np
import pydicom
import pytest
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from support import scans
from typing import Any

from swift_citrusv.curation.deid.actions import EMPTY, OPTIONS, REMOVE, REPLACE, UID, action_of
from swift_citrusv.curation.deid.header import HeaderCleaner
from swift_citrusv.curation.deid.invented import Inventor
from swift_citrusv.curation.deid.prove import write_header
from swift_citrusv.curation.deid.pseudonyms import Pseudonyms
from swift_citrusv.curation.deid.text import TextCleaner, read_rules
from swift_citrusv.package_files import templates_dir

KEY = b'a key of the tests'
TEXTS = TextCleaner(read_rules(str(templates_dir() / 'deid_rules.yaml')))
# A value of each representation that tells of somebody.
VALUES: dict[str, Any] = {
    **dict.fromkeys(('LO', 'LT', 'SH', 'ST', 'UC', 'UT'), 'Secretly'),
    **dict.fromkeys(('SL', 'SS', 'UL', 'US'), 77),
    **dict.fromkeys(('FD', 'FL'), 77.5),
    **dict.fromkeys(('OB', 'OF', 'OW', 'UN'), b'SECRET77'),
    'AE': 'SECRETAE', 'AS': '054Y', 'CS': 'SECRET', 'DA': '20210314', 'DS': '77.5', 'DT': '20210314101500', 'IS': '77',
    'PN': 'SECRETLY^JOHN', 'TM': '101500', 'UI': '1.2.3.77', 'UR': 'http://secret.example'}  # yapf: disable


def _cleaner(*keep: str, moves: bool = True) -> HeaderCleaner:
    return HeaderCleaner(Pseudonyms(KEY), TEXTS, keep, moves)


def _dataset(**tags: Any) -> Dataset:
    data = Dataset()
    data.PatientID = '4711'
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def _table() -> list[int]:
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
    tags = [tag for tag in table.ALL_TAGS if len(tag) == 2 and keyword_for_tag(tag)]
    return [group << 16 | element for group, element in tags]


def test_every_element_of_the_table_is_treated_at_every_depth():
    """Against the table read by itself: removed, empty, another value, another UID, a moved date."""
    tags = _table()
    assert len(tags) > 600
    wrong = []
    for depth in (0, 2):
        for tag in tags:
            if tag >> 16 == 2:
                continue
            vr = dictionary_VR(tag).split(' or ')[0]
            inner = Dataset()
            if vr == 'SQ':
                inner.add_new(tag, 'SQ', [_dataset(StudyDescription='Secretly', ReferencedSOPInstanceUID='1.2.3.77')])
            else:
                inner.add_new(tag, vr, VALUES[vr])
            data = inner
            for _ in range(depth):
                data, inner_data = Dataset(), data
                data.ReferencedSeriesSequence = Sequence([inner_data])
            _cleaner().clean(data)
            found: Any = data
            for _ in range(depth):
                found = found.ReferencedSeriesSequence[0]
            element = found.get(tag)
            if not _is_right(tag, vr, element):
                wrong.append((depth, keyword_for_tag(tag), vr, str(element)[:80]))
    assert not wrong


def _is_right(tag: int, vr: str, element: Any) -> bool:
    action = action_of(tag >> 16, tag & 0xffff)
    keyword = keyword_for_tag(tag)
    if keyword in ('PatientName', 'PatientID'):
        return str(element.value).startswith('P') or not element.value
    if keyword in ('PatientIdentityRemoved', 'DeidentificationMethodCodeSequence', 'DeidentificationMethod',
                   'LongitudinalTemporalInformationModified'):
        return True
    if vr in ('DA', 'DT') and not keyword.startswith('PatientBirth'):
        return element.value != VALUES[vr] and len(element.value) == len(VALUES[vr])
    if vr == 'TM' and not keyword.startswith('PatientBirth'):
        return element.value == VALUES['TM']
    if action == REMOVE:
        return element is None
    if action == EMPTY:
        return not element.value
    if vr == 'SQ':
        # Cleaned inside.
        return 'Secretly' not in str(element) and '1.2.3.77' not in str(element)
    assert action in (REPLACE, UID)
    return element.value not in (None, '') and element.value != VALUES[vr]


def test_options_keep_what_they_say():
    data = _dataset(PatientSex='F', PatientAge='095Y', PatientWeight='61', StudyDescription='CT CHEST for Jane Roe',
                    PatientName='ROE^JANE', InstitutionName='Mercy', DeviceSerialNumber='77', SOPInstanceUID='1.2.3',
                    ManufacturerModelName='Scanner', PatientBirthDate='19300101')  # yapf: disable
    _cleaner('descriptors', 'patient', 'device', 'institution', 'uids').clean(data)
    assert (data.PatientSex, data.PatientAge, data.PatientWeight) == ('F', '090Y', 61)
    assert data.StudyDescription == 'CT CHEST for [KNOWN-IDENTITY]'
    assert (data.InstitutionName, data.DeviceSerialNumber, data.SOPInstanceUID) == ('Mercy', '77', '1.2.3')
    assert not data.PatientBirthDate and data.ManufacturerModelName == 'Scanner'
    codes = {item.CodeValue for item in data.DeidentificationMethodCodeSequence}
    assert codes == {'113100', '113107', *(code for code, _, _ in OPTIONS.values())}
    bare = _dataset(PatientSex='F', StudyDescription='CT', InstitutionName='Mercy', SOPInstanceUID='1.2.3')
    _cleaner().clean(bare)
    assert not bare.PatientSex and 'StudyDescription' not in bare and bare.SOPInstanceUID.startswith('2.25.')


def test_dates_of_a_patient_move_by_the_same_days():
    """By whole weeks, in every file and element, so that intervals and weekdays stay; others move otherwise."""

    def dates(patient: str, *values: str) -> list[datetime]:
        data = _dataset(StudyDate=values[0], AcquisitionDateTime=f'{values[1]}120000.5', ReferencedDateTime=values[1])
        data.PatientID = patient
        _cleaner().clean(data)
        assert data.AcquisitionDateTime.endswith('120000.5')
        return [datetime.strptime(str(value)[:8], '%Y%m%d') for value in (data.StudyDate, data.AcquisitionDateTime,
                                                                          data.ReferencedDateTime)]  # yapf: disable

    first = dates('a', '20200229', '20200301')
    moved = (first[0] - datetime(2020, 2, 29)).days
    assert (first[1] - first[0]).days == 1 and first[1] == first[2]
    assert moved % 7 == 0 and -3660 < moved <= -30
    assert dates('a', '19991231', '20000101')[0] - datetime(1999, 12, 31) == first[0] - datetime(2020, 2, 29)
    assert dates('b', '20200229', '20200301')[0] != first[0]
    removed = _dataset(StudyDate='20200229', ContentDate='20200229')
    _cleaner(moves=False).clean(removed)
    assert removed.StudyDate in ('', None) and removed.ContentDate == '00010101'
    broken = _dataset(StudyDate='20209999')
    _cleaner().clean(broken)
    assert not broken.StudyDate


def test_uids_are_consistent_and_those_of_the_standard_stay():
    uid, frame = generate_uid(), generate_uid()
    one = _dataset(SOPInstanceUID=uid, FrameOfReferenceUID=frame, SOPClassUID='1.2.840.10008.5.1.4.1.1.2')
    other = _dataset(SourceImageSequence=Sequence([_dataset(ReferencedSOPInstanceUID=uid)]), FrameOfReferenceUID=frame)
    for data in (one, other):
        _cleaner().clean(data)
    assert other.SourceImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID != uid
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID != frame
    assert one.SOPClassUID == '1.2.840.10008.5.1.4.1.1.2' == one.file_meta.MediaStorageSOPClassUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID and len(one.SOPInstanceUID) <= 64
    assert HeaderCleaner(Pseudonyms(b'another key of the tests'), TEXTS)
    assert Pseudonyms(b'another key of the tests').uid(uid) != one.SOPInstanceUID


def test_planted_headers_keep_nothing(tmp_path):
    """Invented persons at every depth, in private elements, and in texts of elements that no table has."""
    for seed in range(40):
        path = tmp_path / f'{seed}.dcm'
        hidden = write_header(str(path), Inventor(seed))
        data = pydicom.dcmread(path)
        _cleaner('descriptors', 'patient').clean(data)
        data.save_as(path)
        content = path.read_bytes().decode('latin-1').casefold()
        left = [item for item in hidden if item[1].casefold() in content]
        assert not left, seed
        assert data.StudyDescription.startswith('CT CHEST for') and not any(tag.is_private for tag in data.keys())


def test_private_elements_and_old_lengths_go_at_every_depth():
    inner = _dataset()
    inner.private_block(0x0011, 'ACME', create=True).add_new(1, 'LO', 'Secretly')
    data = _dataset(ReferencedSeriesSequence=Sequence([inner]))
    data.private_block(0x0029, 'ACME', create=True).add_new(1, 'SQ', [_dataset()])
    data.add_new(0x00080000, 'UL', 12)
    data.preamble = b'MZ' + bytes(126)
    result = _cleaner().clean(data)
    assert result.actions['private'] == 5 and data.preamble == bytes(128)
    assert not any(tag.is_private for tag in [*data.keys(), *data.ReferencedSeriesSequence[0].keys()])
    assert 0x00080000 not in data


@pytest.mark.parametrize('name', ['CT_small.dcm', 'MR_small.dcm', 'rtplan.dcm', 'test-SR.dcm', 'JPEG2000.dcm',
                                  'SC_rgb.dcm', 'liver.dcm', 'ExplVR_BigEnd.dcm', 'image_dfl.dcm'])  # yapf: disable
def test_the_output_is_no_worse_than_the_input(tmp_path, name):
    """By `dciodvfy`, where it is installed (Debian: dicom3tools), and pydicom reads the pixels as they were."""
    before = scans.shipped(name)
    data = pydicom.dcmread(before)
    _cleaner('descriptors', 'patient').clean(data)
    data.save_as(tmp_path / 'out.dcm', enforce_file_format=True)
    again = pydicom.dcmread(tmp_path / 'out.dcm')
    assert again.PatientIdentityRemoved == 'YES'
    if 'PixelData' in again:
        assert np.array_equal(again.pixel_array, pydicom.dcmread(before).pixel_array)
    if shutil.which('dciodvfy') is None:
        pytest.skip('dciodvfy is not installed')
    new = _errors(tmp_path / 'out.dcm') - _errors(Path(before))
    assert not new


def _errors(path: Path) -> set[str]:
    shown = subprocess.run(['dciodvfy', str(path)], capture_output=True, text=True, errors='replace').stderr
    # UIDs are others.
    return {re.sub(r'[0-9]+(?:\.[0-9]+)+', 'UID', line) for line in shown.splitlines() if line.startswith('Error')}
