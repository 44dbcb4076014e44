"""`citrusv data dedup`: rows that say the same, exactly or nearly, of text alone or about the same images.

`signatures` describes each row, `clusters` joins them over the whole input, and `step` applies the result.
"""
