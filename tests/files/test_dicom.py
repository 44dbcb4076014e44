"""DICOM images against pydicom, and files that claim or inflate to too much."""
import base64
import io
import numpy as np
import pydicom
import pytest
import struct
import zlib
from pathlib import Path
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing, get_decoder
from support.medical_images import RULES, by_percentile, close, colours, grey, linear, rejected
from support.scans import CT, MR, dicom, enhanced_ct, item, shipped

from swift_citrusv.files.errors import FileError
from swift_citrusv.files.images import open_image, to_rgb
from swift_citrusv.files.rules import FileRules
from swift_citrusv.files.windowing import WINDOW_PRESETS, Window

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:pydicom')


def test_window_of_the_file_or_another(tmp_path):
    """CT_small has no window; MR_small has one."""
    hounsfield = pydicom.dcmread(shipped(CT)).pixel_array.astype(float) - 1024
    assert close(grey(shipped(CT)), by_percentile(hounsfield), 1)
    assert close(grey(f'{shipped(CT)}#window=lung'), linear(hounsfield, -600, 1500))
    assert close(grey(f'{shipped(CT)}#window=40,400'), linear(hounsfield, 40, 400))
    assert close(grey(shipped(CT), FileRules(window='soft_tissue')), linear(hounsfield, 50, 400))
    # The window of a row precedes that of the run, and that of the file precedes percentiles.
    path = dicom(tmp_path / 'ct.dcm', WindowCenter=[300, 40], WindowWidth=[1500, 400])
    own = np.rint((apply_windowing(hounsfield, pydicom.dcmread(path)) + 32768 + 1024) / 65535 * 255)
    assert close(grey(path), own, 1) and close(grey(path), Window(300, 1500, 'LINEAR').apply(hounsfield))
    assert close(grey(f'{path}#frame=0&window=auto', FileRules(window='bone')), grey(path))
    assert close(grey(f'{path}#window=percentile'), grey(shipped(CT)))
    for function in ('LINEAR_EXACT', 'SIGMOID'):
        path = dicom(tmp_path / 'f.dcm', WindowCenter=40, WindowWidth=400, VOILUTFunction=function)
        assert close(grey(path), Window(40, 400, function).apply(hounsfield))


def test_mr_by_pydicom_in_every_compression():
    data = pydicom.dcmread(shipped(MR))
    values = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    expected = np.rint((values + 32768) / 65535 * 255)
    for name in ('', '_RLE', '_bigendian', '_expb', '_implicit', '_jp2klossless', '_jpeg_ls_lossless', '_padded'):
        assert close(grey(shipped(f'MR_small{name}.dcm')), expected), name
    with open(shipped(MR), 'rb') as file:
        content = file.read()
    embedded = f'data:application/dicom;base64,{base64.b64encode(content).decode()}'
    for reference in (content, {
            'bytes': content
    }, {
            'path': shipped(MR)
    }, embedded, base64.b64encode(content).decode(), data, f'file://{shipped(MR)}', io.BytesIO(content)):
        assert close(grey(reference), expected)
    assert close(grey(f'{embedded}#window=600,1600'), linear(data.pixel_array, 600, 1600))


def test_monochrome1_is_inverted(tmp_path):
    for tags in ({}, {'WindowCenter': 40, 'WindowWidth': 400}):
        plain = dicom(tmp_path / 'a.dcm', **tags)
        inverted = dicom(tmp_path / 'b.dcm', PhotometricInterpretation='MONOCHROME1', **tags)
        assert close(grey(inverted), 255 - grey(plain)) and grey(plain).std() > 30


