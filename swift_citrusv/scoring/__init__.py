"""`citrusv eval`: one folder per task, and what the tasks share (pairing, bootstrap, tables, the judge).

It scores files, whatever program wrote them, and never imports ms-swift. Tasks do not import each other.
"""
