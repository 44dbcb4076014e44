"""Errors that user input can cause."""

# What ms-swift, Transformers and the libraries below them raise on a bad row. Not MemoryError, which a row does not
# cause.
ROW_ERRORS = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, OSError,
              RuntimeError)


class RowError(ValueError):
    """A dataset row that breaks the row contract.

    Args:
        row: The row's name, e.g. 'train.jsonl:12' (lines count from 1).
        problem: What is wrong, with the value.
        remedy: What the user can do about it.
        kind: A short, stable name of the problem, e.g. 'mask-count'; skipped rows are counted by it.
    """

    def __init__(self, row: str, problem: str, remedy: str, kind: str = 'row') -> None:
        super().__init__(f'{row}: {problem} {remedy}')
        self.row = row
        self.problem = problem
        self.remedy = remedy
        self.kind = kind

    def __reduce__(self):
        # DataLoader workers and `datasets.map` send errors between processes by pickle.
        return type(self), (self.row, self.problem, self.remedy, self.kind)


class CompatibilityError(RuntimeError):
    """A symbol of ms-swift or Transformers has changed, so that a patch does not fit it."""
