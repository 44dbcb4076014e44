"""Citrus-V for stock ms-swift: a Qwen2.5-VL that also predicts masks with SAM2.

Public names, which keep their place and meaning:

- `CitrusVPipeline`: the model in Python, from images and a prompt to text and masks.
- `Volume`: the slices of a NIfTI file or DICOM series, and their masks as a file; also in `swift_citrusv.volumes`.
- `encode_rle`: a mask as the COCO RLE of a row.
- `swift_citrusv.register.register`: registers with ms-swift if the import hook is disabled.
- `__version__`.

Other modules may change between versions. Importing this package imports neither torch nor ms-swift: each name is
imported at its first use.
"""
from typing import Any

__version__ = '0.1.0'
__all__ = ['CitrusVPipeline', 'Volume', '__version__', 'encode_rle']


def __getattr__(name: str) -> Any:
    if name == 'CitrusVPipeline':
        from .pipeline import CitrusVPipeline
        return CitrusVPipeline
    if name == 'Volume':
        from .volumes import Volume
        return Volume
    if name == 'encode_rle':
        from .rows.masks import encode_rle
        return encode_rle
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
