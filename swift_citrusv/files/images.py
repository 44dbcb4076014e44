"""Opens images and videos within the limits of `rules.FileRules`; checks the size before decoding pixels."""
import base64
import binascii
import numpy as np
import os
import re
from io import BytesIO
from PIL import Image, UnidentifiedImageError
from typing import Any

from .deep import has_deep_colours, high_byte, is_deep, warn_dark_colours, windowed
from .errors import IMAGE_ERRORS, REPAIR_REMEDY, FileError
from .lazy import LazyImage, image_name
from .medical import DEEP, SliceSelection, medical_format, open_medical, open_object
from .orientation import TURNED_BY, upright
from .other_formats import other_format
from .pil_limit import load_pixels, own_pil_limit, pil_limit
from .rules import URL_SCHEMES, FileRules, file_rules

_DATA_URL = re.compile(r'data:[^,]{0,200};base64,')
# PIL formats whose decoders start another program.
_PROGRAMS = {'EPS': 'Ghostscript'}
# PIL modes without a fixed range of values; PIL clips them at 255.
_NO_RANGE = ('I', 'F')
# The first bytes of playlists, which make a video decoder open other files.
_PLAYLISTS = (b'#EXTM3U', b'ffconcat', b'<?xml', b'<MPD', b'v=0')


def open_image(reference: Any, rules: FileRules | None = None) -> Image.Image:
    """Opens an image or a video frame of a row; reads only its header.

    Args:
        reference: A file name, a file:// or data: URL, base64 text, bytes, an object with 'bytes' or 'path', an
            open image, an array, a pydicom `Dataset`, or, if allowed, an http(s) URL. Names and URLs of DICOM and
            NIfTI files may select a slice after a `#` (see `medical`).
        rules: By default the rules of this run.

    Raises:
        One of `IMAGE_ERRORS`; a FileError has its own remedy and kind.
    """
    rules = rules or file_rules()
    if isinstance(reference, dict):
        reference = reference.get('bytes') or reference.get('path') or reference.get('url')
    if isinstance(reference, Image.Image):
        image = upright(_checked(reference, rules), owned=False)
    elif isinstance(reference, str):
        image = _open_text(reference.strip(), rules)
    elif isinstance(reference, (bytes, BytesIO)):
        image = _opened(BytesIO(reference) if isinstance(reference, bytes) else reference, rules)
    else:
        opened = open_object(reference, rules)
        if opened is None:
            raise TypeError(f'it is {type(reference).__name__}, not a file name')
        image = _checked(opened, rules)
    window = rules.named_window
    if window is not None and is_deep(image):
        image = windowed(image, window, named=False)
    if image.mode in _NO_RANGE:
        raise FileError(
            f'its mode {image.mode!r} has no fixed range of values',
            "Name a window, e.g. '#window=percentile' after the file name, or set image_window; or save it "
            'with 8 or 16 bits a channel.', 'image-mode')
    return image


def open_image_file(name: str, rules: FileRules | None = None, labels: bool = False) -> Image.Image:
    """Opens an image file; reads only its header.

    Args:
        name: The file name, optionally with a slice after a `#` (see `medical`).
        rules: By default the rules of this run.
        labels: Whether a DICOM or NIfTI file is a label map, whose values are read without a window.

    Raises:
        One of `IMAGE_ERRORS`; a FileError has its own remedy and kind.
    """
    rules = rules or file_rules()
    path, fragment = rules.resolve_image(name)
    return _opened(path, rules, fragment, labels)


