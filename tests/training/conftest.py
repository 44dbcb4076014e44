"""What the tests of this folder share."""
from support.resumed_run import start  # noqa: F401
