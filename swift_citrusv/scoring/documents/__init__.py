"""`citrusv eval documents`: parsing of lab reports and questions about medical documents (MedDocBench)."""
