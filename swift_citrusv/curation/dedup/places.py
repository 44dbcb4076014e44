"""A place orders the rows of the whole input: shard, then number in it."""
_NUMBER_BITS = 36


def place_of(shard: int, number: int) -> int:
    """The place of a row in the whole input."""
    return shard << _NUMBER_BITS | number


def shard_of(place: int) -> int:
    """The shard of a row."""
    return place >> _NUMBER_BITS
