"""Exchanges between the ranks of a distributed run. All ranks make the same calls in the same order."""
import torch
import torch.distributed as dist
from collections.abc import Callable
from swift.utils import is_dist, is_master
from typing import Any, TypeVar

T = TypeVar('T')


def gather(value: T, world_size: int, group: Any = None) -> list[T]:
    """The values of all ranks, by rank; they are pickled."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value, group=group)
    return values


def any_rank(flag: bool, world_size: int, device: torch.device | str, group: Any = None) -> bool:
    """Whether `flag` is true on some rank."""
    if world_size == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=group)
    return bool(flags)


def run_on_rank_0(compute: Callable[[], T], errors: type[Exception] | tuple[type[Exception], ...]) -> T:
    """Calls `compute` on rank 0 only, and gives its result to every rank; without a process group, just calls it.

    Args:
        compute: Takes nothing; its result is pickled.
        errors: Errors of `compute` that every rank raises. After any other one, the other ranks wait until they time
            out.
    """
    if not (is_dist() and dist.is_initialized()):
        return compute()
    outcome: list[Any] = [None, None]
    if is_master():
        try:
            outcome[0] = compute()
        except errors as e:
            outcome[1] = e
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
