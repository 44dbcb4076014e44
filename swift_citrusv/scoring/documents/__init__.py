"""The task that scores readings of lab reports and other medical documents (MedDocBench)."""
