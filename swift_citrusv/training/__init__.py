"""The parts of a training run: datasets, lengths, packs, streams, loss, optimizer, metrics, checkpoints.

They subclass and call ms-swift, but only `plugin` patches it.
"""
