"""The step `deid`: takes identities out of headers, pixels and texts, and proves it."""
