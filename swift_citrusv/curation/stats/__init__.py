"""`citrusv data stats`: tables, pictures and one page about rows."""