def open_label_map(name: str) -> Image.Image:
    """Opens a mask file: `open_image_file` with `labels` and the rules of this run."""
    return open_image_file(name, labels=True)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decodes an image to 8-bit RGB: its first frame, upright, without transparency.

    16-bit grey values without a window keep their high byte, as PIL does for 16-bit colours (a file with fewer bits is
    almost black then: a warning). PIL would clip grey values at 255, so that radiographs become white.

    Raises:
        One of `IMAGE_ERRORS`: the file is truncated or damaged.
    """
    name, deep_colours = image_name(image), has_deep_colours(image)
    load_pixels(image, file_rules().max_pixels)
    if image.mode.startswith('I;16'):
        rgb = high_byte(np.asarray(image), name)
        rgb.info.update({key: value for key, value in image.info.items() if key == TURNED_BY})
        return rgb
    if deep_colours:
        warn_dark_colours(image, name)
    return image if image.mode == 'RGB' else image.convert('RGB')


def checked_video(reference: Any, rules: FileRules | None = None) -> Any:
    """Checks a video of a row, and converts it for qwen_vl_utils.

    Args:
        reference: The name of a video file, a URL, or a list of frames.
        rules: By default the rules of this run.

    Returns:
        The absolute path of a file; a list of frames from `checked_frame`; the URL; any other value unchanged.

    Raises:
        One of `IMAGE_ERRORS`; a FileError has its own remedy and kind.
    """
    rules = rules or file_rules()
    if isinstance(reference, (list, tuple)):
        return [checked_frame(frame, rules) for frame in reference]
    if not isinstance(reference, str) or reference.startswith('data:'):
        return reference
    if reference.strip().startswith(URL_SCHEMES):
        rules.check_url(reference)
        return reference.strip()
    path = rules.resolve(reference)
    with open(path, 'rb') as file:
        start = file.read(16).lstrip()
    if start.startswith(_PLAYLISTS):
        raise FileError('it is a playlist, which refers to other files', 'Name the video file itself.',
                        'video-playlist')
    return path


def checked_frame(frame: Any, rules: FileRules | None = None) -> Any:
    """Checks a frame of a video. Returns the absolute path of a file, or an open image; decodes no pixels."""
    image = open_image(frame, rules)
    path = getattr(image, 'filename', '')
    if isinstance(image, LazyImage) and image.source is not None and isinstance(frame, str):
        # Turned or windowed, which qwen_vl_utils would not do. Opened again when its pixels are read (see below).
        later = LazyImage(image.size, 'RGB', image.format, lambda: to_rgb(open_image(frame, rules)))
        image.close()
        return later
    if image.mode.startswith('I;16') or image.width * image.height > (own_pil_limit() or 0):
        # qwen_vl_utils would clip the values, or reject the file by PIL's own limit.
        return to_rgb(image)
    if not isinstance(frame, str) or not path:
        return image
    # Not the open file: a video may have more frames than a process can open files.
    image.close()
    return path


def _open_text(text: str, rules: FileRules) -> Image.Image:
    if text.startswith(URL_SCHEMES):
        rules.check_url(text)
        url, _, fragment = text.partition('#')
        return _opened(_download(url, 8 * rules.max_pixels), rules, fragment)
    if text.startswith('data:'):
        match = _DATA_URL.match(text)
        if match is None:
            raise ValueError('the data: URL of an image starts with "data:image/png;base64,"')
        content64, _, fragment = text[match.end():].partition('#')
        return _opened(BytesIO(base64.b64decode(content64)), rules, fragment)
    try:
        return open_image_file(text, rules)
    except (OSError, ValueError) as error:
        # The base64 text of a JPEG looks like the path /9j/4AAQ...
        content = None if isinstance(error, UnidentifiedImageError) else _base64(text)
        if not content:
            raise
        try:
            return _opened(BytesIO(content), rules)
        except UnidentifiedImageError:
            raise error from None


def _opened(file: str | BytesIO, rules: FileRules, fragment: str = '', labels: bool = False) -> Image.Image:
    kind = medical_format(file)
    if kind is not None:
        return _checked(open_medical(file, kind, rules, fragment, labels), rules)
    other = other_format(file)
    if other is not None:
        raise other
    # A URL may have a fragment that means nothing here.
    fragment = fragment if isinstance(file, str) or fragment.startswith('window=') else ''
    with pil_limit(None):
        image: Image.Image = Image.open(file)
    try:
        image = upright(_checked(image, rules))
        if not fragment:
            return image
        if labels or not is_deep(image):
            raise FileError(
                f"'#{fragment}' selects a slice or a window, but " +
                ('it is a mask' if labels else f'it is an 8-bit image ({image.format}), neither DICOM nor NIfTI'),
                'Remove it from the name.', 'image-fragment')
        window = SliceSelection.parse(fragment, DEEP).window
        return image if window is None else windowed(image, window, named=True)
    except IMAGE_ERRORS:
        image.close()
        raise


def _checked(image: Image.Image, rules: FileRules) -> Image.Image:
    program = _PROGRAMS.get(image.format or '')
    if program is not None:
        raise FileError(f'PIL would start {program} to read a file of type {image.format}', 'Save it as PNG or JPEG.',
                        'image-format')
    if image.width * image.height > rules.max_pixels:
        raise FileError(
            f'it has {image.width} x {image.height} pixels, more than max_image_pixels='
            f'{rules.max_pixels}', 'Cut it into tiles or shrink it; raise max_image_pixels only for '
            'trusted files.', 'too-many-pixels')
    return image


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(''.join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _download(url: str, max_bytes: int) -> BytesIO:
    import requests
    from requests.adapters import HTTPAdapter, Retry

    # As ms-swift's loader, but with bounded memory.
    seconds = float(os.environ.get('SWIFT_TIMEOUT', '20'))
    content = BytesIO()
    with requests.Session() as session:
        for scheme in URL_SCHEMES:
            session.mount(scheme, HTTPAdapter(max_retries=Retry(total=3, backoff_factor=1, allowed_methods=['GET'])))
        with session.get(url, stream=True, timeout=seconds if seconds > 0 else None) as response:
            response.raise_for_status()
            for part in response.iter_content(1 << 20):
                content.write(part)
                if content.tell() > max_bytes:
                    raise FileError(f'the server sends more than {max_bytes} bytes', REPAIR_REMEDY, 'too-many-pixels')
    content.seek(0)
    return content
