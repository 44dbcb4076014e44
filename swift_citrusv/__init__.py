"""Citrus-V for stock ms-swift: a Qwen2.5-VL that also predicts masks with SAM2.

Public names, which keep their place and meaning:
- `CitrusVPipeline`: the model in Python, from images and a prompt to text and masks; imported at its first use.
- `__version__`.
- `swift_citrusv.plugin.register.register`: registers with ms-swift where the import hook is disabled.
- `swift_citrusv.volumes.Volume`: the slices of a NIfTI file or DICOM series, and their masks as a file.

Other modules may change between versions. Importing this package imports neither torch nor ms-swift.
"""
from typing import Any

__version__ = '0.1.0'
__all__ = ['CitrusVPipeline', '__version__']


def __getattr__(name: str) -> Any:
    if name == 'CitrusVPipeline':
        from .pipeline import CitrusVPipeline
        return CitrusVPipeline
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
