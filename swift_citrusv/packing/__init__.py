"""Bin packing: which rows share a sequence, and which rank takes which pack, from their sizes alone.

Numbers in, numbers out: it knows nothing of rows, tensors or models.
"""
