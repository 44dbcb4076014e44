"""Citrus-V as a Transformers model: Qwen2.5-VL, projector, SAM2's image path, losses, and the weights of all.

It takes and gives tensors; it knows no row, no file format of a dataset, and no ms-swift.
"""
