"""DICOM's lookup tables, in all the ways in which files store them."""
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from support.medical_images import close, colours, grey, rejected
from support.scans import CT, dicom, shipped

from swift_citrusv.files.errors import FileError
from swift_citrusv.files.lookup_table import LookupTable


def words(values, order: str) -> bytes:
    return np.asarray(values).astype(f'{order}u2').tobytes()


def halves(values, order: str) -> bytes:
    """Two 8-bit entries in a word, the first in its low byte."""
    values = np.asarray([*values, 0][:len(values) + len(values) % 2], np.uint8)
    return values.view('<u2').astype(f'{order}u2').tobytes()


def test_every_form_of_the_same_table():
    entries = [(i * 37) % 256 for i in range(300)]
    inputs = np.arange(-20, 400)
    expected = [entries[min(max(value - 5, 0), 299)] for value in inputs]
    for big in (False, True):
        order = '>' if big else '<'
        for name, data in {
                'bytes, a word each': words(entries, order),
                'bytes, half a word each': halves(entries, order),
                'list, a word each': entries,
                'list, half a word each': list(np.frombuffer(halves(entries, '<'), '<u2')),
        }.items():
            table = LookupTable.parse([300, 5, 8], data, signed=False, big_endian=big)
            assert table.apply(inputs).tolist() == expected, (name, big)
            assert table.to_uint8(inputs).tolist() == expected, (name, big)


def test_descriptors():

    def parse(descriptor, data, signed=False):
        return LookupTable.parse(descriptor, data, signed=signed, big_endian=False)

    # 0 stands for 65,536 entries, and a signed descriptor has them as a negative number.
    entries = np.arange(65536)
    assert parse([0, 0, 16], words(entries, '<')).apply(np.array([65535, 7])).tolist() == [65535, 7]
    assert len(parse([-25536, 0, 16], words(entries, '<')).entries) == 40000
    # Inputs may begin below zero; some writers store -10 as 65,526.
    for first in (-10, 65526):
        assert parse([20, first, 8], list(range(20)), True).apply(np.array([-11, -10, 0,
                                                                            99])).tolist() == [0, 0, 10, 19]
    assert parse([20, 65526, 8], list(range(20))).apply(np.array([0, 65530])).tolist() == [0, 4]
    # 12 bits are 0 to 4,095; entries that need more than the descriptor says have what they need.
    assert parse([2, 0, 12], [0, 4095]).to_uint8(np.array([0, 1])).tolist() == [0, 255]
    assert parse([2, 0, 8], [0, 4095]).to_uint8(np.array([0, 1])).tolist() == [0, 255]
    assert parse([2, 0, 0], [0, 255]).bits == 8
    assert parse([1, 0, 16], 7).apply(np.array([3])).tolist() == [7]
    for descriptor, data in (([300, 0,
                               8], [1, 2]), ([300, 0,
                                              16], words(range(100),
                                                         '<')), ([], [1]), (None, [1]), ('ab', [1]), ([4, 0, 8], b'')):
        with pytest.raises(FileError, match='lookup table'):
            parse(descriptor, data)


def lut(descriptor, data, vr: str) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = descriptor
    item.LUTData = data
    item['LUTData'].VR = vr
    return item


def test_voi_luts_of_8_bits(tmp_path):
    """4,096 inputs with 8-bit entries: as a word each, and as half a word each."""
    stored = pydicom.dcmread(shipped(CT)).pixel_array.astype(int)
    entries = np.rint(np.linspace(0, 255, 4096)).astype(int)
    expected = entries[np.clip(stored, 0, 4095)]
    assert 20 < expected.mean() < 200
    for name, item in {
            'words': lut([4096, 0, 8], words(entries, '<'), 'OW'),
            'list': lut([4096, 0, 8], entries.tolist(), 'US'),
            'halves': lut([4096, 0, 8], halves(entries, '<'), 'OW'),
    }.items():
        path = dicom(tmp_path / 'a.dcm', RescaleSlope=1, RescaleIntercept=0, VOILUTSequence=[item])
        assert close(grey(path), expected), name
        modality = lut([4096, 0, 8], item.LUTData, item['LUTData'].VR)
        modality.ModalityLUTType = 'US'
        path = dicom(tmp_path / 'b.dcm', RescaleSlope=None, RescaleIntercept=None, WindowCenter=128, WindowWidth=256,
                     ModalityLUTSequence=[modality])  # yapf: disable
        assert close(grey(path), expected, 1), name
    broken = dicom(tmp_path / 'c.dcm', VOILUTSequence=[lut([4096, 0, 8], [1, 2, 3], 'US')])
    assert '4096 entries, but data of fewer' in str(rejected(broken))
    # A sequence without a table is none.
    assert close(grey(dicom(tmp_path / 'd.dcm', VOILUTSequence=[Dataset()])), grey(shipped(CT)))


@pytest.mark.parametrize('syntax', ['1.2.840.10008.1.2.1', '1.2.840.10008.1.2', '1.2.840.10008.1.2.2'])
def test_palettes_in_every_order_of_bytes(syntax, tmp_path):
    data = pydicom.dcmread(shipped('examples_palette.dcm'))
    indices = data.pixel_array
    expected = colours(data.filename)
    assert expected.std() > 30
    big = syntax.endswith('.2.2')
    order = '>' if big else '<'
    wide = {name: np.frombuffer(data[f'{name}PaletteColorLookupTableData'].value, '<u2')
            for name in ('Red', 'Green', 'Blue')}  # yapf: disable
    for bits in (16, 8):
        for form in (words, halves) if bits == 8 else (words, ):
            for name, values in wide.items():
                entries = values if bits == 16 else values >> 8
                data[f'{name}PaletteColorLookupTableDescriptor'].value = [len(values), 0, bits]
                data[f'{name}PaletteColorLookupTableData'].value = form(entries, order)
            data.PixelData = (indices.byteswap() if big else indices).tobytes()
            data['PixelData'].VR = 'OB'
            data.file_meta.TransferSyntaxUID = syntax
            path = str(tmp_path / f'{bits}{form.__name__}.dcm')
            pydicom.dcmwrite(path, data, implicit_vr=syntax == '1.2.840.10008.1.2', little_endian=not big)
            assert close(colours(path), expected), (bits, form.__name__)
            assert (pydicom.dcmread(path).pixel_array == indices).all()