def test_modality_and_voi_luts(tmp_path):
    """A modality LUT and a VOI LUT, by pydicom and by hand."""
    modality = item(LUTDescriptor=[4096, 0, 16], ModalityLUTType='US', LUTData=list(range(4096, 0, -1)))
    voi = item(LUTDescriptor=[2000, 1950, 12], LUTData=[2 * i for i in range(2000)])
    for element in (modality, voi):
        element['LUTData'].VR = 'US'
    path = dicom(
        tmp_path / 'lut.dcm',
        RescaleSlope=None,
        RescaleIntercept=None,
        ModalityLUTSequence=[modality],
        VOILUTSequence=[voi],
        WindowCenter=3000,
        WindowWidth=10)
    stored = pydicom.dcmread(shipped(CT)).pixel_array.astype(int)
    expected = np.rint(np.clip(4096 - stored - 1950, 0, 1999) * 2 / 4095 * 255)
    assert close(grey(path), expected) and len(np.unique(expected)) > 50
    assert close(grey(f'{path}#window=3000,2000'), linear(4096 - stored, 3000, 2000))


def test_padding_is_excluded_from_percentiles(tmp_path):
    stored = pydicom.dcmread(shipped(CT)).pixel_array.copy()
    inside = np.hypot(*(np.indices(stored.shape) - 63.5)) < 60
    padded = np.where(inside, stored, -2000)
    path = dicom(tmp_path / 'a.dcm', pixels=padded, PixelPaddingValue=-2000)
    low, high = np.percentile(stored[inside], (.5, 99.5))
    assert close(grey(path)[inside], linear(stored, (low + high) / 2, high - low)[inside], 1)
    assert not grey(path)[~inside].any()


def test_frames(tmp_path):
    hounsfield = np.random.default_rng(1).integers(-400, 400, (3, 20, 30)) * 4
    path = enhanced_ct(tmp_path / 'multi.dcm', hounsfield, [(0, 200), (100, 2000), (-300, 900)], [1, 2, 4])
    for i, (level, width) in enumerate([(0, 200), (100, 2000), (-300, 900)]):
        assert close(grey(f'{path}#frame={i}'), Window(level, width, 'LINEAR').apply(hounsfield[i])), i
        assert close(grey(f'{path}#window=bone&frame={i}'), linear(hounsfield[i], *WINDOW_PRESETS['bone'])), i
    error = rejected(path)
    assert error.kind == 'image-fragment' and 'has 3 frames' in str(error) and 'from 0 to 2' in error.remedy
    assert 'frame=3 does not exist' in str(rejected(f'{path}#frame=3'))
    # A multi-frame image compressed frame by frame.
    path = shipped('examples_ybr_color.dcm')
    for i in (0, 17, 29):
        assert close(colours(f'{path}#frame={i}'), pydicom.pixels.pixel_array(path, index=i))


def test_colours():
    for name in ('examples_rgb_color.dcm', 'SC_ybr_full_422_uncompressed.dcm', 'SC_rgb_jpeg_dcmtk.dcm',
                 'SC_rgb_gdcm_KY.dcm', 'examples_jpeg2k.dcm', 'SC_rgb_small_odd_big_endian.dcm'):
        assert close(colours(shipped(name)), pydicom.pixels.pixel_array(shipped(name))), name
    # The same image in 8, 16 and 32 bits.
    for bits in ('16bit', '32bit'):
        assert close(colours(shipped(f'SC_rgb_rle_{bits}.dcm')), colours(shipped('SC_rgb_rle.dcm')), 1)
    data = pydicom.dcmread(shipped('examples_palette.dcm'))
    assert close(colours(data.filename), apply_color_lut(data.pixel_array, data) >> 8)
    # The pixel data without a VR.
    assert close(colours(shipped('SC_rgb_jpeg.dcm')), pydicom.dcmread(shipped('SC_rgb_jpeg.dcm')).pixel_array)
    error = rejected(f'{shipped("examples_palette.dcm")}#window=40,400')
    assert error.kind == 'image-window' and 'colour image' in str(error)
    # The window of the run does not apply to colours.
    assert np.array(to_rgb(open_image(data.filename, FileRules(window='lung')))).any()


