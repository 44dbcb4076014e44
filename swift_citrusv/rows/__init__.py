"""The row contract: what a JSONL row may say, what its masks are, and how both are read.

It knows neither tokens nor models, and never imports ms-swift.
"""
