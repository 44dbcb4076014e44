"""Tracks memory on PyTorch's `meta` device, and simulates kernels and autocast of a GPU there.

On `meta` a tensor has a shape, a dtype and the size of its storage, but no contents. `MemoryTracker` counts every
storage from its creation until its last reference is gone, including those of autograd, as an allocator without
fragmentation would. `SimulatedKernels` replaces the attention kernel and applies the rules of CUDA's autocast.
"""
import torch
import torch.nn.functional as F
import weakref
from collections.abc import Iterable
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from typing import Any


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of the storages that are created on one device while it is active.

    Attributes:
        live: Bytes that are allocated now.
        peak: The maximum of `live` since `reset_peak`.
        gradients: The bytes of parameter gradients within `live`; the caller updates it.
        peak_gradients: The value of `gradients` at the time of `peak`.
    """

    def __init__(self, device: str = 'meta') -> None:
        super().__init__()
        self.live = self.peak = self.gradients = self.peak_gradients = 0
        self._device = device
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        in_place = args[0].untyped_storage().nbytes() if _accumulates_gradients(func) else 0
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self._device:
                self._add(leaf.untyped_storage(), in_place)
        return result

    def _add(self, storage: torch.UntypedStorage, in_place: int) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def release(_: Any) -> None:
            self.live -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, release)
        self.live += size
        if self.live - in_place > self.peak:
            self.peak, self.peak_gradients = self.live - in_place, self.gradients

    def exclude(self, tensors: Iterable[Tensor]) -> None:
        """Does not count these tensors or views of them."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = weakref.ref(storage)

    def reset_peak(self) -> None:
        """Starts a new maximum."""
        self.peak, self.peak_gradients = self.live, self.gradients


def _accumulates_gradients(func: Any) -> bool:
    """Whether autograd adds the gradients of two branches: it does so in place, but not under a dispatch mode."""
    autograd = torch._C
    return (func is torch.ops.aten.add.Tensor and autograd._current_graph_task_id() != -1
            and autograd._current_autograd_node() is None)


class _FusedAttention(torch.autograd.Function):
    """An attention kernel without a T x T matrix (FlashAttention, or sdpa's memory-efficient kernel).

    It keeps queries, keys, values, output, and one number for each query and head.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask):
        # The layout of the kernels: heads are adjacent, so that joining them takes no copy.
        *others, num_heads, num_queries, _ = query.shape
        output = query.new_empty((*others, num_queries, num_heads, value.shape[-1])).transpose(-3, -2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        # sdpa converts a boolean mask to an additive one in each layer.
        ctx.save_for_backward(query, key, value, output, sums, None if mask is None else mask.to(query.dtype))
        return output

    @staticmethod
    def backward(ctx, gradient):
        return *(torch.empty_like(states) for states in ctx.saved_tensors[:3]), None


# The functions that CUDA's autocast computes in the lower dtype and in float32, as far as SAM2 and the projector use
# them.
_LOWER_DTYPE = {F.linear, F.conv2d, F.conv_transpose2d, torch.matmul, Tensor.matmul, Tensor.__matmul__}
_FLOAT32 = {F.layer_norm, torch.pow, Tensor.pow, Tensor.__pow__}


class SimulatedKernels(TorchFunctionMode):
    """Replaces sdpa by `_FusedAttention`, and casts as CUDA's autocast does.

    Args:
        autocast: The lower dtype of autocast; None if it is off.
    """

    def __init__(self, autocast: torch.dtype | None) -> None:
        super().__init__()
        self._autocast = autocast
        # Parameters are cast once, as in autocast.
        self._cast_parameters: dict[int, Tensor] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._autocast is not None:
            if func in _LOWER_DTYPE or func is F.scaled_dot_product_attention:
                args, kwargs = tree_map_only(Tensor, self._to_lower, (args, kwargs))
            elif func in _FLOAT32:
                args, kwargs = tree_map_only(Tensor, lambda t: t.float()
                                             if t.is_floating_point() else t, (args, kwargs))
        if func is F.scaled_dot_product_attention:
            query, key, value, *rest = args
            return _FusedAttention.apply(query, key, value, rest[0] if rest else kwargs.get('attn_mask'))
        return func(*args, **kwargs)

    def _to_lower(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self._autocast)
        if id(tensor) not in self._cast_parameters:
            self._cast_parameters[id(tensor)] = tensor.to(self._autocast)
        return self._cast_parameters[id(tensor)]
