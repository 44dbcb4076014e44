"""`citrusv eval`: the command, one file of options per task, and the optional prediction step.

The scoring itself is in `scoring`.
"""
