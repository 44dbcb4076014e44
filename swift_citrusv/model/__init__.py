"""Citrus-V as a Transformers model: Qwen2.5-VL, projector, SAM2's image path, losses, and checkpoint files.

Inputs and outputs are tensors. Dataset rows and ms-swift are not used here.
"""
