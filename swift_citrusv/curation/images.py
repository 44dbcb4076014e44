"""What rows name as images, and what is remembered of them."""
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

_Result = TypeVar('_Result')
# Images that are remembered: many rows ask about one.
_REMEMBERED = 20000
# Longer references have the bytes inside.
_MAX_REFERENCE = 500


def images_of(data: Mapping[str, Any]) -> list[Any]:
    """The images of a row, in the column `images` or `image`."""
    return listed(data.get('images') or data.get('image') or None)


def listed(value: Any) -> list[Any]:
    """The entries of a column that holds one or several."""
    return value if isinstance(value, list) else [] if value is None or value == '' else [value]


def remembered(function: Callable[[Any], _Result]) -> Callable[[Any], _Result]:
    """A function of an image that opens each of the last files once."""
    by_name = lru_cache(_REMEMBERED)(function)
    return lambda image: (by_name if isinstance(image, str) and len(image) <= _MAX_REFERENCE else function)(image)
