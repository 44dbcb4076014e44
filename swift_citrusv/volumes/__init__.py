"""Scans: a volume slice by slice on the way in, its masks as NIfTI or DICOM-SEG on the way out.

It never imports ms-swift; whatever answers for a slice is passed in.
"""
from .volume import Volume

__all__ = ['Volume']
