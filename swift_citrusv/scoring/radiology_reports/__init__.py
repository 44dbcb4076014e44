"""The task that scores generated radiology reports."""
