"""Runs a rank in float64, which tells rounding from a real difference."""
import torch
from contextlib import ExitStack
from swift.pipelines import SwiftSft
from torch import nn
from typing import NamedTuple
from unittest import mock


class Precision(NamedTuple):
    """How a run of `Launcher` computes, and how close two of its runs are, relative to the update."""
    sabotage: str | None
    rel: float


# What agrees in float64 to 1e-12 differs in float32 by rounding alone.
PRECISIONS = {'float32': Precision(None, 1e-5), 'float64': Precision('precision.float64', 1e-12)}


def float64() -> None:
    """For `Launcher.run(sabotage='precision.float64')`: trains in float64, from the moment that the model is loaded.

    ms-swift refuses `--torch_dtype float64`, and some steps of the model cast to float32 by name.
    """
    run = SwiftSft.run

    def run_in_float64(self):
        self.model.double()
        with ExitStack() as stack:
            for owner, name, double in ((torch, 'float', torch.float64), (torch, 'float32', torch.float64),
                                        (torch.Tensor, 'float', torch.Tensor.double), (nn.Module, 'float',
                                                                                       nn.Module.double)):
                stack.enter_context(mock.patch.object(owner, name, double))
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
            return run(self)

    setattr(SwiftSft, 'run', run_in_float64)
