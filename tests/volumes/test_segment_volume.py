"""A question about every slice of a volume."""
import numpy as np
import pytest
from support.scans import affine_of, nifti
from support.volumes import bright, segment_bright_and_dark, voxels

from swift_citrusv.volumes.segment import label_of, segment_volume
from swift_citrusv.volumes.volume import Volume


def test_every_slice_is_segmented_once(tmp_path):
    data = voxels()
    path = nifti(tmp_path / 'scan.nii', data, affine_of(np.eye(3)))
    calls: list[int] = []
    volume = Volume(path, 'coronal')
    records = segment_volume(volume, segment_bright_and_dark(calls), 'Segment.', batch_size=8)
    assert calls == [8, 8, 4] and [record['index'] for record in records] == list(range(20))
    alone = Volume(path, 'coronal')
    assert segment_volume(alone, segment_bright_and_dark(), 'Segment.', batch_size=1) == records
    assert set(volume.labels) == {'liver', '背景'}
    for label in volume.labels:
        assert np.array_equal(volume.array(label), alone.array(label))
    for index, image in volume:
        assert records[index]['text'] == str(np.array(image)[0, 0, 0])
        shown = volume._view.to_image(volume.array('liver')[:, index])
        assert np.array_equal(shown, bright(image)) and records[index]['masks'][0]['area'] == int(shown.sum())
    one = Volume(path, 'coronal')
    segment_volume(one, segment_bright_and_dark(), 'Segment.', indices=range(3, 5), label='Any')
    assert one.labels == ('Any', ) and sorted(one._masks['Any']) == [3, 4]
    with pytest.raises(ValueError, match='0 answers about 5 slices'):
        segment_volume(Volume(path, 'sagittal'), lambda requests: [], 'Segment.')
    with pytest.raises(ValueError, match='give 1 or more'):
        segment_volume(volume, segment_bright_and_dark(), 'Segment.', batch_size=0)
    assert label_of('The  Left Atrium') == 'left atrium' and label_of('') == 'mask' and label_of('左心房') == '左心房'
