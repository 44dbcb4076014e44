"""Files of other formats are recognised, and the command of each remedy converts them."""
import gzip
import nibabel
import numpy as np
import pytest
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from support.medical_images import rejected
from support.scans import CT, shipped

from swift_citrusv.volumes.volume import Volume

sitk = pytest.importorskip('SimpleITK')


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """Name -> (a file, what the error calls it)."""
    folder = tmp_path_factory.mktemp('formats')
    values = np.random.default_rng(0).integers(0, 99, (7, 6, 5)).astype(np.int16)
    affine = np.diag([2., 2., 3., 1.])
    image = sitk.GetImageFromArray(values.T)
    image.SetSpacing((2., 2., 3.))
    found = {}
    for name, what in (('a.nrrd', 'NRRD'), ('b.nhdr', 'NRRD'), ('c.mha', 'MetaImage'), ('d.mhd', 'MetaImage'), ('e.vtk',
                                                                                                                'VTK')):
        sitk.WriteImage(image, str(folder / name))
        found[name] = (folder / name, what)
    nibabel.save(nibabel.MGHImage(values, affine), folder / 'f.mgz')
    nibabel.save(nibabel.MGHImage(values, affine), folder / 'g.mgh')
    nibabel.save(nibabel.Spm2AnalyzeImage(values, affine), folder / 'h.img')
    nibabel.save(nibabel.Nifti1Pair(values, affine), folder / 'i.img')
    found |= {
        name: (folder / name, what)
        for name, what in (('f.mgz', 'MGZ'), ('g.mgh', 'MGH'), ('h.img', 'Analyze'), ('h.hdr', 'Analyze'),
                           ('i.img', 'NIfTI pair'))
    }
    with open(shipped(CT), 'rb') as source, gzip.open(folder / 'ct.dcm.gz', 'wb') as target:
        shutil.copyfileobj(source, target)
    with zipfile.ZipFile(folder / 's.zip', 'w') as archive:
        archive.write(shipped(CT), 'ct.dcm')
    with tarfile.open(folder / 's.tar', 'w') as tar:
        tar.add(shipped(CT), 'ct.dcm')
    np.save(folder / 'a.npy', values)
    np.savez(folder / 'a.npz', a=values)
    for name, start in (('v.mp4', b'\0\0\0\x18ftypisom'), ('a.pdf', b'%PDF-1.4'), ('a.h5', b'\x89HDF\r\n\x1a\n'),
                        ('a.json', b'{"images": []}'), ('a.mat', b'MATLAB 5.0 MAT-file')):
        (folder / name).write_bytes(start + bytes(600))
    return found | {
        name: (folder / name, what)
        for name, what in (('ct.dcm.gz', 'gzip'), ('s.zip', 'ZIP'), ('s.tar', 'tar'), ('a.npy', 'NumPy array'),
                           ('a.npz', 'NumPy archive'), ('v.mp4', 'video'), ('a.pdf', 'PDF'), ('a.h5', 'HDF5'),
                           ('a.json', 'JSON'), ('a.mat', 'MATLAB'))
    }


def test_the_error_names_the_format(files, tmp_path):
    for name, (path, what) in files.items():
        error = rejected(str(path))
        assert error.kind == 'file-format' and what in str(error), (name, str(error))
        # Under another name the content decides, where it can.
        with pytest.raises(ValueError, match=what):
            Volume(path)
    shutil.copy(files['a.nrrd'][0], tmp_path / 'scan.dat')
    assert 'NRRD' in str(rejected(str(tmp_path / 'scan.dat')))
    error = rejected(str(tmp_path))
    assert str(error) == 'it is a folder' and 'citrusv volume' in error.remedy
    (tmp_path / 'noise.raw').write_bytes(np.random.default_rng(1).bytes(4000))
    with pytest.raises(ValueError, match='may be no DICOM file'):
        Volume(tmp_path / 'noise.raw')


def test_the_commands_convert(files, tmp_path):
    """Run as they are printed, in the folder of the file."""
    expected = None
    for name in ('a.nrrd', 'd.mhd', 'e.vtk', 'f.mgz', 'h.img', 'i.img'):
        path, _ = files[name]
        command = shlex.split(rejected(str(path)).remedy.partition(': ')[2].partition('; then')[0])
        assert command[:2] == ['python', '-c']
        subprocess.run([sys.executable, *command[1:]], cwd=path.parent, check=True, capture_output=True)
        converted = path.parent / f'{path.stem}.nii.gz'
        volume = Volume(converted, window='0,99')
        shown = sorted(np.asarray(image)[..., 0].tobytes() for _, image in volume)
        if name == 'a.nrrd':
            expected = shown
        assert len(volume) == 5 and volume.size == (6, 7), name
        # ITK's axes run the other way than those of the nibabel files.
        if name in ('d.mhd', 'e.vtk'):
            assert shown == expected, name
