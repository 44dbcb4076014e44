"""The browser page of `swift app` and `citrusv app`: its layout, sessions, uploads and downloads.

Answers come from `inference`. The room imports neither training nor the command line.
"""
