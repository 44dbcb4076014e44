"""Which action the standard asks of an element: DICOM PS3.15, table E.1-1, from the package dicom-anonymizer."""
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module

from ...settings import SettingError

# Actions of the table. Those with a choice are decided so that a valid header stays valid: X/Z empties, others replace.
REMOVE, EMPTY, REPLACE, UID = 'remove', 'empty', 'replace', 'uid'
_ACTIONS = {
    'X_TAGS': REMOVE,
    'Z_TAGS': EMPTY,
    'X_Z_TAGS': EMPTY,
    'U_TAGS': UID,
    **dict.fromkeys(('D_TAGS', 'Z_D_TAGS', 'X_D_TAGS', 'X_Z_D_TAGS', 'X_Z_U_STAR_TAGS'), REPLACE),
}
EDITION = '2026c'

# Options of section E.3, by name: code and meaning (CID 7050), and the keywords of the elements that they speak of.
# Descriptions are cleaned by the rules for texts; the others stay as they are.
OPTIONS: Mapping[str, tuple[str, str, frozenset[str]]] = {
    'descriptors': ('113105', 'Clean Descriptors Option', frozenset((
        'AcquisitionComments AcquisitionContextSequence AcquisitionDeviceProcessingDescription '
        'AcquisitionProtocolDescription AdditionalPatientHistory AdmittingDiagnosesDescription Allergies '
        'CommentsOnRadiationDose CommentsOnThePerformedProcedureStep ContrastBolusAgent ContributionDescription '
        'DerivationDescription DeviceSettingDescription DischargeDiagnosisDescription FrameComments '
        'IdentifyingComments ImageComments ImagePresentationComments ImagingServiceRequestComments Impressions '
        'InterpretationDiagnosisDescription InterpretationText LabelText MedicalAlerts Occupation '
        'PatientComments PatientState PerformedProcedureStepDescription PreMedication '
        'ProtocolName ReasonForRequestedProcedureCodeSequence '
        'ReasonForStudy ReasonForTheImagingServiceRequest ReasonForTheRequestedProcedure ReasonForVisit '
        'RequestAttributesSequence RequestedContrastAgent RequestedProcedureComments RequestedProcedureDescription '
        'RequestedProcedureLocation RespiratoryMotionCompensationTechniqueDescription ResultsComments '
        'ScheduledProcedureStepDescription SeriesDescription ServiceEpisodeDescription SpecialNeeds StudyComments '
        'StudyDescription TextComments TextString UnformattedTextValue VisitComments').split())),
    'patient': ('113108', 'Retain Patient Characteristics Option', frozenset((
        'EthnicGroup PatientAge PatientSex PatientSexNeutered PatientSize PatientWeight PregnancyStatus '
        'SmokingStatus').split())),
    'device': ('113109', 'Retain Device Identity Option', frozenset((
        'CassetteID DetectorID DeviceSerialNumber DeviceUID GantryID GeneratorID ManufacturerDeviceIdentifier '
        'PerformedStationAETitle PerformedStationName PlateID SourceSerialNumber StationName '
        'TransducerIdentificationSequence XRaySourceID').split())),
    'institution': ('113112', 'Retain Institution Identity Option', frozenset((
        'InstitutionAddress InstitutionCodeSequence InstitutionName InstitutionalDepartmentName '
        'InstitutionalDepartmentTypeCodeSequence').split())),
    'uids': ('113110', 'Retain UIDs Option', frozenset()),
}  # yapf: disable


@lru_cache(1)
def _table() -> tuple[dict[tuple[int, int], str], list[tuple[tuple[int, int, int, int], str]]]:
    """Actions by tag, and by tag with a mask for groups that repeat."""
    try:
        module = import_module(f'dicomanonymizer.dicom_anonymization_databases.dicomfields_{EDITION}')
    except ImportError as error:
        raise SettingError("dicom-anonymizer is missing: pip install 'swift-citrusv[deid]'") from error
    single: dict[tuple[int, int], str] = {}
    masked: list[tuple[tuple[int, int, int, int], str]] = []
    for name, action in _ACTIONS.items():
        for tag in getattr(module, name):
            if len(tag) == 2:
                single[tag] = action
            else:
                masked.append((tag, action))
    return single, masked


@lru_cache(1 << 14)
def action_of(group: int, element: int) -> str:
    """The action for a tag; '' if the table does not have it."""
    single, masked = _table()
    found = single.get((group, element))
    if found is None:
        found = next((action for (of_group, of_element, groups, elements), action in masked
                      if (group ^ of_group) & groups == 0 and (element ^ of_element) & elements == 0), '')
    return found