def test_every_file_of_pydicom():
    """Each file is an image, or one of the known errors."""
    folder = Path(shipped(CT)).parent
    no_image: set[str] = set()
    no_decoder: set[str] = set()
    broken: set[str] = set()
    several: set[str] = set()
    for path in sorted(folder.glob('*.dcm')):
        try:
            image = to_rgb(open_image(str(path), RULES))
            assert image.size[0] > 2
        except FileError as e:
            kinds = {'no-image': no_image, 'image-fragment': several}
            kinds.get(e.kind, no_decoder if 'pip install python-gdcm' in e.remedy else broken).add(path.name)
    assert len(no_image) == 16 and 'rtstruct.dcm' in no_image
    assert several == {
        'SC_rgb_rle_16bit_2frame.dcm', 'SC_rgb_rle_2frame.dcm', 'SC_rgb_rle_32bit_2frame.dcm', 'examples_ybr_color.dcm',
        'rtdose.dcm', 'rtdose_expb.dcm', 'rtdose_rle.dcm'
    }
    # The first is a truncated JPEG 2000, the second has a wrong frame with 3,722,445,056 columns.
    assert broken == {
        'GDCMJ2K_TextGBR.dcm', 'JPEG2000-embedded-sequence-delimiter.dcm', 'MR_truncated.dcm', 'badVR.dcm'
    }
    if not get_decoder('1.2.840.10008.1.2.4.70').is_available:
        assert no_decoder == {'JPEG-lossy.dcm', 'JPGExtended.dcm', 'SC_rgb_jpeg_gdcm.dcm'}


def test_missing_attributes(tmp_path):
    for name in ('Rows', 'Columns', 'SamplesPerPixel', 'PhotometricInterpretation', 'BitsAllocated', 'PixelData',
                 'PixelRepresentation', 'BitsStored'):
        error = rejected(dicom(tmp_path / 'a.dcm', **{name: None}))
        assert error.kind in ('medical-file', 'no-image'), name
    assert close(grey(dicom(tmp_path / 'a.dcm', RescaleSlope=None, Modality=None)), grey(shipped(CT)), 1)
    assert close(grey(dicom(tmp_path / 'a.dcm', WindowWidth='', WindowCenter='')), grey(shipped(CT)))
    assert rejected(dicom(tmp_path / 'a.dcm', PhotometricInterpretation='CMYK')).kind == 'medical-file'
    assert rejected(f'{shipped(MR)}#window=brain').kind == 'image-window'
    assert 'MR' in str(rejected(shipped(MR), FileRules(window='brain')))
    # Without the preamble, the name decides.
    content = Path(shipped(CT)).read_bytes()
    for name in ('bare.dcm', 'bare.DICOM'):
        (tmp_path / name).write_bytes(content[132:])
        assert close(grey(str(tmp_path / name)), grey(shipped(CT)))
    (tmp_path / 'IM0001').write_bytes(content)
    assert close(grey(str(tmp_path / 'IM0001')), grey(shipped(CT)))
    (tmp_path / 'bare.dcm').write_text('No DICOM file.')
    assert rejected(str(tmp_path / 'bare.dcm')).kind in ('medical-file', 'no-image')


