"""Rows to tensors: the ms-swift template, which encodes, packs and collates rows, and measures them without pixels.

It knows no dataset, no trainer and no cache: one row, pack or batch at a time.
"""
