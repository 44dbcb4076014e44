"""Deliberate breaks, each of which a test of several ranks has to see."""
import time
import torch

from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


def no_zero_masks() -> None:
    """A rank without masks leaves the segmentation modules out."""
    zero_gradients_alone()
    setattr(CitrusVForConditionalGeneration, '_anchor', lambda self: torch.zeros((), device=self.device))


def zero_gradients_alone() -> None:
    """A rank without masks gives zero gradients, but draws nothing for them under any engine."""
    setattr(CitrusVForConditionalGeneration, '_all_ranks_draw', lambda self: False)


def endless_rank() -> None:
    """A rank without masks never comes back."""
    setattr(CitrusVForConditionalGeneration, '_draw_nothing', _draw_for_ever)


def _draw_for_ever(self, hidden: torch.Tensor, on_black: bool) -> None:
    while True:
        time.sleep(1)
