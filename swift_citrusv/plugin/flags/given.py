"""Which flags of a run were given: what differs from ms-swift's defaults before it fills in any."""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any

# What ms-swift has filled in when an external plugin without the import hook first sees the arguments.
_FILLED_IN = frozenset({
    'bf16', 'bnb_4bit_compute_dtype', 'device_map', 'fp16', 'model_type', 'num_labels', 'rope_scaling', 'task_type',
    'template', 'torch_dtype', 'truncation_strategy', 'use_chat_template'
})
# The arguments whose defaults are being filled in, with the flags that were given.
_noted: list[tuple[Any, dict[str, Any]]] = []


def given_flags(args: Any, *, late: bool = False) -> dict[str, Any]:
    """The flags of a run that have another value than ms-swift's default, with that value.

    Args:
        args: ms-swift's arguments, before it has filled in defaults.
        late: Whether it has filled in some of them.
    """
    found = {}
    for spec in fields(args):
        if late and spec.name in _FILLED_IN or not hasattr(args, spec.name):
            continue
        default = spec.default if spec.default_factory is MISSING else spec.default_factory()
        value = getattr(args, spec.name)
        # A flag without a value is None or [].
        if value is not None and value != [] and value != default:
            found[spec.name] = value
    return found


@contextmanager
def noting(args: Any) -> Iterator[None]:
    """Notes the flags given in `args`, for the time in which ms-swift fills in defaults."""
    if noted(args) is not None:
        yield
        return
    _noted.append((args, given_flags(args)))
    try:
        yield
    finally:
        _noted[:] = [entry for entry in _noted if entry[0] is not args]


def noted(args: Any) -> dict[str, Any] | None:
    """The flags noted for `args`; None where they were made before the plugin was imported."""
    return next((given for noted_args, given in _noted if noted_args is args), None)
