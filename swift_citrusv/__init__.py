"""Citrus-V for stock ms-swift: a Qwen2.5-VL that also draws masks with SAM2.

Importing this package imports neither torch nor swift; `swift_citrusv.register` does the registration.
"""
__version__ = '0.1.0'
