"""Scores of masks in three dimensions against MONAI, SimpleITK and loops over all pairs of voxels."""
import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from support.scans import rotation

from swift_citrusv.scoring.volumes.volume_scores import surface_voxels, volume_diagonal, volume_scores

SPACINGS = ((1., 1., 1.), (.7, .9, 2.5), (3., .5, 1.2))


def blobs(seed: int, shape: tuple[int, int, int] = (14, 12, 10)) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping boxes with holes, which may touch the border."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        mask = np.zeros(shape, bool)
        for _ in range(2):
            start = [int(rng.integers(0, size // 2)) for size in shape]
            stop = [begin + int(rng.integers(2, size // 2 + 1)) for begin, size in zip(start, shape)]
            mask[tuple(slice(*ends) for ends in zip(start, stop))] = True
        mask &= rng.random(shape) > .1
        masks.append(mask)
    return masks[0], masks[1]


def affine_of(spacing: tuple[float, ...], degrees: float = 0.) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ np.diag(spacing)
    affine[:3, 3] = 7, -3, 11
    return affine


def one_hot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))


@pytest.mark.parametrize('spacing', SPACINGS)
def test_scores_equal_monais(spacing):
    for seed in range(12):
        predicted, target = blobs(seed)
        found = volume_scores(predicted, target, affine_of(spacing, 40. * (seed % 2)), 2.).values
        one, other = one_hot(predicted), one_hot(target)
        assert found['dice'] == pytest.approx(float(compute_dice(one, other, include_background=False)), abs=1e-6)
        distance = compute_hausdorff_distance(one, other, percentile=95, spacing=spacing)
        assert found['hd95'] == pytest.approx(float(distance), abs=1e-4), seed
        share = compute_surface_dice(one, other, [2.], spacing=spacing)
        assert found['nsd'] == pytest.approx(float(share), abs=1e-5), seed


def test_scores_equal_simpleitks():
    sitk = pytest.importorskip('SimpleITK')
    for seed in range(6):
        predicted, target = blobs(seed)
        spacing = SPACINGS[seed % 3]
        images = []
        for mask in (predicted, target):
            image = sitk.GetImageFromArray(mask.T.astype(np.uint8))
            image.SetSpacing(spacing)
            images.append(image)
        measure = sitk.LabelOverlapMeasuresImageFilter()
        measure.Execute(images[0], images[1])
        found = volume_scores(predicted, target, affine_of(spacing), 1.).values
        assert found['dice'] == pytest.approx(measure.GetDiceCoefficient())
        assert found['iou'] == pytest.approx(measure.GetJaccardCoefficient())
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(images[0])
        assert found['volume'] == pytest.approx(shape.GetPhysicalSize(1) / 1000)
        assert found['volume_difference'] == pytest.approx(found['volume'] - found['target_volume'])
        assert found['volume_error'] == abs(found['volume_difference'])


def test_distances_of_a_sheared_affine_pair_by_pair():
    affine = affine_of((.7, .9, 2.5), 25)
    affine[:3, 2] += affine[:3, 1] * .8
    for seed in range(4):
        predicted, target = blobs(seed, (7, 6, 5))
        points = [np.argwhere(surface_voxels(mask)) for mask in (predicted, target)]
        places = [[affine[:3, :3] @ voxel for voxel in part] for part in points]
        near = [np.array([min(np.linalg.norm(a - b) for b in places[1 - side]) for a in places[side]])
                for side in (0, 1)]  # yapf: disable
        found = volume_scores(predicted, target, affine, 1.5)
        assert found.values['hd95'] == pytest.approx(max(np.percentile(part, 95) for part in near))
        assert found.values['nsd'] == pytest.approx(np.mean(np.concatenate(near) <= 1.5))
        side = int(near[1].max() > near[0].max())
        assert tuple(points[side][int(near[side].argmax())]) == found.worst


def test_the_surface_has_the_voxels_with_a_face_to_the_outside():
    mask = np.random.default_rng(0).random((6, 5, 4)) < .7
    expected = np.zeros_like(mask)
    for voxel in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                other = voxel.copy()
                other[axis] += step
                outside = not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]
                expected[tuple(voxel)] |= outside
    assert np.array_equal(surface_voxels(mask), expected)


def test_empty_masks():
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    affine = affine_of((1., 2., 3.), 30)
    both = volume_scores(empty, empty, affine, 2.)
    assert both.worst is None and both.values['dice'] == both.values['nsd'] == 1 and both.values['hd95'] == 0
    for one, other in ((empty, full), (full, empty)):
        found = volume_scores(one, other, affine, 2.)
        assert found.values['dice'] == found.values['nsd'] == 0
        assert found.values['hd95'] == pytest.approx(np.sqrt(4**2 + 10**2 + 18**2)) == volume_diagonal(
            (4, 5, 6), affine)
        assert found.values['union'] == 120 and found.values['volume_error'] == pytest.approx(.72)
    assert volume_scores(full, full, affine, 0.).values['nsd'] == 1
