"""DICOM and NIfTI images by name: fragments, rules, settings, Python objects, label maps and fuzzed files."""
import gzip
import nibabel
import numpy as np
import os
import pickle
import pydicom
import pytest
import sys
from pathlib import Path
from PIL import Image
from pydicom.dataset import Dataset
from support.medical_images import RULES, close, grey, rejected
from support.scans import CT, bare_meta, item, nifti, shipped

from swift_citrusv.files.errors import IMAGE_ERRORS, FileError
from swift_citrusv.files.images import open_image, open_label_map, to_rgb
from swift_citrusv.files.rules import FileRules, file_rules
from swift_citrusv.files.windowing import Window
from swift_citrusv.settings import SettingError

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:pydicom')


def test_names_with_fragments(tmp_path, monkeypatch):
    scan = nifti(tmp_path / 'scan.nii.gz', np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    monkeypatch.chdir(tmp_path)
    assert close(grey('scan.nii.gz#index=2'), grey(f'{scan}#plane=axial&index=2'))
    for wrong in ('index=x', 'index=-1', 'index=1&index=2', 'frame=1', 'plane=side&index=1', 'index',
                  'index=1&window=z', 'index=1&window=', 'index=99999999999', '&&'):
        error = rejected(f'scan.nii.gz#{wrong}')
        assert error.kind in ('image-fragment', 'image-window'), wrong
    # A file with exactly this name takes precedence.
    Image.new('RGB', (9, 8)).save('b.png')
    os.rename('b.png', 'scan.nii.gz#index=2')
    assert open_image('scan.nii.gz#index=2', RULES).size == (9, 8)
    Image.new('RGB', (9, 8)).save('a#index=1.png')
    assert open_image('a#index=1.png', RULES).size == (9, 8)
    assert rejected('a#index=1.png#index=2').kind == 'image-fragment'
    with pytest.raises(FileNotFoundError):
        open_image('missing.nii.gz#index=2', RULES)
    # data_root applies to the file, whatever the fragment.
    (tmp_path / 'root').mkdir()
    rules = FileRules(data_root=str(tmp_path / 'root'))
    assert rejected('../scan.nii.gz#index=3', rules).kind == 'outside-root'
    os.rename(scan, tmp_path / 'root' / 'scan.nii.gz')
    assert open_image('scan.nii.gz#index=3', rules).size == (3, 4)


def test_headers_that_claim_too_much(tmp_path):
    small = FileRules(max_pixels=1000, max_voxels=5000)
    for kind, reference in (('too-many-pixels', shipped(CT)),
                            ('too-many-pixels', nifti(tmp_path / 'a.nii', np.zeros(
                                (18, 18, 18), np.int8))), ('too-many-pixels',
                                                           nifti(tmp_path / 'b.nii', np.zeros((60, 60, 1), np.int8)))):
        error = rejected(reference, small)
        assert error.kind == kind and 'Cut' in error.remedy, reference
    # 30,000 cubed voxels in a few bytes, and data that start far beyond the end.
    header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int8), np.eye(4)).header
    header['dim'][1:4] = 30_000
    block = bytearray(header.binaryblock) + bytes(4)
    block[344:348] = b'n+1\0'
    (tmp_path / 'c.nii.gz').write_bytes(gzip.compress(bytes(block)))
    assert 'claims 27000000000000 voxels' in str(rejected(f'{tmp_path / "c.nii.gz"}#index=1'))
    header['dim'][1:4], header['vox_offset'] = 4, 1e12
    block = bytearray(header.binaryblock) + bytes(4)
    block[344:348] = b'n+1\0'
    (tmp_path / 'd.nii.gz').write_bytes(gzip.compress(bytes(block)))
    assert rejected(f'{tmp_path / "d.nii.gz"}#index=1').kind == 'too-many-pixels'


def test_settings(tmp_path, monkeypatch):
    monkeypatch.setenv('CITRUSV_IMAGE_WINDOW', 'lung')
    assert close(grey(shipped(CT), file_rules()), grey(f'{shipped(CT)}#window=lung'))
    monkeypatch.setenv('CITRUSV_IMAGE_WINDOW', '1,2,3')
    with pytest.raises(SettingError, match="image_window='1,2,3'.*soft_tissue"):
        file_rules()
    monkeypatch.setenv('CITRUSV_IMAGE_WINDOW', '40,400')
    monkeypatch.setenv('CITRUSV_MAX_VOLUME_VOXELS', '59')
    path = nifti(tmp_path / 'a.nii', np.zeros((3, 4, 5), np.int16))
    assert rejected(f'{path}#index=1', file_rules()).kind == 'too-many-pixels'


