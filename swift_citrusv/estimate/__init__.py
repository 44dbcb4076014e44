"""Estimates the memory and the FLOPs of a training step without weights, data or a GPU.

Never imports ms-swift, and reads no dataset.
"""
