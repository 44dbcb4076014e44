"""Images with more than 8 bits a value that are not medical files: 16-bit PNG and TIFF, 32-bit and float TIFF.

16-bit values fill their range by default: 0 is black, 65535 white. Scanners often write 10, 12 or 14 bits into 16,
which is almost black on that range; then a window (`windowing`) must be named, in the row or by the setting
`image_window`.
"""
import numpy as np
from PIL import Image

from .errors import FileError
from .lazy import LazyImage, image_name, stored_image
from .notices import warn_once
from .windowing import WINDOW_PRESETS, Window, apply_window, rgb_image

# A 16-bit image whose values stay below is darker than a quarter of the range.
_DARK = 1 << 14
_NOT_HOUNSFIELD = "Give 'percentile', or level and width in the values of the file, e.g. '2048,4096' for 12 bits."


def is_deep(image: Image.Image) -> bool:
    """Whether an image has one channel with more than 8 bits, so that a window applies."""
    return image.mode in ('I', 'F') or image.mode.startswith('I;16')


def windowed(image: Image.Image, window: str | Window, named: bool) -> Image.Image:
    """Applies a window to an image when its pixels are read.

    Args:
        image: An image for which `is_deep` holds.
        window: From `windowing.parse_window`. 'auto' means percentiles, since these files have no window of their own.
        named: Whether the row names the window. A preset of the run is for the CT images of the run only.

    Returns:
        An RGB image, or the image itself if the window is such a preset.

    Raises:
        FileError: The row names a preset, whose unit is the Hounsfield unit (kind 'image-window').
    """
    if isinstance(window, str) and window in WINDOW_PRESETS:
        problem = f'the window {window!r} is for CT (Hounsfield units), and a {image.format} file has no units'
        if named:
            raise FileError(problem, _NOT_HOUNSFIELD, 'image-window')
        warn_once('preset', f'{image_name(image)}: {problem}. It does not apply to such files. {_NOT_HOUNSFIELD}')
        return image

    def read() -> Image.Image:
        image.load()
        return rgb_image(apply_window(np.asarray(image), window))

    shown = LazyImage(image.size, 'RGB', image.format, read, image, owned=True)
    shown.info = {key: value for key, value in image.info.items() if isinstance(key, str) and key.startswith('citrusv')}
    return shown


def high_byte(values: np.ndarray, name: str) -> Image.Image:
    """The RGB image of 16-bit values [h, w] on their full range; warns of a file that is almost black on it."""
    top = int(values.max())
    if 0 < top < _DARK:
        bits = max(top.bit_length(), 9)
        warn_once(
            'dark', f'{name} has 16 bits, but no value above {top}: on the range of 16 bits, its brightest pixel is '
            f'{top >> 8} of 255, almost black. Set image_window to {2**(bits - 1)},{2**bits} ({bits} bits) or to '
            f"percentile, or name the window in the rows, e.g. '{name}#window=percentile'.")
    return rgb_image((values >> 8).astype(np.uint8))


def has_deep_colours(image: Image.Image) -> bool:
    """Whether the file of an image, not decoded yet, has 16-bit colours, of which PIL reads the high byte."""
    tile = getattr(stored_image(image), 'tile', None)
    arguments = tile[0][3] if tile else ''
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return isinstance(raw_mode, str) and ';16' in raw_mode and not raw_mode.startswith('I;16')


def warn_dark_colours(image: Image.Image, name: str) -> None:
    """Warns of a decoded image with 16-bit colours that is almost black."""
    top = np.asarray(image)[..., :3].max()
    if 0 < top < _DARK >> 8:
        warn_once(
            'dark-colours',
            f'{name} has 16-bit colours, but none above {top} of 255 on the range of 16 bits: it is almost '
            'black. Save it with 8 bits a channel.')
