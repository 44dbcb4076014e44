"""Volumes: reads scans slice by slice, and writes their masks as NIfTI or DICOM segmentations.

Never imports ms-swift; the function that segments slices is passed in.
"""
from .volume import Volume

__all__ = ['Volume']
