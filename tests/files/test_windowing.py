"""Windows against pydicom and a loop; images from arrays."""
import numpy as np
import pytest
from pydicom.pixels import apply_windowing
from support.medical_images import by_percentile, close, linear
from support.scans import item

from swift_citrusv.files.windowing import WINDOW_PRESETS, Window, apply_window, array_to_image


@pytest.mark.filterwarnings('ignore:overflow')
def test_windows_equal_pydicoms():
    values = np.random.default_rng(0).uniform(-1500, 1500, (30, 40))
    for level, width in ((40, 400), (0, 1.5), (-600, 1500), (10, 2)):
        for function in ('LINEAR', 'LINEAR_EXACT', 'SIGMOID'):
            header = item(
                PhotometricInterpretation='MONOCHROME2',
                BitsStored=8,
                PixelRepresentation=0,
                WindowCenter=level,
                WindowWidth=width,
                VOILUTFunction=function)
            assert close(Window(level, width, function).apply(values),
                         np.rint(apply_windowing(values, header))), (function, level, width)


def test_presets_and_arrays():
    values = np.arange(-1400, 1400, 3, dtype=np.int16).reshape(-1, 2)[:400].reshape(20, 40)
    for name, (level, width) in WINDOW_PRESETS.items():
        expected = linear(values, level, width)
        assert close(np.array(array_to_image(values, name))[..., 1], expected)
        assert close(np.array(array_to_image(values.astype(np.float32), f' {level},{width} '))[..., 2], expected)
    assert close(np.array(array_to_image(values))[..., 0], by_percentile(values), 1)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert close(np.array(array_to_image(ramp))[..., 0], ramp)
    assert close(np.array(array_to_image(np.stack([ramp, ramp.T, ramp], axis=-1)))[..., 1], ramp.T)
    # NaN is black, and neither NaN nor Inf counts.
    values = np.array([[np.nan, np.inf, -np.inf, 0, 1, 2]] * 2)
    assert apply_window(values).tolist() == [[0, 255, 0, 0, 128, 255]] * 2
    assert Window(1, 2).apply(values).tolist() == [[0, 255, 0, 0, 128, 255]] * 2
    assert not apply_window(np.full((3, 3), 7.)).any() and not apply_window(np.full((3, 3), np.nan)).any()
    # With one bright voxel among many, both percentiles are equal.
    spot = np.zeros((50, 50))
    spot[3, 4] = 9
    assert np.argwhere(apply_window(spot)).tolist() == [[3, 4]]
    for array, window in ((values[0], None), (np.zeros((3, 3, 4)), None), (np.zeros((3, 3), bool), None), (np.zeros(
        (3, 3, 3)), None), (np.zeros((3, 3, 3)), 'auto'), (values, 'liver'), (values, '40'), (values, '40,-1'),
                          (values, '40,0'), (values, 'nan,4'), (np.zeros((0, 3)), None)):
        with pytest.raises(ValueError, match='[Gg]ive'):
            array_to_image(array, window)
