"""Checks the errors of many calls in one test: each failure names its call."""
import pytest
import re
from collections.abc import Callable
from typing import Any, TypeVar

from swift_citrusv.rows.mask_format import short_repr

Error = TypeVar('Error', bound=Exception)


def raised_by(expected: type[Error], call: Callable[..., Any], *args: Any, **kwargs: Any) -> Error:
    """The error of type `expected` that a call raises; a test failure that names the call if it raises none."""
    try:
        result = call(*args, **kwargs)
    except expected as error:
        return error
    shown = ', '.join([*map(short_repr, args), *(f'{key}={short_repr(value)}' for key, value in kwargs.items())])
    pytest.fail(f'{getattr(call, "__name__", call)}({shown}) raised no {expected.__name__}, but returned {result!r}')


def assert_raises(expected: type[Error], pattern: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """`pytest.raises(expected, match=pattern)` for one call of many."""
    message = str(raised_by(expected, call, *args, **kwargs))
    case = [*map(short_repr, args), *(f'{key}={short_repr(value)}' for key, value in kwargs.items())]
    assert re.search(pattern, message), f'{case}: {message!r} does not match {pattern!r}'
