"""Windowing: maps a range of a medical image's values to 8-bit grey values.

A CT has thousands of grey values, an 8-bit image 256. A window selects a range of them by its centre (level) and its
width; values below are black, values above white.
"""
import math
import numpy as np
from dataclasses import dataclass
from PIL import Image

AUTO, PERCENTILE = 'auto', 'percentile'
# Level and width in Hounsfield units, as radiologists commonly set them (A. Murphy, "Windowing (CT)", Radiopaedia).
WINDOW_PRESETS = {'lung': (-600, 1500), 'bone': (400, 1800), 'brain': (40, 80), 'soft_tissue': (50, 400)}
WINDOW_FORMS = (f"Give '{AUTO}' (the file's own window, else percentiles), '{PERCENTILE}', a preset for CT "
                f"({', '.join(WINDOW_PRESETS)}), or level and width, e.g. '40,400'.")
# DICOM's VOI LUT Functions, the default first.
FUNCTIONS = ('LINEAR', 'LINEAR_EXACT', 'SIGMOID')
# The percentiles that PERCENTILE maps to black and white; values outside are mostly metal and noise.
_LOW, _HIGH = .5, 99.5


@dataclass(frozen=True)
class Window:
    """A window in the units of the values.

    Attributes:
        level: Its centre (DICOM's Window Center).
        width: Its width.
        function: DICOM's VOI LUT Function: LINEAR, LINEAR_EXACT or SIGMOID.
    """
    level: float
    width: float
    function: str = 'LINEAR_EXACT'

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ValueError(f'a window with the function {self.function!r}')
        least = 1 if self.function == 'LINEAR' else 0
        if not math.isfinite(self.level) or not least <= self.width < math.inf or not self.width:
            raise ValueError(f'a {self.function} window of level {self.level:g} and width {self.width:g}')

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Maps values to grey values.

        Args:
            values: Integers or floats of any shape. NaN becomes black.

        Returns:
            uint8 of the same shape, 0 to 255, rounded.

        Source: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3.
        """
        values = values.astype(np.float64)
        # A value far below a SIGMOID window overflows to infinity, which gives black.
        with np.errstate(over='ignore'):
            if self.function == 'SIGMOID':
                grey = 1 / (1 + np.exp(-4 * (values - self.level) / self.width))
            elif self.function == 'LINEAR':
                centred = values - (self.level - .5)
                # A width of 1 is a step function.
                grey = centred / (self.width - 1) + .5 if self.width > 1 else (centred > 0).astype(np.float64)
            else:
                grey = (values - self.level) / self.width + .5
        return _to_uint8(grey)


def parse_window(text: str) -> str | Window:
    """Parses the text of a window in a setting or a row.

    Returns:
        'auto', 'percentile' or the name of a preset unchanged, else a `Window`.

    Raises:
        ValueError: The text has none of the forms in `WINDOW_FORMS`.
    """
    name = text.strip().lower()
    if name in (AUTO, PERCENTILE, *WINDOW_PRESETS):
        return name
    level, comma, width = name.partition(',')
    try:
        if comma:
            return Window(float(level), float(width))
    except ValueError:
        pass
    raise ValueError(f'{text!r} is not a window')


def apply_window(values: np.ndarray, window: str | Window = PERCENTILE, valid: np.ndarray | None = None) -> np.ndarray:
    """Applies a window to an image.

    Args:
        values: Integers or floats [h, w].
        window: 'percentile', 'auto' (the same, since an array has no window of its own), a preset, or a `Window`.
        valid: bool [h, w], the values that percentiles are computed from; by default all. NaN and Inf never count.

    Returns:
        uint8 [h, w]. An image with a single value is black.
    """
    if isinstance(window, Window):
        return window.apply(values)
    if window in WINDOW_PRESETS:
        return Window(*WINDOW_PRESETS[window]).apply(values)
    values = values.astype(np.float64)
    counted = np.isfinite(values) if valid is None else valid & np.isfinite(values)
    if not counted.any():
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(values[counted], (_LOW, _HIGH))
    if low == high:
        low, high = values[counted].min(), values[counted].max()
    if low == high:
        return np.zeros(values.shape, np.uint8)
    return _to_uint8((values - low) / (high - low))


def array_to_image(array: np.ndarray, window: str | Window | None = None) -> Image.Image:
    """Converts an array to an image.

    Args:
        array: [h, w], or [h, w, 3] for colours: uint8; or, for [h, w] or with a window, any integers or floats.
        window: A text for `parse_window`, or a `Window`. Default: uint8 stays unchanged, other dtypes are windowed by
            percentiles.

    Returns:
        An RGB image of width w and height h.

    Raises:
        ValueError: The array has another shape or dtype, or the window is invalid.
    """
    colours = array.ndim == 3 and array.shape[2] == 3
    if array.dtype.kind not in 'iuf' or not (array.ndim == 2 or colours) or not array.size:
        raise ValueError(f'An image is an array of {array.dtype} {list(array.shape)}. Give integers or floats [h, w] '
                         'or [h, w, 3].')
    if isinstance(window, str):
        try:
            window = parse_window(window)
        except ValueError as e:
            raise ValueError(f'{e}. {WINDOW_FORMS}') from None
    if window is None and array.dtype == np.uint8:
        return rgb_image(array)
    if colours and (window is None or window in (AUTO, PERCENTILE)):
        raise ValueError(f'A colour image is an array of {array.dtype}. Give uint8, or a window: level and width.')
    return rgb_image(apply_window(array, PERCENTILE if window is None else window))


def rgb_image(values: np.ndarray) -> Image.Image:
    """An RGB image from uint8 [h, w] or [h, w, 3]."""
    image = Image.fromarray(np.ascontiguousarray(values))
    return image if image.mode == 'RGB' else image.convert('RGB')


def _to_uint8(grey: np.ndarray) -> np.ndarray:
    """Converts 0.0 to 1.0 to uint8; clips values outside, including infinities. NaN becomes 0."""
    return np.rint(np.nan_to_num(np.clip(grey, 0, 1), nan=0.) * 255).astype(np.uint8)
