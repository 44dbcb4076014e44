"""`citrusv eval`: a folder for each kind of task, and what all tasks share (pairing, bootstrap, tables, the judge).

It scores files, whatever wrote them, and never imports ms-swift. A task never imports another.
"""
