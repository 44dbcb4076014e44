"""`citrusv data leaks`: rows that hold what an evaluation set asks.

`evaluation_sets` reads the sets, `index` describes their items once, `matches` seeks them in rows, and `step` decides.
"""
