"""How a method of ms-swift is replaced: once, and only while it has the shape that the patch expects."""
import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..constants import MODEL_TYPE
from ..errors import CompatibilityError

_MARK = '_swift_citrusv_patch'


def check(symbol: str, function: Callable, parameters: tuple[str, ...]) -> None:
    names = list(inspect.signature(function).parameters)
    if not set(parameters) <= set(names):
        raise CompatibilityError(
            f'{symbol} has the parameters {names}; swift-citrusv expects {list(parameters)} among them. '
            'Install ms-swift >=4.6,<4.7, or set SWIFT_CITRUSV_DISABLE=1 to run without the plugin.')


def wrap(owner: Any, name: str, parameters: tuple[str, ...], wrapper: Callable[[Callable], Callable]) -> None:
    """Replaces `owner.name` by `wrapper(original)`, once, after a check of its parameters."""
    symbol = f'{getattr(owner, "__module__", "")}.{getattr(owner, "__qualname__", owner.__name__)}.{name}'.lstrip('.')
    original = getattr(owner, name, None)
    if original is None:
        raise CompatibilityError(
            f'{symbol} is gone. Install ms-swift >=4.6,<4.7, or set SWIFT_CITRUSV_DISABLE=1 to run '
            'without the plugin.')
    # One symbol may have several wrappers, each of them once.
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


def is_citrusv(template: Any) -> bool:
    return getattr(getattr(template, 'template_meta', None), 'template_type', None) == MODEL_TYPE


def is_lenient(template: Any, strict: bool | None) -> bool:
    # RLHF makes other batches.
    return not strict and is_citrusv(template) and template.mode == 'train'


def wrap_class_name(module: Any, name: str, parameters: tuple[str, ...], wrapper: Callable[[Callable],
                                                                                           Callable]) -> None:
    """As `wrap`, for a class that its module calls by name; `isinstance` against the name must keep working."""
    original = getattr(module, name, None)
    if original is None:
        raise CompatibilityError(f'{module.__name__}.{name} is gone. Install ms-swift >=4.6,<4.7.')
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
