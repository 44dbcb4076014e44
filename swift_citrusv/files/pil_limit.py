"""PIL's limit on the pixels of an image, which is one variable of the process, changed safely between threads.

PIL checks every image that it opens against `Image.MAX_IMAGE_PIXELS`. The package has its own limit, whose error names
the setting (`rules.FileRules.max_pixels`), so PIL's must be set aside for a moment.
"""
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from PIL import Image

# Formats whose decoders use memory by the size in the header, which is checked before, and never ask for PIL's limit.
_SIZED_BY_HEADER = {'BMP', 'DICOM', 'JPEG', 'JPEG2000', 'MPO', 'NIFTI', 'PNG', 'PPM', 'WEBP'}
# Two threads that each save and restore the variable could restore the value of the other, for good.
_lock = threading.RLock()
# A process forked in between would inherit a locked lock and the changed limit.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@contextmanager
def pil_limit(max_pixels: int | None) -> Iterator[None]:
    """Sets PIL's limit (None: no limit) for the thread that enters, and restores it. Other threads wait to enter."""
    with _lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def own_pil_limit() -> int | None:
    """PIL's limit as it is outside of `pil_limit`."""
    with _lock:
        return Image.MAX_IMAGE_PIXELS


def load_pixels(image: Image.Image, max_pixels: int) -> None:
    """Decodes an image; threads decode the common formats at the same time.

    Args:
        image: An image that has at most `max_pixels` by its header.
        max_pixels: The limit for what the file contains besides, e.g. the images in an icon or the tiles of a TIFF.
    """
    if image.format is None or image.format in _SIZED_BY_HEADER:
        image.load()
        return
    with pil_limit(max_pixels):
        image.load()
