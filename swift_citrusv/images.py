"""Image files, opened where ms-swift looks for them."""
import os
from PIL import Image

# What PIL, its decoders and ms-swift's `load_image` raise on files that are missing, cut short, forged or not images
# (found by fuzzing), and on what names no file at all.
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, TypeError, RuntimeError, LookupError, AttributeError, AssertionError,
                Image.DecompressionBombError)


def open_image(name: str) -> Image.Image:
    """Opens an image or mask file: the one of that name, or else the one under ROOT_IMAGE_DIR.

    Raises:
        OSError: There is no such file, or nothing in it; any of `IMAGE_ERRORS` where it is no image.
    """
    path = name
    if not os.path.exists(name):
        path = os.path.expanduser(os.path.join(os.environ.get('ROOT_IMAGE_DIR', ''), name))
    # PIL would wait for ever on a pipe, and calls an empty file unidentified.
    if not os.path.exists(path):
        raise FileNotFoundError('no such file (paths are relative to the working directory, or to ROOT_IMAGE_DIR)')
    if not os.path.isfile(path):
        raise OSError('not a regular file')
    if not os.path.getsize(path):
        raise OSError('the file is empty')
    return Image.open(path)
