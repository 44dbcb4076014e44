"""`citrusv eval`: the command, one file of options a task, and the step in which a model answers first.

How a task is scored is `scoring`'s business.
"""
