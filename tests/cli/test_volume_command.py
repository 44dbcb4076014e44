"""`citrusv volume`: its files, its output, and arguments that cannot be used."""
import highdicom
import json
import nibabel
import numpy as np
import pytest
from support.scans import affine_of, nifti, read_nifti, series
from support.volumes import segment_bright_and_dark, voxels

from swift_citrusv import volumes
from swift_citrusv.cli import volume as cli_volume
from swift_citrusv.cli.main import _parser, main
from swift_citrusv.files import slices


def test_the_command(tmp_path, capsys):
    assert cli_volume.PLANES == slices.PLANES
    series(tmp_path / 's', voxels())

    def run(*options: str) -> int:
        arguments = ['volume', '--model', 'm', '--volume', str(tmp_path / 's'), '--prompt', 'Segment.', *options]
        return cli_volume.run(_parser().parse_args(arguments), segment_bright_and_dark())

    assert run('--output', str(tmp_path / 'seg.dcm'), '--batch-size', '2') == 0
    seg = highdicom.seg.segread(tmp_path / 'seg.dcm')
    assert seg.number_of_segments == 2
    legend = json.loads((tmp_path / 'seg.json').read_text(encoding='utf-8'))
    assert legend['prompt'] == 'Segment.' and len(legend['slices']) == 5 and legend['model'] == 'm'
    output = capsys.readouterr()
    assert '5 of 5 slices of 20 x 24 pixels asked, 5 with masks' in output.out and 'slices/s' in output.err
    assert run('--output', str(tmp_path / 'm.nii.gz'), '--plane', 'sagittal', '--slices', '4:9', '--window',
               'bone') == 0
    assert '5 of 24 slices of 5 x 20 pixels asked' in capsys.readouterr().out
    saved = np.asanyarray(read_nifti(tmp_path / 'm.nii.gz').dataobj)
    # Sagittal slices are numbered from the patient's left, as columns are.
    assert sorted(set(np.argwhere(saved)[:, 0])) == [15, 16, 17, 18, 19]
    for wrong in ('5:4', '0:25', 'a:b', '3'):
        with pytest.raises(ValueError, match='give A:B'):
            run('--output', 'm.nii.gz', '--plane', 'sagittal', '--slices', wrong)
    # Checked before a model is loaded.
    for output_name, message in (('m.png', 'ends in .nii.gz'), ('m.dcm', 'is not DICOM')):
        path = nifti(tmp_path / 'a.nii', voxels())
        assert main(['volume', '--model', 'none', '--volume', path, '--prompt', 'x', '--output', output_name]) == 2
        assert message in capsys.readouterr().err
    assert main(['volume', '--model', 'm', '--volume', 'none.nii', '--prompt', 'x', '--output', 'a.nii']) == 2
    assert 'none.nii: No such file' in capsys.readouterr().err


def test_what_is_special_is_printed(tmp_path, capsys, monkeypatch):
    """Completed headers, phases, and masks that went into another file than the one asked for."""
    series(tmp_path / 's', voxels(), FrameOfReferenceUID=None, StudyTime=None)
    asked: list[int] = []

    def run(source: str, output: str, *options: str) -> int:
        arguments = ['volume', '--model', 'm', '--volume', str(tmp_path / source), '--prompt', 'Segment.', '--output',
                     str(tmp_path / output), *options]  # yapf: disable
        return cli_volume.run(_parser().parse_args(arguments), segment_bright_and_dark(asked))

    assert run('s', 'seg.dcm') == 0
    out = capsys.readouterr().out
    assert 'FrameOfReferenceUID was missing; a new one' in out and 'StudyTime was missing and is empty' in out
    # What cannot be written is said before anything is asked, and what is advised then works.
    for number in range(2):
        series(tmp_path / f'p{number}', voxels(seed=number), SeriesInstanceUID='1.2.3', EchoTime=number)
        for path in (tmp_path / f'p{number}').iterdir():
            path.rename(tmp_path / 's' / f'{number}_{path.name}')
    series(tmp_path / 'nowhere', voxels(), ImagePositionPatient=None)
    asked.clear()
    with pytest.raises(ValueError, match=r'does not support a DICOM segmentation.*Write a .nii.gz instead'):
        run('nowhere', 'none.dcm')
    with pytest.raises(ValueError, match=r'2 images at each of its 5 positions, which differ in EchoTime.*--time'):
        run('s', 'phase.dcm', '--series', '1.2.3')
    assert not asked
    assert run('nowhere', 'none.nii.gz') == 0
    assert 'Its place is unknown, including its size in millimetres: its images lack ImagePositionPatient' in (
        capsys.readouterr().out)
    assert run('s', 'phase.dcm', '--series', '1.2.3', '--time', '1') == 0
    capsys.readouterr()
    # After the questions, nothing is lost.
    real = volumes.volume.write_dicom_seg
    monkeypatch.setattr(
        volumes.volume, 'write_dicom_seg', lambda path, *args, **kwargs: real(path, *args, **kwargs)
        if not isinstance(path, str) else fail())
    assert run('s', 'lost.dcm', '--series', '1.2.3', '--time', '0') == 1
    output = capsys.readouterr()
    assert 'lost.dcm could not be written. The disk.' in output.err and 'The masks are in ' in output.err
    assert 'lost.nii.gz: 5 of 5 slices' in output.out and (tmp_path / 'lost.nii.gz').exists()


def fail():
    raise ValueError('The disk.')


def test_the_command_with_a_model(talkative_checkpoint, tmp_path, capsys):
    """The masks of the file are those of the pipeline for each slice alone."""
    from swift_citrusv.pipeline import CitrusVPipeline
    path = nifti(tmp_path / 'scan.nii.gz', voxels((60, 56, 3)), affine_of(np.eye(3)[[1, 0, 2]]))
    prompt, output = 'Segment the cell.', tmp_path / 'mask.nii.gz'
    assert main([
        'volume', '--model', talkative_checkpoint, '--volume', path, '--prompt', prompt, '--output',
        str(output), '--device', 'cpu', '--dtype', 'float32', '--batch-size', '2', '--label', 'cell',
        '--max-new-tokens', '24'
    ]) == 0
    capsys.readouterr()
    saved = np.asanyarray(read_nifti(output).dataobj)
    pipe = CitrusVPipeline(talkative_checkpoint, device='cpu')
    expected = np.zeros(saved.shape, bool)
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(expected.astype(np.uint8), read_nifti(path).affine))
    assert canonical.shape == (56, 60, 3)
    for index in range(3):
        answer = pipe(f'{path}#index={index}', prompt, max_tokens=24)
        for mask in answer.masks:
            # Slices are [y, x] from front to back and right to left; the axes of the file run the other way.
            expected[:, :, index] |= mask.array[::-1, ::-1] > 0
    assert expected.any() and np.array_equal(saved, expected)
