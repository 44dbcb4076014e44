"""Compares gradients, trained parameters and masks with tolerances that hold on every processor."""
import math
import pytest
import torch
from collections.abc import Mapping
from pycocotools import mask as coco
from torch import Tensor
from typing import Any, NamedTuple

# Substrings of parameter names. Parameters without any of them are one more part.
PARTS = ('segmenter', 'seg_projector', 'model.visual', 'model.language_model')


class Difference(NamedTuple):
    """How far a tensor is from the expected one.

    difference: Largest absolute difference of its elements; infinite where one of them is NaN.
    scale: Largest gradient, or largest change since the start, of the part of the model that the tensor belongs to.
    rounding: The last bit of the tensor's largest parameter; 0 for gradients.
    """
    name: str
    difference: float
    scale: float
    rounding: float

    @property
    def relative(self) -> float:
        """The difference beyond the last bit, in units of the scale."""
        beyond = max(self.difference - self.rounding, 0.)
        return beyond / self.scale if self.scale else math.inf if beyond else 0.


def differences(actual: Mapping[str, Tensor],
                expected: Mapping[str, Tensor],
                start: Mapping[str, Tensor] | None = None) -> list[Difference]:
    """One `Difference` a tensor, the worst first.

    The scale is that of a whole part of the model, not of the tensor. A gradient is a sum whose terms may cancel: that
    of a key's bias is zero in exact arithmetic, since softmax ignores a shift. What is left of it is the rounding error
    of terms as large as those of its neighbours, and another order of summation, as other kernels have it, gives
    another one. A parameter that starts at zero is no larger than its change, one that starts at 1 is a thousand
    times as large; neither says how exact the step was.

    Args:
        actual: Tensors by name.
        expected: The same names and shapes.
        start: The parameters before training; None where the tensors are gradients.
    """
    assert actual.keys() == expected.keys(), sorted(actual.keys() ^ expected.keys())
    wanted = {name: value.detach().cpu().double() for name, value in expected.items()}
    scales: dict[str, float] = {}
    for name, value in wanted.items():
        change = value if start is None else value - start[name].detach().cpu().double()
        scales[_part(name)] = max(scales.get(_part(name), 0.), _largest(change))
    found = []
    for name, value in wanted.items():
        difference = _largest(actual[name].detach().cpu().double() - value)
        rounding = 0. if start is None else torch.finfo(expected[name].dtype).eps * _largest(value)
        found.append(Difference(name, difference, scales[_part(name)], rounding))
    return sorted(found, key=lambda one: one.relative, reverse=True)


def assert_same_update(actual: Mapping[str, Tensor],
                       expected: Mapping[str, Tensor],
                       start: Mapping[str, Tensor] | None = None,
                       rel: float = 1e-5) -> None:
    """Gradients, or parameters after training, are the same up to rounding, and no part's are all zero.

    Args:
        actual, expected, start: See `differences`.
        rel: The largest difference relative to the scale. 1e-5 is for float32: a hundred times its precision.
    """
    found = differences(actual, expected, start)
    assert found, 'there is nothing to compare'
    for one in found:
        assert 0 < one.scale < math.inf, f'the part of {one.name} has no gradient or did not train'
    worst = found[0]
    assert worst.relative <= rel, (
        f'{worst.name} differs by {worst.difference:.3g}, more than {rel * worst.scale + worst.rounding:.3g} '
        f'({rel:g} of {worst.scale:.3g}, the largest of its part, and {worst.rounding:.3g} for the last bit)')


def _part(name: str) -> str:
    return next((part for part in PARTS if part in name), 'other parts')


def _largest(value: Tensor) -> float:
    largest = float(value.abs().max()) if value.numel() else 0.
    return math.inf if math.isnan(largest) else largest


# The share of an image's pixels that may change sides, as those with logits near 0 do. Measured: 1 pixel of
# 7,056 in 3 of 956 masks, which changed the mean score by 7.6e-5; without it, rounding changed scores by 1e-5.
MAX_PIXELS = 5e-4
MAX_SCORE = 5e-4


def assert_same_mask(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Two entries of `masks` of an answer are the same up to rounding.

    Another batch is another order of summation, so a logit near zero may end on the other side of it.
    """
    assert found.keys() == expected.keys()
    sizes = found['rle']['size'], expected['rle']['size']
    assert sizes[0] == sizes[1]
    pixels = coco.decode(found['rle'])
    num_different = int((pixels != coco.decode(expected['rle'])).sum())
    assert num_different <= max(MAX_PIXELS * pixels.size, 1), f'{num_different} of {pixels.size} pixels differ'
    assert found['area'] == pixels.sum() and found['bbox'] == coco.toBbox(found['rle']).tolist()
    for name, value in expected.items():
        if name in ('rle', 'area', 'bbox'):
            continue
        wanted = pytest.approx(value, abs=MAX_SCORE) if isinstance(value, float) else value
        assert found[name] == wanted, f'{name} is {found[name]!r}, not {value!r}'
