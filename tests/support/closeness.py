"""Compares two sets of gradients or trained parameters with a tolerance that holds on every processor."""
import math
import torch
from collections.abc import Mapping
from torch import Tensor
from typing import NamedTuple

# Substrings of parameter names; what has none of them is one more part.
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
