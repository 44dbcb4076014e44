"""Matched boxes against a slow loop."""
import pytest
from support.random_boxes import random_rows

from swift_citrusv.scoring.boxes.box_matching import match_boxes


@pytest.mark.parametrize('seed', range(3))
def test_hits_equal_a_slow_loop(seed):

    def iou(one, two):
        width = min(one[2], two[2]) - max(one[0], two[0])
        height = min(one[3], two[3]) - max(one[1], two[1])
        shared = max(width, 0) * max(height, 0)
        sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
        return shared / (sum(sizes) - shared)

    for wanted, drawn in random_rows(60, seed=seed):
        left, hits = list(wanted), []
        for number in sorted(range(len(drawn)), key=lambda i: -drawn[i].score):
            near = [(iou(box.corners, drawn[number].corners), -place) for place, box in enumerate(left)
                    if box.label == drawn[number].label]  # yapf: disable
            if near and max(near)[0] >= .5:
                hits.append(number)
                left.pop(-max(near)[1])
        matched = match_boxes(wanted, drawn, lambda box: box.label)
        assert [i for i, hit in enumerate(matched.is_hit) if hit] == sorted(hits)
        assert matched.hits == len(hits) and matched.ious.shape == (len(wanted), )
