"""Tasks that score boxes: detection, and reasoning that cites boxes (grounding)."""
