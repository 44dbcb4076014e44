"""`citrusv try`: from a user's rows to held-out masks of a tiny model, on a laptop.

What belongs here: the split, the checks that say whether rows can be learned, the stages and their runs of stock
`swift sft`, the scores and the page. The demo uses the same code. The command line is `cli.try_rows`.
"""
