"""What a rule about flags or settings is, and what it sees of a run."""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...settings import Settings

REFUSED, WARNED = 'refused', 'warned'


@dataclass(frozen=True)
class Run:
    """The arguments of one run.

    args: ms-swift's arguments, most of their defaults filled in.
    given: The flags that were given another value than ms-swift's default, with that value.
    settings: The plugin's settings.
    """
    args: Any
    given: dict[str, Any] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)

    def sets(self, setting: str) -> bool:
        """Whether a setting differs from its default."""
        return getattr(self.settings, setting) != getattr(Settings(), setting)


@dataclass(frozen=True)
class Rule:
    """When flags (or settings) of a run are refused or warned of.

    outcome: `REFUSED` or `WARNED`.
    flags: Their names, separated by spaces.
    values: Which values or combinations, in words, for the documentation; '' for any but the default.
    reason: Why, one sentence.
    remedy: What to do instead, one sentence.
    example: Flags of a run that the rule stops or warns of, one for each name of `flags`, for the tests; '{}' stands
        for the name. '' where a value that differs from the default is enough.
    when: What else must hold for a run; None for nothing else.
    always: Whether `when` alone decides, because the value may come from elsewhere, such as a checkpoint.
    """
    outcome: str
    flags: str
    values: str
    reason: str
    remedy: str
    example: str = ''
    when: Callable[[Run], bool] | None = None
    always: bool = False

    def names(self) -> list[str]:
        return self.flags.split()

    def found(self, run: Run) -> list[str]:
        """The names that a run gives, if the rule applies to it; the first name where it applies in any case."""
        found = [name for name in self.names() if name in run.given]
        if self.always and not found:
            found = self.names()[:1]
        return found if found and (self.when is None or self.when(run)) else []

    def message(self, run: Run, names: list[str]) -> str:
        """The text for the user: each flag with its value, the reason and the remedy."""
        values = {name: run.given.get(name, getattr(run.args, name, None)) for name in names}
        flags = ', '.join(f'--{name} {_text(value)}' for name, value in values.items())
        return f'{flags}: {self.reason} {self.remedy}'


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ' '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
