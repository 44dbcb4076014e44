"""How much memory and how many FLOPs a training step takes, worked out without weights, data or a GPU.

It never imports ms-swift, and reads no dataset.
"""
