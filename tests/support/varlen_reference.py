"""References for varlen attention: an explicit softmax, and a slow kernel with the arguments of torch's own."""
import torch
from collections.abc import Sequence
from torch import Tensor
from typing import Any


def softmax_attention(states: Sequence[Tensor], allowed: Tensor, scaling: float) -> Tensor:
    """[T, H, D] from queries [T, H, D], keys and values [T, K, D] and allowed bool [T, T], written out."""
    query, key, value = states
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = torch.einsum('thd,shd->hts', query, key) * scaling
    return torch.einsum('hts,shd->thd', scores.masked_fill(~allowed, -torch.inf).softmax(-1), value)


class SlowKernel:
    """A substitute for `varlen_attn` with the same arguments: one explicit softmax per sequence."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
        lengths = cu_seq_q.diff().tolist()
        assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
        assert cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query) == len(key) == len(value)
        assert max_q == max_k == max(lengths) and isinstance(max_q, int)
        assert query.dtype == key.dtype == value.dtype
        assert enable_gqa == (query.shape[1] != key.shape[1]) and window_size in ((-1, -1), (-1, 0))
        self.calls.append({'lengths': lengths, 'causal': window_size == (-1, 0)})
        parts = zip(*(states.split(lengths) for states in (query, key, value)))
        outputs = []
        for part, length in zip(parts, lengths):
            allowed = torch.ones(length, length, dtype=torch.bool)
            outputs.append(softmax_attention(part, allowed.tril() if window_size == (-1, 0) else allowed, scale))
        return torch.cat(outputs)
