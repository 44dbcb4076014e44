"""Opens images, videos, DICOM and NIfTI files, within the limits of `rules.FileRules`.

Independent of rows, models and ms-swift.
"""
