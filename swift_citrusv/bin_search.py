"""The exact answer for a handful of items: a depth-first search for a packing into a given number of bins."""


def search(tokens: list[int], images: list[int], capacity: int, image_capacity: int, num_bins: int,
           max_steps: int) -> list[int] | None:
    """Looks for a packing into `num_bins` bins.

    Item after item is tried in each bin that holds it, bins with the same room only once, and a branch ends where the
    room in all bins is less than what is still to be placed.

    Args:
        tokens, images: The items, best by decreasing size, `[n]`.
        capacity, image_capacity: What a bin holds.
        num_bins: Bins, >= 0.
        max_steps: Placements to try before giving up, about a microsecond each.

    Returns:
        The bin of each item, `[n]`. None: there is no such packing, or the steps were used up before one was found.
    """
    bins = [0] * len(tokens)
    tokens_left = [capacity] * num_bins
    images_left = [image_capacity] * num_bins
    steps = 0

    def place(item: int, spare_tokens: int, spare_images: int) -> bool:
        """`spare_*` is the room in all bins beyond what items from `item` on need, if no bin's rest is lost."""
        nonlocal steps
        if item == len(tokens):
            return True
        size, pictures = tokens[item], images[item]
        tried = set()
        for number in range(num_bins):
            room = tokens_left[number], images_left[number]
            if room[0] < size or room[1] < pictures or room in tried:
                continue
            tried.add(room)
            steps += 1
            if steps > max_steps:
                return False
            # What remains in the bin is lost if none of the items to come is so small.
            rest_tokens, rest_images = room[0] - size, room[1] - pictures
            lost = rest_tokens < least_tokens[item + 1] or rest_images < least_images[item + 1]
            lost_tokens, lost_images = (rest_tokens, rest_images) if lost else (0, 0)
            if lost_tokens > spare_tokens or lost_images > spare_images:
                continue
            bins[item] = number
            tokens_left[number], images_left[number] = (0, 0) if lost else (rest_tokens, rest_images)
            if place(item + 1, spare_tokens - lost_tokens, spare_images - lost_images):
                return True
            tokens_left[number], images_left[number] = room
        return False

    least_tokens, least_images = [capacity + 1], [image_capacity + 1]
    for size, pictures in zip(reversed(tokens), reversed(images)):
        least_tokens.append(min(least_tokens[-1], size))
        least_images.append(min(least_images[-1], pictures))
    least_tokens.reverse()
    least_images.reverse()
    spare = num_bins * capacity - sum(tokens), num_bins * image_capacity - sum(images)
    return bins if min(spare) >= 0 and place(0, *spare) else None
