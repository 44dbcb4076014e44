"""Deliberate faults that a test of several ranks has to detect."""
import time
import torch

from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


def no_zero_masks() -> None:
    """A rank without masks leaves the segmentation modules out."""
    zero_gradients_alone()
    setattr(CitrusVForConditionalGeneration, '_zero_term', lambda self: torch.zeros((), device=self.device))


def zero_gradients_alone() -> None:
    """A rank without masks gives zero gradients, but draws nothing for them under any engine."""
    setattr(CitrusVForConditionalGeneration, '_must_run_sam2', lambda self: False)


def endless_rank() -> None:
    """A rank without masks hangs."""
    setattr(CitrusVForConditionalGeneration, '_empty_masks', _draw_for_ever)


def _draw_for_ever(self, hidden: torch.Tensor, run_sam2: bool) -> None:
    while True:
        time.sleep(1)
