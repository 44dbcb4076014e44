"""Splits rows into training and held-out ones, so that no image, and no patient, is in both."""
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

from .user_rows import UserMask, UserRow

_HELD_OUT = .2


def groups_of(rows: Sequence[UserRow]) -> list[str]:
    """For each row its group: rows that share an image, or a patient, directly or through other rows (union-find).

    Rows without an image are groups of their own.
    """
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    keys = [[*filter(None, [item.group]), *(f'image {image}' for image in item.images)] or [f'row {item.name}']
            for item in rows]  # yapf: disable
    for own in keys:
        for key in own[1:]:
            one, other = sorted((root(own[0]), root(key)))
            parents[other] = one
    return [root(own[0]) for own in keys]


def split_rows(rows: Sequence[UserRow], masks: Sequence[UserMask], most: int) -> tuple[list[int], list[int]]:
    """Chooses the held-out rows: whole groups, about a fifth of the groups with masks, the same at every call.

    A group stays in training if a name would otherwise be missing there.

    Args:
        rows: All rows.
        masks: Their masks.
        most: The most held-out rows; groups beyond them train.

    Returns:
        Indices of the training rows and of the held-out rows. Held-out rows have masks; all other rows train, except
        rows without masks about a held-out image, which are left out.
    """
    groups = groups_of(rows)
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    names: dict[str, set[str]] = defaultdict(set)
    for mask in masks:
        names[groups[mask.row]].add(mask.name)
    # By hash: neighbours in the file, often slices of one scan, are spread.
    order = sorted(names, key=lambda group: blake2b(group.encode('utf-8', 'replace')).digest())
    left: dict[str, int] = defaultdict(int)
    for group in order:
        for name in names[group]:
            left[name] += 1
    wanted = max(1, round(_HELD_OUT * len(order)))
    held: list[str] = []
    num_rows = 0
    for group in order:
        size = sum(rows[index].num_masks > 0 for index in members[group])
        if len(held) == wanted or len(order) - len(held) == 1:
            break
        if num_rows + size > most and held or any(left[name] == 1 for name in names[group]):
            continue
        held.append(group)
        num_rows += size
        for name in names[group]:
            left[name] -= 1
    chosen = set(held)
    val = [index for index, group in enumerate(groups) if group in chosen and rows[index].num_masks]
    train = [index for index, group in enumerate(groups) if group not in chosen]
    return train, val


def sample_rows(rows: Sequence[UserRow], most: int) -> list[int]:
    """At most `most` rows with masks and as many without, whole images, the same at every call; in the file's order."""
    chosen: list[int] = []
    groups = [item.images[0] if item.images else item.name for item in rows]
    for with_masks in (True, False):
        own = [index for index, item in enumerate(rows) if (item.num_masks > 0) == with_masks]
        if len(own) > most:
            own.sort(key=lambda index: (blake2b(groups[index].encode('utf-8', 'replace')).digest(), index))
        chosen += own[:most]
    return sorted(chosen)
