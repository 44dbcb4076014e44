"""Rows with DICOM and NIfTI images and masks: in training, in the length pass and in `citrusv check-data`."""
import json
import nibabel
import numpy as np
import os
import pytest
from functools import partial
from PIL import Image
from support.medical_images import RULES, close
from support.rows import box_mask, rle, write_jsonl
from support.scans import MR, affine_of, dicom, nifti, read_nifti, shipped
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.errors import RowError
from swift_citrusv.files.images import open_image, to_rgb
from swift_citrusv.training.length_keys import row_key

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:pydicom')


@pytest.fixture
def rows(tmp_path) -> list[dict[str, Any]]:
    """Rows with slices of a volume whose label map is a volume too."""
    rng = np.random.default_rng(0)
    affine = affine_of(np.eye(3)[[2, 0, 1]], degrees=10)
    scan = nifti(tmp_path / 'scan.nii.gz', rng.integers(-900, 900, (60, 70, 90)).astype(np.int16), affine)
    labels = (rng.random((60, 70, 90)) * 4).astype(np.uint8)
    label_map = nifti(tmp_path / 'labels.nii.gz', labels, affine)
    ct, mask = dicom(tmp_path / 'ct.dcm'), rle(box_mask((128, 128), (20, 30, 90, 100)))

    def row(question: str, answer: str, **columns: Any) -> dict[str, Any]:
        return {
            'messages': [{
                'role': 'user',
                'content': question
            }, {
                'role': 'assistant',
                'content': answer
            }],
            **columns
        }

    return [
        row('<image>Segment the bone.', 'Bone: [SEG].', images=[f'{ct}#window=bone'], masks=[mask]),
        row('<image>What?',
            'Bone: [SEG].',
            images=[f'{scan}#plane=coronal&index=11'],
            masks=[{
                'path': f'{label_map}#plane=coronal&index=11',
                'label': 3
            }]),
        row('<image><image>What?',
            'A: [SEG]. B: [SEG].',
            images=[{
                'path': f'{scan}#plane=sagittal&index=20&window=lung'
            }, {
                'path': ct
            }],
            masks=[{
                'path': f'{label_map}#plane=sagittal&index=20'
            }, mask],
            mask_images=[0, 1]),
        row('<video>What moves?', 'Nothing.', videos=[[f'{scan}#index={i}' for i in (3, 4)]]),
    ]


def test_rows_from_headers_and_from_pixels(rows, template, monkeypatch):
    """The length pass decodes no pixels and gives the lengths of training; masks fit the pixels that they label."""
    from swift_citrusv.encoding.row_length import measure
    from swift_citrusv.rows.masks import decode_mask, resize_mask
    numbered = [{**row, ROW_COLUMN: f'train.jsonl:{i}'} for i, row in enumerate(rows, 1)]
    encoded = [template.encode(dict(row), return_length=True) for row in numbered]
    folder = os.path.dirname(rows[0]['images'][0])
    canonical = nibabel.as_closest_canonical(read_nifti(os.path.join(folder, 'labels.nii.gz'))).get_fdata()
    mask = decode_mask(rows[1]['masks'][0], size=canonical.shape[2::-2], row='', position=0)
    assert close(mask, canonical[::-1, 11, ::-1].T == 3) and 0 < mask.mean() < 1
    assert close(encoded[1]['masks'][0, 0].numpy(), resize_mask(mask, encoded[1]['masks'].shape[-1]))
    side = encoded[1]['g_pixel_values'].shape[-1]
    shown = to_rgb(open_image(rows[1]['images'][0], RULES)).resize((side, side), Image.Resampling.BILINEAR)
    assert close(encoded[1]['g_pixel_values'][0].permute(1, 2, 0).numpy(), np.array(shown))
    for name in ('swift_citrusv.files.nifti.NiftiFile.values', 'swift_citrusv.files.dicom.DicomFile.pixels'):
        monkeypatch.setattr(name, lambda *args: pytest.fail('pixels were read'))
    for row, whole in zip(numbered, encoded):
        assert [piece.length for piece in measure(template, dict(row))] == [len(whole['input_ids'])]


def test_errors_name_the_row(rows, template, tmp_path, capsys):
    from swift_citrusv.encoding.row_length import measure
    scan = rows[1]['images'][0].partition('#')[0]
    broken = [
        ({
            **rows[1], 'images': [scan]
        }, 'image-fragment', 'has 70 axial slices|has 60 axial slices|has 90 axial slices'),
        ({
            **rows[1], 'images': [f'{scan}#plane=axial&index=11']
        }, 'mask-size', 'height, width'),
        ({
            **rows[0], 'images': [f'{shipped(MR)}#window=lung']
        }, 'image-window', 'modality is MR'),
        ({
            **rows[0], 'images': [f'{shipped("rtstruct.dcm")}']
        }, 'no-image', 'contains no image'),
    ]
    for row, kind, message in broken:
        row = {**row, ROW_COLUMN: 'train.jsonl:7'}
        for function in (template.encode, partial(measure, template)):
            with pytest.raises(RowError, match=f'train.jsonl:7: .*(?:{message})') as error:
                function(dict(row))
            assert error.value.kind == kind and error.value.remedy
    path = write_jsonl(tmp_path / 'rows.jsonl', rows + [row for row, _, _ in broken])
    assert main(['check-data', path, '--json', str(tmp_path / 'report.json')]) == 1
    kinds = [failure['kind'] for failure in json.loads((tmp_path / 'report.json').read_text())['failures']]
    assert kinds == [kind for _, kind, _ in broken]
    assert main(['check-data', write_jsonl(tmp_path / 'good.jsonl', rows), '--pictures', str(tmp_path / 'out')]) == 0
    assert list((tmp_path / 'out').glob('*.png'))
    capsys.readouterr()


def test_cached_lengths_depend_on_the_file(rows, tmp_path):
    """Cached lengths depend on the file of a slice, and on its fragment."""
    row = rows[1]
    before = row_key(row)
    assert row_key(dict(row)) == before
    os.utime(row['images'][0].partition('#')[0], ns=(1, 1))
    changed = row_key(row)
    os.utime(row['masks'][0]['path'].partition('#')[0], ns=(1, 1))
    assert len({before, changed, row_key(row)}) == 3
    assert row_key({**row, 'images': [row['images'][0] + '&window=lung']}) not in (before, changed)
