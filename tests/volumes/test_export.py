"""DICOM segmentations, read again by highdicom and pydicom, and label maps without an affine."""
import highdicom
import numpy as np
import pydicom
import pytest
from support.scans import CT, ULTRASOUND_MULTI_FRAME, dicom, enhanced_ct, read_nifti, series, shipped
from support.volumes import bright, put_all, voxels

from swift_citrusv.volumes.export import segment_labels, write_nifti
from swift_citrusv.volumes.volume import Volume


def test_a_segmentation_of_a_series(tmp_path):
    data = voxels()
    names = series(tmp_path / 's', data)
    volume = Volume(tmp_path / 's')
    masks = {'Liver': data > 1500, '肿瘤': data < 300, 'x' * 80: (data > 900) & (data < 1000)}
    masks['肿瘤'][1:3] = False
    for label, mask in masks.items():
        put_all(volume, mask, label)
    legend = volume.save(tmp_path / 'seg.dcm')
    sources = [pydicom.dcmread(name) for name in names]
    seg = highdicom.seg.segread(tmp_path / 'seg.dcm')
    assert seg.segmentation_type.value == 'BINARY' and seg.number_of_segments == 3
    labels = [seg.get_segment_description(number).segment_label for number in (1, 2, 3)]
    assert labels == ['Liver', '肿瘤', 'x' * 64]
    for number in (1, 2, 3):
        description = seg.get_segment_description(number)
        assert description.algorithm_type.value == 'AUTOMATIC'
        algorithm = description.algorithm_identification
        assert algorithm is not None and algorithm.name == 'Citrus-V'
    pixels = seg.get_pixels_by_source_instance([source.SOPInstanceUID for source in sources])
    for number, mask in enumerate(masks.values()):
        assert np.array_equal(pixels[..., number], mask)
    # The same with pydicom alone: each frame has its segment, its position and its source.
    plain = pydicom.dcmread(tmp_path / 'seg.dcm')
    assert plain.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert plain.PatientID == sources[0].PatientID and plain.StudyInstanceUID == sources[0].StudyInstanceUID
    assert plain.SeriesInstanceUID != sources[0].SeriesInstanceUID and plain.Modality == 'SEG'
    index_of = {source.SOPInstanceUID: i for i, source in enumerate(sources)}
    frames = plain.pixel_array
    # Two slices have no tumour.
    assert len(frames) == 13
    for frame, groups in zip(frames, plain.PerFrameFunctionalGroupsSequence, strict=True):
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.array_equal(frame, list(masks.values())[segment - 1][index_of[source]])
        assert list(groups.PlanePositionSequence[0].ImagePositionPatient) == list(
            sources[index_of[source]].ImagePositionPatient)
    assert [entry['name'] for entry in legend['labels']] == list(masks) and legend['labels'][1]['hidden'] == 0
    # Overlapping structures keep all their voxels.
    put_all(volume, data > 1000, 'More')
    legend = volume.save(tmp_path / 'seg.dcm')
    seg = highdicom.seg.segread(tmp_path / 'seg.dcm')
    pixels = seg.get_pixels_by_source_instance([source.SOPInstanceUID for source in sources])
    assert np.array_equal(pixels[..., 0], data > 1500) and np.array_equal(pixels[..., 3], data > 1000)
    assert not any(entry['hidden'] for entry in legend['labels'])


def test_segmentations_of_other_sources(tmp_path):
    """An enhanced multi-frame image, a multi-frame image without positions, one frame, planes across the frames."""
    data = np.random.default_rng(0).integers(-200, 200, (4, 16, 18)) * 4
    enhanced = enhanced_ct(tmp_path / 'enhanced.dcm', data, [(0, 200)] * 4, [1, 2, 4, 1])
    cine = dicom(
        tmp_path / 'cine.dcm',
        pixels=data + 1024,
        Modality='US',
        SOPClassUID=ULTRASOUND_MULTI_FRAME,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        FrameOfReferenceUID=None,
        PatientName=None,
        AccessionNumber=None)
    for path, plane in ((enhanced, None), (enhanced, 'sagittal')):
        volume = Volume(path, plane, '40,1')
        for index, image in volume:
            volume.put(index, bright(image), 'Bone')
        volume.save(tmp_path / 'seg.dcm')
        seg = highdicom.seg.segread(tmp_path / 'seg.dcm')
        uid = pydicom.dcmread(path).SOPInstanceUID
        pixels = seg.get_pixels_by_source_frame(uid, [1, 2, 3, 4], assert_missing_frames_are_empty=True)
        assert np.array_equal(pixels[..., 0], data >= 40), (path, plane)
    # Without positions, there is no segmentation of several frames, which is said before any work. The legend of a
    # label map says what is missing.
    volume = Volume(cine, window='0,1')
    for index, image in volume:
        volume.put(index, bright(image))
    with pytest.raises(ValueError, match='no Frame of Reference UID.*nii.gz instead'):
        volume.check_output(tmp_path / 'seg.dcm')
    assert not volume.check_output(tmp_path / 'cine.nii.gz')
    assert 'lack ImagePositionPatient' in volume.save(tmp_path / 'cine.nii.gz')['place']
    saved = read_nifti(tmp_path / 'cine.nii.gz')
    assert np.array_equal(np.asanyarray(saved.dataobj).T, data >= 0) and 'place' not in Volume(enhanced).save(
        tmp_path / 'none.nii')
    with pytest.raises(ValueError, match='lack ImagePositionPatient'):
        Volume(cine, 'axial')
    volume = Volume(shipped(CT))
    volume.put(0, bright(volume.image(0)))
    volume.save(tmp_path / 'one.dcm')
    frame = pydicom.dcmread(tmp_path / 'one.dcm').pixel_array
    assert np.array_equal(frame, bright(volume.image(0))) and 0 < frame.mean() < 1
    # Without masks, the segmentation is empty.
    Volume(enhanced).save(tmp_path / 'none.dcm')
    assert not pydicom.dcmread(tmp_path / 'none.dcm').pixel_array.any()


def test_names_of_segments():
    assert segment_labels(['a', 'a', ' a\\b\n', '', 'x' * 70,
                           'x' * 71]) == ['a', 'a (2)', 'a b', 'mask', 'x' * 64, 'x' * 60 + ' (2)']


def test_a_label_map_without_affine(tmp_path):
    """Opened as a volume again, it has the orientation of the image."""
    labels = np.random.default_rng(0).integers(0, 3, (7, 9)).astype(np.uint8)
    write_nifti(tmp_path / 'photo.nii.gz', labels.T[..., None], None)
    image = Volume(tmp_path / 'photo.nii.gz', window='1,2').image(0)
    assert np.array_equal(np.array(image)[..., 0], np.array([0, 128, 255])[labels])
