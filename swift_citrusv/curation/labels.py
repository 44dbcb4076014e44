"""The labels of the paper's table 2, and other names of them."""
from collections.abc import Mapping

MODALITIES = ('Histopathology', 'CT', 'X-Ray', 'MRI', 'NIR', 'Ultrasound', 'Microscopy', 'OCT', 'Dermoscopy',
              'Photograph', 'Endoscopy', 'Fundus', 'Other')  # yapf: disable
TASKS = ('Examination Selection', 'Report Analysis', 'Prior Comparison', 'Modality Recognition', 'Organ Recognition',
         'Image Description', 'Report Generation', 'Lesion Localization', 'Differential Diagnosis',
         'Symptoms Inference', 'Treatment Generation', 'Treatment Selection', 'Treatment Details', 'Basic',
         'Other')  # yapf: disable
REGIONS = ('Abdomen', 'Chest', 'Brain', 'Neck', 'Cell', 'Lower Limb', 'Upper Limb', 'Oral Cavity', 'Eye', 'Breast',
           'Gastrointestinal Tract', 'Pelvis', 'Foot', 'Joint', 'Other')  # yapf: disable
# By dimension: the column of a row, and its labels.
LABELS: Mapping[str, tuple[str, ...]] = {'modality': MODALITIES, 'task': TASKS, 'region': REGIONS}
# Codes of DICOM (PS3.3, C.7.3.1.1.1) and names in use, in small letters.
_MODALITIES = {
    **dict.fromkeys(('cr', 'dx', 'mg', 'rf', 'xa', 'rg', 'io', 'px', 'xray', 'x ray', 'radiograph', 'radiography'),
                    'X-Ray'),
    **dict.fromkeys(('mr', 'magnetic resonance'), 'MRI'),
    **dict.fromkeys(('us', 'ivus', 'sonography', 'echo'), 'Ultrasound'),
    **dict.fromkeys(('sm', 'pathology', 'histology'), 'Histopathology'),
    **dict.fromkeys(('gm', ), 'Microscopy'),
    **dict.fromkeys(('es', 'colonoscopy'), 'Endoscopy'),
    **dict.fromkeys(('op', 'fundus photography', 'opf'), 'Fundus'),
    **dict.fromkeys(('opt', 'octa'), 'OCT'),
    **dict.fromkeys(('xc', 'photo'), 'Photograph'),
    **dict.fromkeys(('dermatoscopy', 'dms'), 'Dermoscopy'),
    **dict.fromkeys(('computed tomography', 'cbct'), 'CT'),
    **dict.fromkeys(('pt', 'nm', 'pet', 'ot', 'sc', 'ecg'), 'Other'),
}  # yapf: disable


def label_of(dimension: str, value: str) -> str | None:
    """The label that a value means; None if it means none.

    Args:
        dimension: 'modality', 'task' or 'region'.
        value: In any spelling; for modalities a code of DICOM, too.
    """
    plain = ' '.join(value.replace('_', ' ').replace('-', ' ').split()).casefold()
    for label in LABELS[dimension]:
        if label.replace('-', ' ').casefold() == plain:
            return label
    return _MODALITIES.get(plain) if dimension == 'modality' else None
