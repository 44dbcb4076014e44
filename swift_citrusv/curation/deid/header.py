"""Takes identities out of a DICOM header: PS3.15, basic profile with options, at every depth of sequences."""
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .actions import EMPTY, OPTIONS, REMOVE, REPLACE, UID, action_of
from .pseudonyms import Pseudonyms
from .text import Finding, TextCleaner, longest_first, names_of

_TEXTS = ('LO', 'LT', 'SH', 'ST', 'UC', 'UT')
_DATES = ('DA', 'DT')
# Dates and times of birth are no dates of a study.
_BIRTH = ('PatientBirthDate', 'PatientBirthTime', 'PatientBirthDateInAlternativeCalendar')
# What stands in the place of a value that must not be empty. Source: PS3.5, table 6.2-1.
_DUMMIES: dict[str, Any] = {
    **dict.fromkeys((*_TEXTS, 'AE', 'CS'), 'ANONYMIZED'),
    **dict.fromkeys(('DS', 'IS'), '0'),
    **dict.fromkeys(('FD', 'FL'), 0.),
    **dict.fromkeys(('SL', 'SS', 'SV', 'UL', 'US', 'UV'), 0),
    'AS': '000Y',
    'DA': '00010101',
    'DT': '00010101000000',
    'PN': 'ANONYMOUS',
    'TM': '000000',
    'UR': 'http://anonymized.invalid',
}
# Numbers of a patient or a study, and names of places: sought in texts as they are. A place of one short word may be a
# word of any text.
_NUMBERS = ('PatientID', 'OtherPatientIDs', 'AccessionNumber', 'AdmissionID', 'StudyID', 'PatientTelephoneNumbers',
            'PatientBirthDate', 'IssuerOfPatientID', 'RequestedProcedureID', 'MedicalRecordLocator')
_PLACES = ('InstitutionName', 'InstitutionAddress', 'PatientAddress')
# The shortest number that is sought, so that a StudyID of '1' is not, and the shortest place of one word.
_MIN_NUMBER, _MIN_PLACE = 4, 8
# PS3.16, CID 7050.
_BASIC = ('113100', 'Basic Application Confidentiality Profile')
_PIXELS = ('113101', 'Clean Pixel Data Option')
_DATES_MOVED = ('113107', 'Retain Longitudinal Temporal Information Modified Dates Option')
_CONTENT = ('113104', 'Clean Structured Content Option')
_OLDEST = 89


@dataclass
class HeaderResult:
    """What was done to a header.

    Attributes:
        actions: Elements by action: 'remove', 'empty', 'replace', 'uid', 'date', 'private', 'text', 'age'.
        findings: What was found in texts.
    """
    actions: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def identities_of(dataset: Any) -> tuple[str, ...]:
    """The words that must not stand in any text of the patient: names and numbers of all persons of a header."""
    names, numbers = [], []
    for element in _walk(dataset):
        if element.VR == 'PN':
            names += [str(value) for value in _values(element)]
        elif element.keyword in _NUMBERS:
            numbers += [str(value).strip() for value in _values(element)]
        elif element.keyword in _PLACES:
            numbers += [place for value in _values(element) if ' ' in (place := str(value).strip())
                        or len(place) >= _MIN_PLACE]  # yapf: disable
    return longest_first({*names_of(names), *(number for number in numbers if len(number) >= _MIN_NUMBER)})


def _walk(dataset: Any) -> Iterator[Any]:
    for element in _elements(dataset):
        if element.VR == 'SQ':
            for item in element.value:
                yield from _walk(item)
        else:
            yield element


def _elements(dataset: Any) -> list[Any]:
    """The elements of a dataset; those whose value pydicom cannot convert are removed."""
    found = []
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            # Conversion happens on access.
            assert element.value is not NotImplemented
            found.append(element)
        except Exception:  # noqa: B902, what converters of pydicom raise is not documented
            del dataset[tag]
    return found


def _values(element: Any) -> list[Any]:
    value = element.value
    return [] if value is None else list(value) if element.VM > 1 or hasattr(value, 'append') else [value]


def _set(element: Any, values: Sequence[Any]) -> None:
    element.value = list(values) if len(values) > 1 else values[0] if values else None