def test_windows_that_nobody_set(tmp_path):
    """They count as absent; the next window of a list is taken, else percentiles."""
    whole = grey(dicom(tmp_path / 'a.dcm', WindowWidth=None, WindowCenter=None))
    stored = pydicom.dcmread(shipped(CT))
    hounsfield = stored.pixel_array * float(stored.RescaleSlope) + float(stored.RescaleIntercept)
    for centre, width, function in (('1', '0', None), ('1', '0.5', None), ('1', '0.5', 'LINEAR'), ('1', '-3', None),
                                    ('1', '', None), ('', '400', None), ('nan', '400', None), ('40', 'inf', None),
                                    ('40', '0', 'SIGMOID'), ('40', '0', 'LINEAR_EXACT'), ('40\\40', '0\\0', None)):
        path = raw_window(tmp_path / 'b.dcm', centre, width, function)
        assert close(grey(path), whole), (centre, width, function)
    for centre, width, function in (('1\\40', '0\\400', None), ('x\\40', '5\\400', None), ('40', '400', 'CUBE'),
                                    ('40\\300', '400\\900', None), ('40', '400\\1', 'linear ')):
        path = raw_window(tmp_path / 'b.dcm', centre, width, function)
        assert close(grey(path), Window(40, 400, 'LINEAR').apply(hounsfield)), (centre, width, function)
    narrow = raw_window(tmp_path / 'b.dcm', '40', '0.5', 'LINEAR_EXACT')
    assert close(grey(narrow), Window(40, .5).apply(hounsfield))
    # A window of the row is no window that nobody set.
    assert rejected(f'{shipped(CT)}#window=40,0').kind == 'image-window'


def raw_window(path: Path, centre: str, width: str, function: str | None) -> str:
    """A CT whose window has these texts, valid or not."""
    data = pydicom.dcmread(shipped(CT))
    for name, text in (('WindowCenter', centre), ('WindowWidth', width), ('VOILUTFunction', function)):
        if text is not None:
            tag = pydicom.tag.Tag(name)
            raw = text.encode() + b' ' * (len(text) % 2)
            vr = 'CS' if name == 'VOILUTFunction' else 'DS'
            data[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    data.save_as(path)
    return str(path)


def test_a_frame_larger_than_its_header_says(tmp_path):
    """Decoders would allocate 20,000 x 20,000 pixels."""
    for syntax, name, size_at in (('1.2.840.10008.1.2.4.80', 'MR_small_jpeg_ls_lossless.dcm', b'\xff\xf7'),
                                  ('1.2.840.10008.1.2.4.90', 'MR_small_jp2klossless.dcm', b'\xff\x51')):
        data = pydicom.dcmread(shipped(name))
        code = bytearray(pydicom.encaps.get_frame(data.PixelData, 0, number_of_frames=1))
        start = code.index(size_at)
        if size_at == b'\xff\xf7':
            code[start + 5:start + 9] = struct.pack('>2H', 20_000, 20_000)
        else:
            code[start + 6:start + 14] = struct.pack('>2I', 20_000, 20_000)
        data.PixelData = encapsulate([bytes(code)])
        data['PixelData'].VR = 'OB'
        data.save_as(tmp_path / 'a.dcm')
        assert '[20000, 20000] in its compressed data' in str(rejected(str(tmp_path / 'a.dcm')))


def test_a_truncated_frame(tmp_path):
    data = pydicom.dcmread(shipped('MR_small_jpeg_ls_lossless.dcm'))
    code = pydicom.encaps.get_frame(data.PixelData, 0, number_of_frames=1)
    data.PixelData = encapsulate([code[:4000]])
    data['PixelData'].VR = 'OB'
    data.save_as(tmp_path / 'a.dcm')
    assert 'frame 0 is truncated' in str(rejected(str(tmp_path / 'a.dcm')))


def test_a_deflated_bomb(tmp_path):
    path = shipped('image_dfl.dcm')
    assert colours(path).any()
    content = Path(path).read_bytes()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = content[:content.index(b'1.2.840.10008.1.2.1.99') + 22 + 200]
    start = 132 + 12 + int.from_bytes(content[140:144], 'little')
    bomb = content[:start] + deflater.compress(bytes(40_000_000)) + deflater.flush()
    assert len(bomb) < 60_000
    (tmp_path / 'a.dcm').write_bytes(bomb)
    error = rejected(str(tmp_path / 'a.dcm'), FileRules(max_pixels=1_000_000))
    assert error.kind == 'too-many-pixels' and 'inflates to more than 8000000 bytes' in str(error)
