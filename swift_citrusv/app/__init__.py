"""The browser page of `swift app` and `citrusv app`: its layout, sessions, uploads and downloads.

It asks for answers through `inference`, and knows nothing of training or of the command line.
"""
