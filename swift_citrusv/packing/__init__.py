"""Bin packing: which rows share a sequence, and which rank takes which pack.

Works on sizes alone, without rows, tensors or models.
"""