def test_without_the_packages(tmp_path, monkeypatch):
    path = nifti(tmp_path / 'a.nii', np.zeros((3, 4, 5), np.int16))
    for name, reference in (('pydicom', shipped(CT)), ('nibabel', f'{path}#index=1')):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            error = rejected(reference)
            assert error.kind == 'medical-extra' and name in str(error)
            assert "pip install 'swift-citrusv[medical]'" in error.remedy


def test_open_images_can_be_pickled_and_copied(tmp_path):
    """For use in other processes, and by code that expects PIL images."""
    image = open_image(f'{shipped(CT)}#window=bone', RULES)
    assert image.size == (128, 128) and image.format == 'DICOM'
    expected = grey(f'{shipped(CT)}#window=bone')
    other = pickle.loads(pickle.dumps(open_image(f'{shipped(CT)}#window=bone', RULES)))
    assert close(np.array(other)[..., 0], expected) and close(np.array(image.copy())[..., 0], expected)
    shrunk = open_image(f'{shipped(CT)}#window=bone', RULES).resize((64, 64))
    assert close(np.array(shrunk), np.array(image.resize((64, 64))))
    # An image that cannot be read raises the same error again.
    broken = open_image(shipped('MR_truncated.dcm'), RULES)
    for _ in range(2):
        with pytest.raises(FileError):
            broken.load()


def test_python_objects():
    data = pydicom.dcmread(shipped(CT))
    assert close(grey(data), grey(shipped(CT)))
    values = data.pixel_array.astype(float) - 1024
    assert close(grey(values), grey(shipped(CT)), 1)
    assert rejected(Dataset()).kind == 'no-image'
    built = item(Rows=2, Columns=3, SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2', BitsAllocated=8)
    built.update(item(BitsStored=8, HighBit=7, PixelRepresentation=0, WindowCenter=100, WindowWidth=200))
    built.PixelData, built.file_meta = bytes(range(0, 240, 40)), bare_meta()
    assert close(grey(built), Window(100, 200, 'LINEAR').apply(np.arange(0, 240, 40).reshape(2, 3)))
    with pytest.raises(TypeError, match='not a file name'):
        open_image(object(), RULES)


def test_label_maps_keep_their_values(tmp_path):
    labels = np.random.default_rng(0).integers(0, 300, (4, 5, 6))
    for dtype in (np.int16, np.float32, np.int64):
        path = nifti(tmp_path / 'a.nii', labels.astype(dtype))
        with open_label_map(f'{path}#index=2') as image:
            assert image.mode == 'I' and close(np.asarray(image), labels[::-1, ::-1, 2].T)
    seg = pydicom.dcmread(shipped('liver_1frame.dcm')).pixel_array
    assert close(np.asarray(open_label_map(shipped('liver_1frame.dcm'))), seg) and seg.any()
    for reference in (f'{nifti(tmp_path / "b.nii", labels / 7)}#index=1', shipped('examples_rgb_color.dcm')):
        with pytest.raises(FileError, match='labels'):
            np.asarray(open_label_map(reference))


def test_fuzzed_files_are_errors_or_images(tmp_path):
    """With changed and missing bytes, each file is an image within the rules or one of `IMAGE_ERRORS`."""
    rng = np.random.default_rng(0)
    rules = FileRules(max_pixels=200_000, max_voxels=200_000)
    data = rng.integers(0, 900, (6, 7, 8)).astype(np.int16)
    sources = [(path, Path(path).read_bytes(), fragment)
               for path, fragment in ((shipped(CT), ''), (shipped('MR_small_RLE.dcm'), '#frame=0&window=40,400'),
                                      (shipped('MR_small_jp2klossless.dcm'),
                                       ''), (shipped('SC_rgb_jpeg_dcmtk.dcm'), ''), (nifti(tmp_path / 'a.nii', data),
                                                                                     '#plane=coronal&index=2'),
                                      (nifti(tmp_path / 'b.nii.gz', data), '#index=2'))]
    outcomes = {'image': 0, 'error': 0}
    for number in range(360):
        path, content, fragment = sources[number % len(sources)]
        broken = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            # Half of the changes are in the header.
            start = int(rng.integers(0, min(len(broken), (len(broken), 700)[number % 2])))
            broken[start:start + 2] = rng.bytes(2)
        if number % 5 == 0:
            broken = broken[:rng.integers(1, len(broken))]
        fuzzed = tmp_path / f'fuzzed{Path(path).suffix}'
        fuzzed.write_bytes(broken)
        try:
            image = to_rgb(open_image(f'{fuzzed}{fragment}', rules))
            assert image.width * image.height <= rules.max_pixels
            outcomes['image'] += 1
        except IMAGE_ERRORS as e:
            assert not isinstance(e, AssertionError), e
            outcomes['error'] += 1
    assert min(outcomes.values()) > 50, outcomes
