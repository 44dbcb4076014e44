"""Recognises files of other formats, and says how to convert them."""
import os
import struct
from io import BytesIO

from .errors import FileError
from .nifti import GZIP

_HEAD = 512
_SIMPLEITK = ('Convert it, with SimpleITK installed: python -c "import SimpleITK as s; '
              "s.WriteImage(s.ReadImage('{name}'), '{stem}.nii.gz')\"; then name that file.")
_NIBABEL = ('Convert it: python -c "import nibabel as n; i = n.load(\'{name}\'); '
            "n.save(n.Nifti1Image(i.get_fdata(dtype='float32'), i.affine), '{stem}.nii.gz')\"; then name that file.")
_UNPACK = 'Unpack it, and name the file inside.'
_ARRAY = 'Save it as NIfTI with its affine (nibabel), or as PNG. In Python, an array can be given as it is.'
_VIDEO = "Name it in 'videos', with <video> in the text."
# What a file is, its first bytes, and what to do.
_BY_CONTENT: tuple[tuple[str, tuple[bytes, ...], str], ...] = (
    ('an NRRD file', (b'NRRD', ), _SIMPLEITK),
    ('a VTK file', (b'# vtk DataFile', ), _SIMPLEITK),
    ('a MINC file', (b'CDF\x01', b'CDF\x02'), _NIBABEL),
    ('a NumPy array', (b'\x93NUMPY', ), _ARRAY),
    ('a MATLAB file', (b'MATLAB 5.0', ), 'Load it with scipy.io.loadmat. ' + _ARRAY),
    ('a ZIP archive', (b'PK\x03\x04', b'PK\x05\x06'), _UNPACK),
    ('a 7z archive', (b'7z\xbc\xaf\x27\x1c', ), _UNPACK),
    ('an xz or bzip2 archive', (b'\xfd7zXZ\0', b'BZh'), _UNPACK),
    ('a PDF file', (b'%PDF', ), 'Save its pages as PNG.'),
    ('a Zeiss CZI file', (b'ZISRAWFILE', ), 'Export it as TIFF or PNG.'),
    ('a text (XML or JSON)', (b'<?xml', b'<svg', b'{'), 'Name the image itself; save an SVG as PNG.'),
)
_BY_NAME = {
    '.mgz': ('a FreeSurfer file (MGZ)', _NIBABEL),
    '.mgh': ('a FreeSurfer file (MGH)', _NIBABEL),
    '.mnc': ('a MINC file', _NIBABEL),
    '.mha': ('a MetaImage file', _SIMPLEITK),
    '.mhd': ('a MetaImage header', _SIMPLEITK),
    '.h5': ('an HDF5 file', _ARRAY),
    '.hdf5': ('an HDF5 file', _ARRAY),
    '.tar': ('a tar archive', _UNPACK),
}
_NPZ = ('a NumPy archive', _ARRAY)


def other_format(file: str | BytesIO) -> FileError | None:
    """The error of a file that is neither an image of PIL nor DICOM nor NIfTI, but known; None for all others.

    Args:
        file: A path, or the content of a file.
    """
    if isinstance(file, BytesIO):
        file.seek(0)
        head, path = file.read(_HEAD), ''
        file.seek(0)
    else:
        with open(file, 'rb') as stream:
            head = stream.read(_HEAD)
        path = file
    found = _recognised(head, path)
    if found is None:
        return None
    what, remedy = found
    name = os.path.basename(path) or 'FILE'
    stem = name.partition('.')[0]
    return FileError(f'it is {what}, which is not supported', remedy.format(name=name, stem=stem), 'file-format')


def _recognised(head: bytes, path: str) -> tuple[str, str] | None:
    lower = path.lower()
    suffix = os.path.splitext(lower)[1]
    if suffix == '.npz':
        return _NPZ
    for what, starts, remedy in _BY_CONTENT:
        if head.startswith(starts):
            return what, remedy
    if suffix in _BY_NAME:
        return _BY_NAME[suffix]
    if b'ObjectType' in head and b'NDims' in head:
        return 'a MetaImage file', _SIMPLEITK
    if head.startswith(b'\x89HDF\r\n\x1a\n'):
        return 'an HDF5 file', _ARRAY
    if head[257:262] == b'ustar':
        return 'a tar archive', _UNPACK
    if head[4:8] == b'ftyp' and head[8:12] not in (b'avif', b'avis', b'heic', b'heix', b'mif1',
                                                   b'msf1') or (head[:4] == b'RIFF' and head[8:12] == b'AVI '):
        return 'a video', _VIDEO
    if head.startswith(GZIP):
        return 'compressed (gzip)', 'Unpack it with gunzip, and name the file inside.'
    if _is_analyze(head) or suffix == '.img' and _has_analyze_header(path):
        return 'an Analyze or NIfTI pair (.hdr and .img)', _NIBABEL
    return None


def _is_analyze(head: bytes) -> bool:
    """Whether it is a header of Analyze 7.5: 348 bytes, without NIfTI's magic, with 1 to 7 dimensions."""
    if len(head) < 348:
        return False
    for order in '<>':
        size, dimensions = struct.unpack_from(f'{order}i', head)[0], struct.unpack_from(f'{order}h', head, 40)[0]
        if size == 348 and 1 <= dimensions <= 7:
            return True
    return False


def _has_analyze_header(path: str) -> bool:
    try:
        with open(f'{path[:-4]}.hdr', 'rb') as stream:
            return _is_analyze(stream.read(_HEAD))
    except OSError:
        return False
