"""The task that scores the text of radiology reports."""
