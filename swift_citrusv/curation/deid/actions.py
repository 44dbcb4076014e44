"""Which action the standard asks of an element: DICOM PS3.15, table E.1-1, from the package dicom-anonymizer."""
from collections.abc import Mapping
from functools import lru_cache

from ...files.errors import import_medical

# Actions of the table; those with a choice are decided so that a header that was valid stays so: X/Z empties, the others
# replace.
REMOVE, EMPTY, REPLACE, UID = 'remove', 'empty', 'replace', 'uid'
_ACTIONS = {'X_TAGS': REMOVE, 'Z_TAGS': EMPTY, 'D_TAGS': REPLACE, 'U_TAGS': UID, 'X_Z_TAGS': EMPTY,
            'Z_D_TAGS': REPLACE, 'X_D_TAGS': REPLACE, 'X_Z_D_TAGS': REPLACE, 'X_Z_U_STAR_TAGS': REPLACE}  # yapf: disable
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
    module = import_medical(f'dicomanonymizer.dicom_anonymization_databases.dicomfields_{EDITION}')
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
        found = next((action for tag, action in masked
                      if group & tag[2] == tag[0] & tag[2] and element & tag[3] == tag[1] & tag[3]), '')  # yapf: disable
    return found
