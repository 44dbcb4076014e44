"""Scores of label maps in three dimensions, in millimetres: `citrusv eval volume`."""
