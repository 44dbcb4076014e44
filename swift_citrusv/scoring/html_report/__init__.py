"""The HTML report of an evaluation: scores, charts, and cases with pictures."""
