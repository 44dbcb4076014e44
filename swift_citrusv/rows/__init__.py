"""The row contract: reads and checks JSONL rows and their masks.

Independent of tokenizers and models; never imports ms-swift.
"""
