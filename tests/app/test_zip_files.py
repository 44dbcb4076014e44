"""ZIP files that are uploaded: a DICOM series inside, or a clear error."""
import pytest
import zipfile
from pathlib import Path
from support import chest

from swift_citrusv.app import uploads
from swift_citrusv.app.uploads import UploadError, unpacked


@pytest.fixture
def archive(tmp_path) -> str:
    files = chest.write_series(tmp_path / 'series', 8)[:4]
    with zipfile.ZipFile(tmp_path / 'study.zip', 'w') as made:
        for number, file in enumerate(files):
            # Names that point out of the folder.
            made.write(file, f'../{number}/x')
        made.writestr('README', 'none')
        made.writestr('empty/', '')
    return str(tmp_path / 'study.zip')


def test_dicom_files_are_unpacked(archive):
    folder = unpacked(archive)
    assert folder is not None and len(list(Path(folder).iterdir())) == 4
    assert sorted(file.name for file in Path(archive).parent.iterdir()) == ['series', 'study.zip', 'study.zip.files']


@pytest.mark.parametrize('limit,value,message', [('_MAX_ENTRIES', 4, '5 files, more than 4'),
                                                 ('_MAX_UNPACKED', 1000, 'it unpacks to more than')])
def test_limits(archive, monkeypatch, limit, value, message):
    """A part of the files would be a part of the patient."""
    monkeypatch.setattr(uploads, limit, value)
    with pytest.raises(UploadError, match=f'study.zip: .*{message}'):
        unpacked(archive)


def test_other_files(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'no archive')
    assert unpacked(str(tmp_path / 'a.png')) is None
    with zipfile.ZipFile(tmp_path / 'b.zip', 'w') as made:
        made.writestr('README', 'none')
    with pytest.raises(UploadError, match='no DICOM file'):
        unpacked(str(tmp_path / 'b.zip'))
