"""The memory tracker against sums by hand and PyTorch's profiler; the simulated kernels."""
import pytest
import torch
import torch.nn.functional as F
from support.training_step import allocated
from torch import nn
from torch.profiler import ProfilerActivity, profile

from swift_citrusv.estimate.memory_tracker import MemoryTracker, SimulatedKernels


@pytest.mark.parametrize('device', ['meta', 'cpu'])
def test_tracker_counts_by_hand(device):
    weight, x = (torch.zeros(64, 64, device=device).requires_grad_(grad) for grad in (True, False))
    tracker, square = MemoryTracker(device), 64 * 64 * 4
    tracker.exclude([weight, x])
    with tracker:
        y = F.gelu(x @ weight.t())
        assert tracker.live == 2 * square  # Input (kept for the backward pass) and output of the gelu.
        view = y.view(-1)
        assert tracker.live == 2 * square
        total = view.sum()
        del y, view
        assert tracker.live == square + 4
        tracker.reset_peak()
        total.backward()
        assert tracker.live == square + 4  # Only the gradient; the saved tensors are freed.
        # Two squares at a time: the gelu's input and its gradient, then that and the weight's; and two numbers, the sum
        # and its gradient.
        assert tracker.peak == 2 * square + 8


def test_tracker_adds_gradients_in_place_as_autograd_does():
    """Against PyTorch's profiler. Under a dispatch mode, autograd adds two gradients into a third tensor."""
    weight, x = torch.randn(512, 512, requires_grad=True), torch.randn(2048, 512)

    def run() -> None:
        y = x @ weight
        for _ in range(3):
            y = y + torch.tanh(torch.sin(y))
        y.sum().backward()
        weight.grad = None

    tracker = MemoryTracker('cpu')
    tracker.exclude([weight, x])
    with tracker:
        run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    peak, left = allocated(profiler)
    assert tracker.peak == pytest.approx(peak, rel=0.01) and tracker.live == left == 0


def test_heads_are_joined_without_a_copy():
    query, key, value = (torch.zeros(1, 4, 64, 32, device='meta', requires_grad=True) for _ in range(3))
    tracker = MemoryTracker()
    with tracker, SimulatedKernels(None):
        output = F.scaled_dot_product_attention(query, key, value)
        joined = output.transpose(1, 2).reshape(1, 64, 128)
    assert output.shape == query.shape and joined.untyped_storage()._cdata == output.untyped_storage()._cdata
    # The output, and a sum for each query and head.
    assert tracker.live == 4 * 64 * 128 + 4 * 64 * 4


def test_simulated_autocast():
    layer = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    with SimulatedKernels(torch.bfloat16):
        first = layer[0](torch.zeros(2, 8))
        second = layer[1](first)
        third = layer[2](second)
    assert [t.dtype for t in (first, second, third)] == [torch.bfloat16, torch.float32, torch.bfloat16]
    third.float().sum().backward()
    assert layer[0].weight.grad.dtype == torch.float32
