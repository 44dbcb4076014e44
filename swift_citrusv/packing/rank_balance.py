"""Orders packs so that the ranks of a distributed run get packs of similar cost in each step."""
import numpy as np


def balanced_order(costs: np.ndarray, world_size: int, *, seed: int, window: int = 64) -> np.ndarray:
    """Orders packs so that the packs of a step, one for each rank, cost nearly the same.

    The packs are shuffled and cut into windows of `window * world_size`. A window is sorted by cost and cut into
    steps of `world_size` neighbours; the steps are shuffled within the window, and the packs within their step. So the
    costs of a step differ by about 1 / `window` of their spread, while the packs of a window, the order of steps and
    the rank of each pack stay random. The result depends only on the arguments, so it is the same on every rank.

    Args:
        costs: Estimated cost of each pack in any unit, >= 0, float or integer `[n]`; n is a multiple of `world_size`.
        world_size: Number of ranks, and of packs in a step, >= 1.
        seed: Seed of the shuffle, >= 0; use another one in each epoch.
        window: Number of steps sorted together, >= 1. 1: a plain shuffle.

    Returns:
        Indices of the packs, each once, int64 `[n]`. Step s is `[s * world_size:(s + 1) * world_size]`, and rank r
        gets `[r::world_size]`.

    Raises:
        ValueError: `costs` has another shape, a negative or a non-finite number, or n is not a multiple of
            `world_size`; `world_size` or `window` is less than 1.
    """
    costs = _check(costs, world_size)
    if window < 1:
        raise ValueError(f'window is {window}: give the number of steps to sort together, >= 1.')
    rng = np.random.Generator(np.random.PCG64(seed))
    order = rng.permutation(len(costs))
    size = window * world_size
    for start in range(0, len(order), size):
        part = order[start:start + size]
        steps = part[np.argsort(costs[part], kind='stable')].reshape(-1, world_size)
        steps = rng.permuted(rng.permutation(steps), axis=1)
        order[start:start + size] = steps.ravel()
    return order


def imbalance(costs_in_order: np.ndarray, world_size: int) -> float:
    """The expected share of time that ranks spend waiting for the slowest rank of their step.

    A step takes as long as its most costly pack::

        imbalance = sum over steps of (max - mean) / sum over steps of max

    Args:
        costs_in_order: Estimated costs of the packs, float or integer `[n]`, in the order of `balanced_order`.
        world_size: Number of ranks, and of packs in a step, >= 1.

    Returns:
        0 (no rank waits) to 1 - 1 / world_size (one rank works while the others wait). 0 if all costs are 0.

    Raises:
        ValueError: As in `balanced_order`.
    """
    steps = _check(costs_in_order, world_size).reshape(-1, world_size)
    longest = steps.max(axis=1)
    total = longest.sum()
    return float((longest - steps.mean(axis=1)).sum() / total) if total else 0.


def _check(costs: np.ndarray, world_size: int) -> np.ndarray:
    """Returns the costs as float64 `[n]`."""
    if world_size < 1:
        raise ValueError(f'world_size is {world_size}: give the number of ranks, >= 1.')
    array = np.asarray(costs, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f'The costs have shape {array.shape}: give one number for each pack.')
    if len(array) % world_size:
        raise ValueError(f'{len(array)} packs cannot be shared by {world_size} ranks in full steps: call '
                         'split_to_multiple first.')
    bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(bad):
        raise ValueError(f'Pack {bad[0]} has cost {array[bad[0]]}: give a finite number >= 0.')
    return array
