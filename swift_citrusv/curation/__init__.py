"""`citrusv data`: cleaning of training rows, with a record of every decision.

Modules of this folder are the ground that all steps stand on; each step has a folder of its own. A step decides on rows
one by one (`step.Step`), `shard_task` applies it to a part of the input, `engine` runs the parts, and `run` ties them
together.
"""
