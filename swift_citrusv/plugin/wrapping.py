"""Replaces a function of ms-swift: once, and only if it still has the parameters that the patch expects."""
import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..constants import MODEL_TYPE
from ..errors import CompatibilityError

# An attribute of each replacement: the wrappers that made it.
_MARK = '_swift_citrusv_patch'


def incompatible(problem: str) -> CompatibilityError:
    """The error for an ms-swift that has changed; `problem` names the symbol and ends without a full stop."""
    return CompatibilityError(
        f'{problem}. Install ms-swift >=4.6,<4.7, or set SWIFT_CITRUSV_DISABLE=1 to run without the plugin.')


def check(symbol: str, function: Callable, parameters: tuple[str, ...]) -> None:
    """Checks that a function has these parameters.

    Args:
        symbol: Its full name, for the message.

    Raises:
        CompatibilityError: A parameter is missing.
    """
    names = list(inspect.signature(function).parameters)
    if not set(parameters) <= set(names):
        raise incompatible(f'{symbol} has the parameters {names}; swift-citrusv expects {list(parameters)} among them')


def wrap(owner: Any, name: str, parameters: tuple[str, ...], wrapper: Callable[[Callable], Callable]) -> None:
    """Replaces `owner.name` with `wrapper(original)`; does nothing if this wrapper was applied before.

    Args:
        owner: A module or class.
        parameters: Names that the original must have among its parameters.

    Raises:
        CompatibilityError: `owner` has no such attribute, or a parameter is missing.
    """
    symbol = f'{getattr(owner, "__module__", "")}.{getattr(owner, "__qualname__", owner.__name__)}.{name}'.lstrip('.')
    original = getattr(owner, name, None)
    if original is None:
        raise incompatible(f'{symbol} is gone')
    # A symbol may have several wrappers, each applied once.
    marks: frozenset[str] = getattr(original, _MARK, frozenset())
    mark = f'{wrapper.__module__}.{wrapper.__qualname__}'
    if mark in marks:
        return
    check(symbol, original, parameters)
    patched = wrapper(original)
    inner = patched.__func__ if isinstance(patched, (classmethod, staticmethod)) else patched
    functools.update_wrapper(inner, original)
    setattr(inner, _MARK, marks | {mark})
    setattr(owner, name, patched)


def wrap_class(module: Any, name: str, parameters: tuple[str, ...], wrapper: Callable[[Callable], Callable]) -> None:
    """As `wrap`, for a class that code in `module` calls by its name.

    `wrapper` gets the class and returns the function that makes instances. `isinstance(x, module.name)` stays true for
    instances of the original class.
    """
    original = getattr(module, name, None)
    if original is None:
        raise incompatible(f'{module.__name__}.{name} is gone')
    if getattr(original, _MARK, False):
        return
    check(f'{module.__name__}.{name}', original, parameters)
    make = wrapper(original)
    wrapped: type = original

    class Meta(type(original)):  # type: ignore[misc]

        def __call__(cls, *args, **kwargs):
            return make(*args, **kwargs)

        def __instancecheck__(cls, instance):
            return isinstance(instance, wrapped)

    patched = Meta(original.__name__, (original, ), {'__module__': original.__module__, _MARK: True})
    setattr(module, name, patched)


def is_citrusv(template: Any) -> bool:
    """Whether this is our template."""
    return getattr(getattr(template, 'template_meta', None), 'template_type', None) == MODEL_TYPE


def skips_bad_rows(template: Any, strict: bool | None) -> bool:
    """Whether the run skips rows that cannot be encoded: supervised training with `--strict false`."""
    # RLHF makes other batches.
    return not strict and is_citrusv(template) and template.mode == 'train' and template.trains_masks
