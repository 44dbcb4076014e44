"""A doctor's round in a browser: open a series, scroll by keyboard, ask, correct the window, save a DICOM-SEG.

`tests/bench/draw_round.py` makes the picture of the documentation, of a real scan.
"""
import highdicom
import json
import numpy as np
import pydicom
import pytest
import zipfile
from io import BytesIO
from pathlib import Path
from PIL import Image
from pycocotools import mask as coco
from support import scans
from support.page import MAX_TOKENS, Served, Visitor, in_browser
from typing import Any

from swift_citrusv.pipeline import Answer
from swift_citrusv.volumes.volume import Volume

# Rows are twice as far apart as columns, as in a coronal reformat.
SPACING = (1.4, .7)


@pytest.fixture
def series(tmp_path) -> list[str]:
    """Twelve slices of a body with two lungs, the right one larger; the third file has a window of width 0."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:56, :96].astype(float)
    slices = []
    for number in range(12):
        values = np.full((56, 96), 24.)
        values[((x - 48) / 44)**2 + ((y - 28) / 25)**2 < 1] = 1064
        values[((x - 30) / (13 + number / 4))**2 + ((y - 28) / 15)**2 < 1] = 250
        values[((x - 66) / 10)**2 + ((y - 28) / 13)**2 < 1] = 250
        values[((x - 50) / 6)**2 + ((y - 30) / 4)**2 < 1] = 1600
        slices.append(values + rng.normal(0, 20, values.shape))
    names = scans.series(tmp_path / 's', np.array(slices).clip(0, 3000).astype(np.int16), spacing=SPACING)
    broken = pydicom.dcmread(names[2])
    broken.WindowCenter, broken.WindowWidth = 40, 0
    broken.save_as(names[2])
    return names


def caption(visitor: Visitor) -> str:
    return str(visitor.page.locator('.cv-view figcaption').first.inner_text())


def wait_for_slice(visitor: Visitor, number: int) -> None:
    visitor.page.get_by_text(f'frame {number},').first.wait_for()


def asked_image(served: Served) -> Image.Image:
    """The image of the last question, as the model got it."""
    return served.pipe.engine.asked[-1]


@pytest.fixture
def recorded(served, monkeypatch) -> Served:
    """Notes the images of each request."""
    engine = served.pipe.engine
    engine.asked = []
    infer = engine.infer_async

    def note(request: Any, *args: Any, **kwargs: Any) -> Any:
        engine.asked += request.images
        return infer(request, *args, **kwargs)

    monkeypatch.setattr(engine, 'infer_async', note)
    return served


def visible(answer: Answer, image: int) -> bool:
    """Whether an answer has masks, all on one image, and one that is neither empty nor full."""
    return (all(mask.image_index == image for mask in answer.masks)
            and any(0 < mask.area < mask.array.size for mask in answer.masks))


def questions_with_masks(served: Served, images: list[Image.Image]) -> tuple[list[str], list[Answer]]:
    """Two questions about one image each whose answers have masks: those of a random model depend on all of it."""
    for number in range(60):
        questions = [f'Segment the lungs ({number}).', f'Segment the cell ({number}) in image 2.']
        first = served.pipe(images[0], questions[0], max_tokens=MAX_TOKENS)
        if not visible(first, 0):
            continue
        # ms-swift strips the leading spaces of a stream.
        turns = [{'role': 'user', 'content': f'<image>{questions[0]}'},
                 {'role': 'assistant', 'content': first.text.lstrip()},
                 {'role': 'user', 'content': f'<image>{questions[1]}'}]  # yapf: disable
        second = served.pipe(images, turns, max_tokens=MAX_TOKENS)
        if visible(second, 1):
            return questions, [first, second]
    raise AssertionError('The model draws nothing.')


def same(image: Image.Image, volume: Volume, index: int) -> bool:
    return bool(np.array_equal(np.asarray(image), np.asarray(volume.image(index))))


@in_browser
def test_a_round(visit, recorded, series, tmp_path):
    visitor = visit()
    page = visitor.page
    page.set_default_timeout(30000)
    folder = Path(series[0]).parent
    volume, corrected = Volume(folder), Volume(folder, window='-400,1500')
    questions, answers = questions_with_masks(recorded, [volume.image(5), corrected.image(2)])
    # Open: the files of a series are one volume, at its middle slice.
    page.set_input_files('#cv-files input[type=file]', series)
    wait_for_slice(visitor, 6)
    assert 'series of 12 images' in caption(visitor) and '0.7 × 1.4 mm' in caption(visitor)
    assert page.locator('.cv-base').count() == 1
    # Its pixels have their true proportions, and its edges their sides: radiological convention.
    box = page.locator('.cv-stack').bounding_box()
    assert box['width'] / box['height'] == pytest.approx(96 * .7 / (56 * 1.4), rel=.02)
    assert [page.locator(f'.cv-{side}').inner_text() for side in ('left', 'right', 'top', 'bottom')] == list('RLAP')
    # Scroll with keys on the image, with the wheel, and with keys on the slice control.
    page.focus('.cv-frame')
    for key, number in (('ArrowUp', 7), ('ArrowUp', 8), ('ArrowDown', 7), ('PageDown', 0), ('End', 11)):
        page.keyboard.press(key)
        wait_for_slice(visitor, number)
    page.hover('.cv-frame')
    page.mouse.wheel(0, 100)
    wait_for_slice(visitor, 10)
    page.focus('#cv-index input[type=range]')
    page.keyboard.press('ArrowLeft')
    wait_for_slice(visitor, 9)
    # A number and Enter.
    page.fill('#cv-index input[type=number]', '4')
    page.press('#cv-index input[type=number]', 'Enter')
    wait_for_slice(visitor, 4)
    # Ask right after a key: the question is about the slice of the control, not about the old one.
    page.fill('#cv-question textarea', questions[0])
    page.evaluate("""() => {
        const range = document.querySelector('#cv-index input[type=range]');
        range.value = 5;
        range.dispatchEvent(new Event('input', { bubbles: true }));
        document.querySelector('#cv-ask').click();
    }""")
    page.wait_for_function('document.querySelectorAll("#cv-chat [data-testid=bot]").length === 1 '
                           '&& !document.querySelector("#cv-chat .cv-caret")')
    page.wait_for_selector('.cv-legend')
    assert same(asked_image(recorded), volume, 5)
    assert 'frame 5' in page.locator('#cv-chat [data-testid=user]').inner_text()
    # The box for files counts what the conversation has.
    assert '1 in this conversation' in page.locator('#cv-files').inner_text()
    # Areas in millimetres, with the pixels beside.
    areas = page.locator('.cv-legend tbody td:nth-child(4)').all_inner_texts()
    expected = [mask.area * SPACING[0] * SPACING[1] for mask in answers[0].masks]
    assert areas == [f'{area / 100:,.2f} cm²' if area >= 100 else f'{area:.1f} mm²' for area in expected]
    # Correct the window of a slice whose own is of width 0, and ask again.
    # Both controls at once: the answer to the first change does not undo the second.
    visitor.choose('#cv-window', '-400,1500')
    visitor.choose('#cv-index', '2')
    wait_for_slice(visitor, 2)
    visitor.ask(questions[1])
    assert same(asked_image(recorded), corrected, 2)
    # Save: a segmentation at the place of the slice, with the patient of the source.
    name, content = visitor.save('seg')
    assert name == 'series-of-12-images-frame-2_seg.dcm'
    (tmp_path / name).write_bytes(content)
    segmentation = highdicom.seg.segread(tmp_path / name)
    source = pydicom.dcmread(series[2])
    turn = json.loads(visitor.save('rle')[1])['masks']
    pixels = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID], ignore_spatial_locations=True,
                                                        assert_missing_frames_are_empty=True)  # yapf: disable
    assert pixels.shape[-1] == len(turn) == len(answers[1].masks) and pixels.any()
    for number, mask in enumerate(turn):
        assert np.array_equal(pixels[0, ..., number], coco.decode(mask['rle']))
    positions = {str(groups.PlanePositionSequence[0].ImagePositionPatient)
                 for groups in segmentation.PerFrameFunctionalGroupsSequence}  # yapf: disable
    assert positions == {str(source.ImagePositionPatient)} and segmentation.PatientID == source.PatientID
    # The overlay has square pixels.
    overlay = Image.open(BytesIO(visitor.save('overlay')[1]))
    assert overlay.width >= 96 and overlay.height > 112


@in_browser
def test_a_zip_file_and_a_plane(visit, series, tmp_path):
    with zipfile.ZipFile(tmp_path / 'study.zip', 'w') as archive:
        for name in series:
            archive.write(name, f'../{Path(name).name}')
        archive.writestr('readme.txt', 'Not an image.')
    visitor = visit()
    visitor.page.set_default_timeout(20000)
    visitor.page.set_input_files('#cv-files input[type=file]', str(tmp_path / 'study.zip'))
    wait_for_slice(visitor, 6)
    visitor.page.get_by_label('coronal').check()
    visitor.page.get_by_text('coronal 28').first.wait_for()
    box = visitor.page.locator('.cv-stack').bounding_box()
    assert box['width'] / box['height'] == pytest.approx(96 * .7 / (12 * 2.5), rel=.02)
    assert [visitor.page.locator(f'.cv-{side}').inner_text()
            for side in ('left', 'right', 'top', 'bottom')] == list('RLHF')
    visitor.page.fill('#cv-index input[type=number]', '99')
    visitor.page.press('#cv-index input[type=number]', 'Enter')
    visitor.page.get_by_text('coronal 55').first.wait_for()
