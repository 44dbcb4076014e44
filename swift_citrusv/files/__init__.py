"""Opening what a user named: images, videos, DICOM and NIfTI, under the rules of `FileRules`.

It knows nothing of rows, models or ms-swift, and opens nothing that the rules refuse.
"""
