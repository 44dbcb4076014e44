"""Images whose pixels are read on first use, as PIL does for its own formats."""
import os
from collections.abc import Callable
from PIL import Image
from typing import Any


class LazyImage(Image.Image):
    """An image whose pixels are read on first use.

    Args:
        size: (width, height).
        mode: The PIL mode of the pixels.
        file_format: The format of the file, as PIL names it.
        read: Returns the pixels as an image of this size and mode.
        source: The open file behind it. `source` is None after the pixels are read.
        owned: Whether closing this image closes `source`.
    """
    # Unpickled images already have their pixels.
    _read: Callable[[], Image.Image] | None = None
    source: Image.Image | None = None
    _owned = False

    def __init__(self,
                 size: tuple[int, int],
                 mode: str,
                 file_format: str | None,
                 read: Callable[[], Image.Image],
                 source: Image.Image | None = None,
                 owned: bool = False) -> None:
        super().__init__()
        self._mode, self._size = mode, size
        self.format = file_format
        self._read, self.source, self._owned = read, source, owned

    def load(self) -> Any:
        if self._read is not None:
            pixels = self._read()
            pixels.load()
            self.im, self.palette = pixels.im, pixels.palette
            self._mode, self._size = pixels.mode, pixels.size
            if 'transparency' in pixels.info:
                self.info['transparency'] = pixels.info['transparency']
            self._close_source()
            self._read = self.source = None
        return super().load()

    def close(self) -> None:
        self._close_source()
        super().close()

    def __exit__(self, *args: Any) -> None:
        # As PIL's own files: the pixels that were read stay.
        self._close_source()

    def _close_source(self) -> None:
        if self.source is not None and self._owned:
            self.source.close()
            self._read = self.source = None


def stored_image(image: Image.Image) -> Image.Image:
    """The image as its file holds it, with PIL's attributes of the format; the image itself if it is not lazy."""
    while isinstance(image, LazyImage) and image.source is not None:
        image = image.source
    return image


def image_name(image: Image.Image) -> str:
    """The name of the file of an image, without folders, for messages."""
    return os.path.basename(str(getattr(stored_image(image), 'filename', ''))) or 'an image'