class HeaderCleaner:
    """Cleans headers.

    Args:
        pseudonyms: For UIDs, patients and dates.
        texts: For the descriptions.
        keep: The names of `OPTIONS` that are used.
        moves_dates: Whether dates are moved; else they go.
    """

    def __init__(self, pseudonyms: Pseudonyms, texts: TextCleaner, keep: Sequence[str] = (),
                 moves_dates: bool = True) -> None:  # yapf: disable
        self._pseudonyms, self._texts = pseudonyms, texts
        self._keeps = {name: OPTIONS[name][2] for name in keep}
        self._moves_dates = moves_dates

    def clean(self, dataset: Any) -> HeaderResult:
        """Cleans a dataset in place, with its file meta information; not the pixels.

        Args:
            dataset: A pydicom `Dataset`.
        """
        result = HeaderResult()
        known = identities_of(dataset)
        patient = str(dataset.get('PatientID') or dataset.get('PatientName') or dataset.get('StudyInstanceUID') or '')
        self._dataset(dataset, result, known, self._pseudonyms.days(patient))
        pseudonym = self._pseudonyms.patient(patient)
        dataset.PatientID = dataset.PatientName = pseudonym
        self._meta(dataset)
        self._say(dataset)
        return result

    def _dataset(self, dataset: Any, result: HeaderResult, known: Sequence[str], days: int) -> None:
        for tag in list(dataset.keys()):
            # Lengths of groups, too: they are no longer right, and retired.
            if tag.is_private or tag.element == 0:
                del dataset[tag]
                result.actions['private'] += 1
        for element in _elements(dataset):
            self._element(dataset, element, result, known, days)

    def _element(self, dataset: Any, element: Any, result: HeaderResult, known: Sequence[str], days: int) -> None:
        keyword, action = element.keyword, action_of(element.tag.group, element.tag.element)
        if element.VR in _DATES and keyword not in _BIRTH and self._moves_dates:
            self._move(element, days)
            result.actions['date'] += 1
            return
        if element.VR == 'TM' and keyword not in _BIRTH and self._moves_dates:
            return
        if keyword == 'PatientID':
            element.value = self._pseudonyms.patient(str(element.value or ''))
            result.actions[REPLACE] += 1
            return
        if action and any(keyword in names for name, names in self._keeps.items() if name != 'descriptors'):
            if keyword == 'PatientAge' and _years(str(element.value)) > _OLDEST:
                # Source: HIPAA, 45 CFR 164.514(b)(2)(i)(C).
                element.value = '090Y'
                result.actions['age'] += 1
            return
        if action and keyword in self._keeps.get('descriptors', ()):
            action = ''
        if element.VR == 'UI' and action in ('', UID, REPLACE):
            self._uid(element, result)
        elif action == REMOVE:
            del dataset[element.tag]
        elif element.VR == 'SQ' and action != EMPTY:
            for item in element.value:
                self._dataset(item, result, known, days)
        elif action == EMPTY:
            element.value = [] if element.VR == 'SQ' else None
        elif action == REPLACE:
            self._replace(element)
        elif not action:
            self._other(dataset, element, result, known)
            return
        if action:
            result.actions[action] += 1

    def _other(self, dataset: Any, element: Any, result: HeaderResult, known: Sequence[str]) -> None:
        """An element that the table does not have."""
        if element.VR == 'PN':
            element.value = _DUMMIES['PN']
            result.actions[REPLACE] += 1
        elif element.VR == 'UN':
            # It may hold anything.
            del dataset[element.tag]
            result.actions[REMOVE] += 1
        elif element.VR in _TEXTS:
            values = []
            for value in _values(element):
                text, findings = self._texts.clean(str(value), known)
                # It is replaced, and no words of a doctor are lost with it.
                findings = [item._replace(is_sure=True) for item in findings]
                values.append(text[:64] if element.VR == 'LO' else text[:16] if element.VR == 'SH' else text)
                result.findings += findings
            if values != [str(value) for value in _values(element)]:
                _set(element, values)
                result.actions['text'] += 1

    def _uid(self, element: Any, result: HeaderResult) -> None:
        if 'uids' in self._keeps:
            return
        values = [self._pseudonyms.uid(str(value)) for value in _values(element)]
        if values and values != [str(value) for value in _values(element)]:
            _set(element, values)
            result.actions[UID] += 1

    def _move(self, element: Any, days: int) -> None:
        _set(element, [self._pseudonyms.shifted(str(value), days) for value in _values(element)])

    @staticmethod
    def _replace(element: Any) -> None:
        if element.VR not in _DUMMIES:
            # Bytes.
            element.value = b'\0\0'
        elif element.value not in (None, ''):
            element.value = _DUMMIES[element.VR]

    def _meta(self, dataset: Any) -> None:
        from pydicom.dataset import FileMetaDataset
        old, meta = getattr(dataset, 'file_meta', None) or FileMetaDataset(), FileMetaDataset()
        if old.get('TransferSyntaxUID'):
            meta.TransferSyntaxUID = old.TransferSyntaxUID
        for name in ('SOPClassUID', 'SOPInstanceUID'):
            value = dataset.get(name) or old.get(f'MediaStorage{name}')
            if value:
                is_mapped = name == 'SOPInstanceUID' and name not in dataset and 'uids' not in self._keeps
                setattr(meta, f'MediaStorage{name}', self._pseudonyms.uid(str(value)) if is_mapped else value)
        dataset.file_meta = meta
        # What else the first 128 bytes hold is another file.
        dataset.preamble = bytes(128)

    def _say(self, dataset: Any) -> None:
        """Says what was done. Source: PS3.15, section E.1.1."""
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence as Items
        codes = [_BASIC, *([_DATES_MOVED] if self._moves_dates else []),
                 *(OPTIONS[name][:2] for name in OPTIONS if name in self._keeps),
                 *([_CONTENT] if 'ContentSequence' in dataset else []),
                 *([_PIXELS] if 'Rows' in dataset else [])]  # yapf: disable
        dataset.PatientIdentityRemoved = 'YES'
        dataset.LongitudinalTemporalInformationModified = 'MODIFIED' if self._moves_dates else 'REMOVED'
        dataset.DeidentificationMethod = 'swift-citrusv data deid'
        items = []
        for value, meaning in codes:
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, 'DCM', meaning[:64]
            items.append(item)
        dataset.DeidentificationMethodCodeSequence = Items(items)


def _years(age: str) -> int:
    found = re.fullmatch(r'(\d{1,3})Y', age.strip())
    return int(found[1]) if found else 0
