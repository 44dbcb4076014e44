"""Applies rules about flags and settings to the arguments of a run."""
from collections.abc import Iterable
from typing import Any

from ...settings import Settings
from .rule import REFUSED, Rule, Run


def check_flags(args: Any, given: dict[str, Any], rules: Iterable[Rule]) -> None:
    """Refuses or warns of what would be ignored or go wrong.

    Args:
        args: ms-swift's arguments, with the defaults of a Citrus-V run.
        given: The flags that were given (`given.given_flags`).
        rules: Those of the command.

    Raises:
        ValueError: Flags are refused; the message has all of them, each with the reason and the remedy.
        SettingError: A setting has a value that cannot be used.
    """
    from swift.utils import get_logger
    run = Run(args, given, Settings.from_env())
    found = [(rule, names) for rule in rules if (names := rule.found(run))]
    refused = [rule.message(run, names) for rule, names in found if rule.outcome == REFUSED]
    if refused:
        raise ValueError('\n'.join(refused))
    for rule, names in found:
        get_logger().warning(rule.message(run, names))
