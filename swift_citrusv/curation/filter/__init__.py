"""`citrusv data filter`: rows of low quality, by images, length, text rules and the row contract."""
