"""Downloads of masks without a browser: geometry of DICOM files, and zip files."""
import io
import numpy as np
import pydicom
import shutil
import zipfile
from PIL import Image
from support import scans
from support.page import mask_result
from support.requests_with_images import picture

from swift_citrusv.app.downloads import make_download
from swift_citrusv.app.texts import CHINESE
from swift_citrusv.app.uploads import VolumeSlice
from swift_citrusv.app.view import legend_html
from swift_citrusv.files.rules import FileRules


def test_dicom_masks_have_the_geometry_of_the_image(session, tmp_path):
    source = scans.shipped(scans.CT)
    shutil.copy(source, tmp_path / 'ct.dcm')
    assert not session.set_files([str(tmp_path / 'ct.dcm')], FileRules(data_root='/nowhere'))
    assert session.pending[0].title == 'ct.dcm'
    session.select_slice(VolumeSlice(0, window='bone'))
    assert len(session.pending) == 1
    session.ask('Segment the bone.')
    height, width = session.images[0].size[::-1]
    array = np.zeros((height, width), np.uint8)
    array[10:30, 40:90] = 1
    turn = session.turns[0]
    turn.masks, turn.state = (mask_result(array), mask_result(np.zeros_like(array))), 'done'
    (tmp_path / 'labels.nii.gz').write_bytes(make_download(session, turn, 'nifti', {1}, 0.35).content)
    saved = scans.read_nifti(tmp_path / 'labels.nii.gz')
    np.testing.assert_array_equal(np.asarray(saved.dataobj)[:, :, 0].T, array)
    header = pydicom.dcmread(source)
    # LPS to RAS+.
    np.testing.assert_allclose(saved.affine[:2, 3], -np.array(header.ImagePositionPatient[:2], float), atol=1e-3)
    assert CHINESE.empty_mask in legend_html(session, turn, CHINESE)


def test_masks_on_several_images_are_zipped(session, tmp_path):
    sizes = [(40, 30), (20, 50)]
    paths = [str(tmp_path / f'{i}.png') for i in range(2)]
    for path, size in zip(paths, sizes):
        picture(1, *size).save(path)
    session.set_files(paths, FileRules())
    session.ask('Segment the cell in both.')
    turn = session.turns[0]
    arrays = [np.zeros(size[::-1], np.uint8) for size in (sizes[1], sizes[0], sizes[1])]
    for i, array in enumerate(arrays):
        array[i:i + 5, 2:9] = 1
    turn.masks = tuple(mask_result(array, image_index=index) for array, index in zip(arrays, (1, 0, 1)))
    file = make_download(session, turn, 'png', {1, 2, 3}, 0.35)
    assert file.name == 'masks_png.zip'
    with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
        assert archive.namelist() == ['1_0_labels.png', '2_1_labels.png']
        first, second = (np.array(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist())
    np.testing.assert_array_equal(first, 2 * arrays[1])
    np.testing.assert_array_equal(second, np.where(arrays[2] > 0, 3, arrays[0]))
