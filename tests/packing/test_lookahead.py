"""Packing of a stream: close to the offline packing, in bounded memory, with a bounded delay of each row."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mixture import CAPACITY, image_sets, mixture
from support.packs import assert_valid
from support.raised import assert_raises

from swift_citrusv.packing.lookahead import MAX_REPACKS, LookAheadPacker
from swift_citrusv.packing.packs import pack_arrays, pack_best_fit


def run(lengths, images, capacity, image_capacity, buffer):
    """All packs of the numbered rows, and the maximum number of rows that arrived between a row and its pack."""
    packer: LookAheadPacker[int] = LookAheadPacker(capacity, image_capacity, buffer=buffer)
    packs = []
    longest = 0
    for row, (length, pictures) in enumerate(zip(lengths, images)):
        new = packer.add(row, length, pictures)
        assert len(packer) < buffer
        longest = max([longest, *(row - pack[0] for pack in new)])
        packs += new
    packs += packer.flush()
    assert len(packer) == 0 and packer.flush() == []
    return packs, longest


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_invariants(data):
    capacity, image_capacity = data.draw(st.integers(1, 40)), data.draw(st.one_of(st.none(), st.integers(0, 5)))
    buffer = data.draw(st.integers(1, 30))
    rows = data.draw(st.lists(st.tuples(st.integers(0, capacity), st.integers(0, image_capacity or 0)), max_size=150))
    lengths, images = [row[0] for row in rows], [row[1] for row in rows]
    packs, longest = run(lengths, images, capacity, image_capacity, buffer)
    assert_valid(packs, lengths, capacity, images, image_capacity or 0)
    assert longest <= MAX_REPACKS * buffer
    assert packs == run(lengths, images, capacity, image_capacity, buffer)[0]


@pytest.mark.parametrize(('buffer', 'share'), [(1000, 0.999), (128, 0.99)])
@pytest.mark.parametrize('name', [None, 'T  1-4 on a quarter of the rows, 8 a pack', 'I  0-4, 16 a pack'])
def test_fill_is_near_that_of_the_offline_packing(name, buffer, share):
    lengths, _ = mixture(12_000)
    images, image_capacity = image_sets(lengths)[name] if name else (np.zeros_like(lengths), 0)
    packs, longest = run(lengths.tolist(), images.tolist(), CAPACITY, image_capacity, buffer)
    assert_valid(packs, lengths, CAPACITY, images, image_capacity)
    offline = pack_arrays(lengths, CAPACITY, images=images, image_capacity=image_capacity)
    # The last pack of the stream may be half empty.
    assert share * (len(packs) - 1) <= len(offline)
    assert longest <= MAX_REPACKS * buffer


def test_the_oldest_row_leaves_first_though_its_pack_is_the_emptiest():
    # Two rows of 50 fill a pack; no row fits beside 51.
    packs, longest = run([51] + [50] * 400, [0] * 401, 100, 0, 20)
    assert packs[0] == [0] and longest <= 20


def test_rows_leave_after_a_number_of_repacks():
    # Twenty rows that are alone in their packs, then enough full packs for the fullest half of every repack: without
    # the limit, the last of the twenty would wait for the nineteen before it, one a repack.
    packer: LookAheadPacker[int] = LookAheadPacker(100, buffer=40)
    repacks = []
    for row, length in enumerate([51] * 20 + [100] * 400):
        packs = packer.add(row, length)
        if packs:
            repacks.append(packs)
    waiting = 20
    for number, packs in enumerate(repacks, start=1):
        left = sum(pack[0] < 20 for pack in packs)
        if 0 < waiting and number < MAX_REPACKS:
            assert 1 <= left <= 2
        waiting -= left
        assert (waiting == 0) == (number >= MAX_REPACKS)
    assert len(repacks) > MAX_REPACKS


def test_a_buffer_that_holds_the_stream_packs_as_offline():
    lengths = mixture(500)[0].tolist()
    packs, _ = run(lengths, [0] * 500, CAPACITY, None, 501)
    assert packs == sorted(pack_best_fit(lengths, CAPACITY))


def test_a_buffer_of_one_row_passes_rows_on():
    assert run([3, 1, 1], [0, 0, 0], 5, 0, 1)[0] == [[0], [1], [2]]


def test_rows_are_opaque():
    packer: LookAheadPacker[dict] = LookAheadPacker(10, 2, buffer=4)
    rows = [{'id': n} for n in range(4)]
    assert packer.add(rows[0], 5) == packer.add(rows[1], 5, 2) == []
    assert packer.add(rows[2], np.int64(9), images=np.int64(1)) == []
    # Two full packs; the one with the oldest row leaves.
    (pack, ) = packer.add(rows[3], 1)
    assert pack == rows[:2] and pack[0] is rows[0]
    assert packer.flush() == [rows[2:]]


def test_packs_leave_in_the_order_of_their_oldest_rows():
    lengths, _ = mixture(3000)
    packer: LookAheadPacker[int] = LookAheadPacker(CAPACITY, buffer=500)
    groups = [packer.add(row, length) for row, length in enumerate(lengths.tolist())] + [packer.flush()]
    assert sum(len(group) > 5 for group in groups) > 5
    for group in groups:
        assert [pack[0] for pack in group] == sorted(pack[0] for pack in group)
    assert groups[499][0][0] == 0


# Tokens and images of a row, a pattern of the message.
BAD_ROWS = [
    ((11, 0), 'Row 2 of the stream has 11 tokens, more than the 10 .*raise --packing_length to at least 11'),
    ((1, 3), 'Row 2 of the stream has 3 segmentation images, more than the 2 .*raise pack_images to at least 3'),
    ((-1, 0), 'Row 2 of the stream has -1 tokens: give an integer'),
    ((1, -1), 'Row 2 of the stream has -1 segmentation images'),
    ((1.5, 0), r'Row 2 of the stream has 1\.5 tokens'),
    ((True, 0), 'Row 2 of the stream has True tokens'),
]


def test_bad_rows_are_named_and_leave_the_packer_unchanged():
    packer: LookAheadPacker[str] = LookAheadPacker(10, 2, buffer=4)
    packer.add('a', 6)
    packer.add('b', 6)
    for row, pattern in BAD_ROWS:
        assert_raises(ValueError, pattern, packer.add, 'c', *row)
        assert len(packer) == 2, row
    assert packer.flush() == [['a'], ['b']]


def test_bad_arguments():
    for pattern, arguments in {
            'capacity of a pack is 0 tokens': dict(capacity=0),
            'image capacity of a pack is -1': dict(capacity=10, image_capacity=-1),
            'buffer holds 0 rows': dict(capacity=10, buffer=0),
    }.items():
        assert_raises(ValueError, pattern, LookAheadPacker, **arguments)


def test_without_an_image_budget_no_row_may_have_images():
    with pytest.raises(ValueError, match='1 segmentation images, more than the 0'):
        LookAheadPacker[str](10).add('a', 1, 1)
