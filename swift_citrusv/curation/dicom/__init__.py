"""The step `dicom`: slices of DICOM and NIfTI files, series by series."""
