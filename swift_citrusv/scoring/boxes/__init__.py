"""`citrusv eval detection` and `citrusv eval grounding`: boxes in answers, and in the reasoning of answers."""
