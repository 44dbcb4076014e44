"""Names of rows without the folder, which is a temporary one in tests."""


def bare(row_id: str) -> str:
    """'train.jsonl:3' for 'A/train.jsonl:3'."""
    return row_id.rpartition('/')[2]
