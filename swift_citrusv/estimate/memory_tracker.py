"""A ledger of memory for steps on PyTorch's `meta` device, and stand-ins for what depends on the real device.

On `meta` a tensor has a shape, a type and a storage of so many bytes, but no contents. The ledger adds every storage
when it is made and takes it off when the last reference to it goes, autograd's among them, as an allocator without
fragmentation would. The stand-ins are the attention kernel and CUDA's autocast.
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


class Ledger(TorchDispatchMode):
    """Counts the bytes of the storages that are made under it on one device.

    Attributes:
        live: Bytes now.
        peak: The most since `mark`.
        gradients: How much of `live` are gradients of parameters; whoever makes them adds them here.
        peak_gradients: The same at the time of `peak`.
    """

    def __init__(self, device: str = 'meta') -> None:
        super().__init__()
        self.live = self.peak = self.gradients = self.peak_gradients = 0
        self._device = device
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        in_place = args[0].untyped_storage().nbytes() if _joins_gradients(func) else 0
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self._device:
                self._add(leaf.untyped_storage(), in_place)
        return result

    def _add(self, storage: torch.UntypedStorage, in_place: int) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: Any) -> None:
            self.live -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, gone)
        self.live += size
        if self.live - in_place > self.peak:
            self.peak, self.peak_gradients = self.live - in_place, self.gradients

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Never counts these tensors, nor views of them."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = weakref.ref(storage)

    def mark(self) -> None:
        self.peak, self.peak_gradients = self.live, self.gradients


def _joins_gradients(func: Any) -> bool:
    """Whether autograd adds up the gradients of two branches: in place, but not where a mode looks on, as ours does."""
    autograd = torch._C
    return (func is torch.ops.aten.add.Tensor and autograd._current_graph_task_id() != -1
            and autograd._current_autograd_node() is None)


class _Attention(torch.autograd.Function):
    """An attention kernel that makes no matrix of all pairs (FlashAttention's, and sdpa's memory-efficient one).

    It keeps queries, keys, values, output, and one number for each query and head.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask):
        # As the kernels lay it out: heads beside each other, so that joining them takes no copy.
        *others, num_heads, num_queries, _ = query.shape
        output = query.new_empty((*others, num_queries, num_heads, value.shape[-1])).transpose(-3, -2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        # sdpa makes an addend of a mask of bools, anew in each layer.
        ctx.save_for_backward(query, key, value, output, sums, None if mask is None else mask.to(query.dtype))
        return output

    @staticmethod
    def backward(ctx, gradient):
        return *(torch.empty_like(states) for states in ctx.saved_tensors[:3]), None


# What CUDA's autocast computes in the lower type, as far as SAM2 and the projector use it, and what in float32.
_LOWER = {F.linear, F.conv2d, F.conv_transpose2d, torch.matmul, Tensor.matmul, Tensor.__matmul__}
_HIGHER = {F.layer_norm, torch.pow, Tensor.pow, Tensor.__pow__}


class Kernels(TorchFunctionMode):
    """Puts `_Attention` in the place of sdpa, and does what CUDA's autocast would do.

    Args:
        autocast: The lower type of autocast; None where it is off.
    """

    def __init__(self, autocast: torch.dtype | None) -> None:
        super().__init__()
        self._autocast = autocast
        # As autocast does: parameters are cast once.
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._autocast is not None:
            if func in _LOWER or func is F.scaled_dot_product_attention:
                args, kwargs = tree_map_only(Tensor, self._lower, (args, kwargs))
            elif func in _HIGHER:
                args, kwargs = tree_map_only(Tensor, lambda t: t.float()
                                             if t.is_floating_point() else t, (args, kwargs))
        if func is F.scaled_dot_product_attention:
            query, key, value, *rest = args
            return _Attention.apply(query, key, value, rest[0] if rest else kwargs.get('attn_mask'))
        return func(*args, **kwargs)

    def _lower(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self._autocast)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor.to(self._autocast)
        return self._cast[id(tensor)]
