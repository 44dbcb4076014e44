"""Datasets, lengths, packs, streams, loss, optimizer, checkpoints: what a training run is made of.

It uses ms-swift's classes and replaces none of its methods (that is `plugin`), and knows nothing of inference.
"""
