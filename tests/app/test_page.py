"""The page of `swift app` in a headless browser: answers, masks and downloads equal those of the pipeline."""
import gzip
import io
import json
import math
import nibabel
import numpy as np
import pytest
import threading
import time
import torch
from collections.abc import Iterator
from dataclasses import replace
from PIL import Image
from support import scans
from support.page import MAX_TOKENS, PHONE, Served, in_browser
from support.requests_with_images import picture
from typing import Any

from swift_citrusv.constants import SEG_TOKEN
from swift_citrusv.inference.overlays import mask_colour
from swift_citrusv.pipeline import Answer


def answered(served: Served, images: Any, prompt: Any) -> Answer:
    """The answer of the pipeline, without the leading spaces that ms-swift strips from a stream."""
    answer = served.pipe(images, prompt, max_tokens=MAX_TOKENS)
    return replace(answer, text=answer.text.lstrip())


def image_of(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def painted(image: Image.Image, masks: list[tuple[int, np.ndarray]], opacity: float) -> tuple[np.ndarray, np.ndarray]:
    """The image with the masks blended over it in order, and the pixels [h, w] that no outline can cover."""
    values, inner = np.array(image, np.float64), np.ones((image.height, image.width), bool)
    for number, mask in masks:
        values[mask > 0] = (1 - opacity) * values[mask > 0] + opacity * np.array(mask_colour(number))
        padded = np.pad(mask, 1, mode='edge')
        whole = np.ones_like(inner)
        for row in range(3):
            for column in range(3):
                whole &= padded[row:row + image.height, column:column + image.width] > 0
        inner &= whole | (mask == 0)
    return values, inner


def assert_overlay(content: bytes, image: Image.Image, masks: list[tuple[int, np.ndarray]], opacity: float) -> None:
    drawn = np.array(image_of(content).convert('RGB'))[:image.height, :image.width]
    expected, inner = painted(image, masks, opacity)
    assert inner.sum() > 100
    assert np.abs(drawn[inner] - expected[inner]).max() <= len(masks) + 1


# ---- the page in the browser


@in_browser
def test_ask_view_and_download(visit, served, tmp_path):
    image, question = picture(2, 120, 90), 'Segment the nucleus. <b>所有</b>'
    image.save(tmp_path / 'tissue 切片.png')
    expected = answered(served, image, question)
    assert len(expected.masks) > 1
    visitor = visit()
    page = visitor.page
    assert "default-src 'self'" in visitor.response.headers['content-security-policy']
    visitor.upload(tmp_path / 'tissue 切片.png')
    visitor.ask(question)
    # The conversation: the text is escaped, and each [SEG] is the chip of its mask.
    said = page.locator('#cv-chat [data-testid=user]').inner_text()
    assert question in said and 'tissue 切片.png' in said
    colours = ['rgb({}, {}, {})'.format(*mask_colour(number)) for number in range(1, len(expected.masks) + 1)]
    assert visitor.chips() == [[str(i), colour] for i, colour in enumerate(colours, 1)]
    shown = page.locator('#cv-chat [data-testid=bot]').inner_text()
    plain = expected.text
    for number in range(1, len(expected.masks) + 1):
        plain = plain.replace(SEG_TOKEN, str(number), 1)
    assert shown.split() == plain.split()
    # The legend.
    rows = page.locator('.cv-legend tbody tr').evaluate_all(
        'rows => rows.map(row => [...row.cells].slice(1).map(cell => cell.textContent))')
    assert rows == [[str(i), mask.phrase, f'{mask.area:,} pixels', f'{mask.score:.2f}', '1']
                    for i, mask in enumerate(expected.masks, 1)]  # yapf: disable
    # The image in full size, and the fill of each mask at its place.
    assert page.evaluate('[...document.querySelectorAll(".cv-base")].map(e => [e.naturalWidth, e.naturalHeight])') == [[
        120, 90
    ]]
    stack = page.locator('.cv-stack').bounding_box()
    for number, mask in enumerate(expected.masks, 1):
        box = page.locator(f'.cv-fill[data-mask="{number}"]').bounding_box()
        scale = stack['width'] / 120
        place = [(box['x'] - stack['x']) / scale, (box['y'] - stack['y']) / scale, box['width'] / scale,
                 box['height'] / scale]  # yapf: disable
        assert place == pytest.approx(mask.bbox, abs=0.1)
    # Ticks and opacity change the page and the downloads.
    arrays = [(i, mask.array) for i, mask in enumerate(expected.masks, 1)]
    assert_overlay(visitor.save('overlay')[1], image, arrays, 0.35)
    page.uncheck('.cv-tick[data-mask="1"]')
    assert page.locator('.cv-stack img[data-mask="1"]:visible').count() == 0
    assert page.locator('.cv-stack img[data-mask="2"]:visible').count() == 2
    visitor.choose('#cv-opacity', '0.8')
    page.wait_for_function('getComputedStyle(document.querySelector(".cv-fill")).opacity === "0.8"')
    name, content = visitor.save('overlay')
    assert name == 'tissue-切片_overlay.png'
    assert_overlay(content, image, arrays[1:], 0.8)
    page.check('.cv-tick[data-mask="1"]')
    labels = np.zeros((90, 120), np.uint8)
    for number, array in arrays:
        labels[array > 0] = number
    name, content = visitor.save('png')
    assert name == 'tissue-切片_labels.png' and np.array_equal(np.array(image_of(content)), labels)
    assert (image_of(content).getpalette() or [])[3:6] == list(mask_colour(1))
    name, content = visitor.save('rle')
    saved = json.loads(content)
    assert saved['answer'] == expected.text and saved['images'][0]['size'] == [90, 120]
    for mask, other in zip(saved['masks'], expected.masks, strict=True):
        assert mask['rle'] == other.rle and mask['score'] == pytest.approx(other.score, abs=1e-5)
    name, content = visitor.save('nifti')
    assert name == 'tissue-切片_labels.nii.gz'
    volume = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    assert volume.shape == (120, 90, 1) and np.array_equal(np.asarray(volume.dataobj)[:, :, 0].T, labels)
    page.click('.cv-all')
    visitor.page.click('a.cv-download[data-kind=png]')
    assert visitor.problem('No mask is ticked.')


@in_browser
def test_errors_are_shown_and_the_question_is_kept(visit, tmp_path):
    picture(1).save(tmp_path / 'good.png')
    (tmp_path / 'bad.png').write_text('no image')
    (tmp_path / 'empty.dcm').touch()
    visitor = visit()
    visitor.page.fill('#cv-question textarea', 'Segment the cell.')
    visitor.page.click('#cv-ask')
    assert visitor.problem('There is no image')
    visitor.upload(tmp_path / 'bad.png', tmp_path / 'good.png', tmp_path / 'empty.dcm')
    message = visitor.problem('bad.png')
    assert 'cannot be read' in message and 'Repair or remove the file' in message and 'empty.dcm' in message
    assert 'Traceback' not in message and '/tmp' not in message
    # The good image stays.
    assert visitor.page.locator('.cv-base').count() == 1
    visitor.page.fill('#cv-question textarea', ' ')
    visitor.page.click('#cv-ask')
    assert visitor.problem('There is no question')
    visitor.page.fill('#cv-question textarea', 'word ' * 5000)
    visitor.page.click('#cv-ask')
    assert visitor.problem('4096')
    visitor.page.wait_for_selector('#cv-ask', state='visible')
    # The question is kept with its image, to be corrected.
    assert visitor.page.input_value('#cv-question textarea').startswith('word word')
    visitor.ask('Segment the cell.')
    assert visitor.page.locator('#cv-chat [data-testid=bot]').count() == 1
    assert visitor.page.locator('.cv-legend tbody tr').count()


@in_browser
def test_two_visitors_and_several_turns(visit, served, tmp_path):
    images = [picture(seed, 60 + 10 * seed, 80) for seed in (3, 4, 5)]
    for i, image in enumerate(images, 1):
        image.save(tmp_path / f'visitor{i}.png')
    one, two = visit(), visit(PHONE)
    one.upload(tmp_path / 'visitor1.png')
    two.upload(tmp_path / 'visitor3.png')
    one.ask('Segment the cell.')
    two.ask('请分割细胞。')
    one.upload(tmp_path / 'visitor2.png')
    one.ask('Segment the cell in image 1 and in image 2.')
    first = answered(served, images[0], 'Segment the cell.')
    turns = [{'role': 'user', 'content': '<image>Segment the cell.'}, {'role': 'assistant', 'content': first.text},
             {'role': 'user', 'content': '<image>Segment the cell in image 1 and in image 2.'}]  # yapf: disable
    second = answered(served, images[:2], turns)
    saved = json.loads(one.save('rle')[1])
    assert saved['answer'] == second.text
    assert [mask['rle'] for mask in saved['masks']] == [mask.rle for mask in second.masks]
    assert second.masks
    # An earlier answer can be viewed again.
    one.page.click('#cv-choice input')
    one.page.get_by_role('option', name='1: Segment the cell.').click()
    one.page.wait_for_function('n => document.querySelectorAll(".cv-tick").length === n', arg=len(first.masks))
    assert json.loads(one.save('rle')[1])['answer'] == first.text
    # Visitors do not see each other, and file URLs cannot be guessed.
    assert 'visitor3' not in one.page.content() and 'visitor1' not in two.page.content()
    source = one.page.get_attribute('.cv-base', 'src')
    assert two.context.request.get(f'{served.url}/{source}').ok
    token = source.split('/')[1]
    assert len(token) >= 32
    assert token != two.page.get_attribute('.cv-base', 'src').split('/')[1]
    name = source.rpartition('/')[2]
    for path in (source.replace(token, token[:-1] + '.'), source.replace(name, f'..%2F{token}%2F{name}')):
        assert two.context.request.get(f'{served.url}/{path}').status == 404
    # On a phone, nothing is wider than the screen.
    assert two.page.evaluate('document.documentElement.scrollWidth') <= PHONE['width']
    # A new conversation deletes the files of the old one.
    one.page.click('#cv-new')
    one.page.wait_for_selector('.cv-empty')
    assert one.context.request.get(f'{served.url}/{source}').status == 404
    # So does closing the page.
    left = f'{served.url}/{two.page.get_attribute(".cv-base", "src")}'
    assert one.context.request.get(left).ok
    two.page.close()
    end = time.monotonic() + 20
    while one.context.request.get(left).ok:
        assert time.monotonic() < end
        time.sleep(0.1)


@in_browser
def test_slices_of_a_volume(visit, served, tmp_path):
    rng = np.random.default_rng(5)
    values = rng.integers(-200, 300, (20, 24, 16)).astype(np.int16)
    affine = scans.affine_of(scans.every_orientation()[13])
    path = scans.nifti(tmp_path / 'scan.nii.gz', values, affine)
    visitor = visit()
    visitor.upload(path)
    visitor.page.get_by_label('coronal').check()
    visitor.page.get_by_text('scan.nii.gz, coronal').first.wait_for()
    visitor.choose('#cv-index', '5')
    visitor.page.get_by_text('scan.nii.gz, coronal 5').first.wait_for()
    visitor.choose('#cv-window', 'nonsense')
    assert 'nonsense' in visitor.problem('scan.nii.gz')
    visitor.choose('#cv-window', '40,400')
    visitor.page.wait_for_function('!document.querySelector("#cv-problem .cv-problem")')
    visitor.ask('Segment the cell.')
    expected = answered(served, Image.fromarray(shown_slice(values, affine)), 'Segment the cell.')
    name, content = visitor.save('nifti')
    assert name == 'scan-coronal-5_labels.nii.gz'
    (tmp_path / name).write_bytes(content)
    saved = scans.read_nifti(tmp_path / name)
    np.testing.assert_array_equal(saved.affine, scans.read_nifti(path).affine)
    labels = np.zeros(expected.masks[0].array.shape, np.uint8)
    for number, mask in enumerate(expected.masks, 1):
        labels[mask.array > 0] = number
    # RAS+: coronal slices are seen from the front, head up.
    canonical = np.asarray(nibabel.as_closest_canonical(saved).dataobj)
    assert saved.shape == values.shape and labels.any()
    np.testing.assert_array_equal(canonical[:, 5].T[::-1, ::-1], labels)
    assert np.count_nonzero(canonical) == np.count_nonzero(labels)


def shown_slice(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Coronal slice 5 in the window 40,400: uint8 [h, w, 3]."""
    canonical = np.asarray(nibabel.as_closest_canonical(nibabel.Nifti1Image(values, affine)).dataobj)
    grey = np.clip(np.rint((canonical[:, 5].T[::-1, ::-1].astype(float) + 160) / 400 * 255), 0, 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def endless_answers(served) -> Iterator[None]:
    """The model generates at most 50 tokens per second and never ends."""
    end = served.pipe.engine.template.tokenizer.eos_token_id

    def without_end(module: Any, args: Any, logits: Any) -> Any:
        time.sleep(0.02)
        return logits.index_fill(-1, logits.new_tensor([end], dtype=torch.long), -math.inf)

    hook = served.pipe.engine.model.lm_head.register_forward_hook(without_end)
    yield
    hook.remove()


@in_browser
def test_stop_and_close_the_page(visit, tmp_path, endless_answers):
    picture(1).save(tmp_path / 'a.png')
    one, two = visit(), visit()
    for visitor in (one, two):
        visitor.upload(tmp_path / 'a.png')
        visitor.page.get_by_text('Settings', exact=True).click()
        visitor.choose('#cv-max-tokens', '4096')
        visitor.page.fill('#cv-question textarea', 'Segment the cell.')
        visitor.page.press('#cv-question textarea', 'Enter')
        visitor.page.wait_for_function('document.querySelectorAll("#cv-chat mark").length > 3')
        assert is_generating()
        if visitor is one:
            visitor.page.click('#cv-stop')
            visitor.page.wait_for_selector('#cv-ask', state='visible')
        else:
            visitor.page.close()
        end = time.monotonic() + 60
        while is_generating():
            assert time.monotonic() < end
            time.sleep(0.05)
    said = one.page.locator('#cv-chat [data-testid=bot]')
    assert said.inner_text().endswith('(stopped)')
    one.choose('#cv-max-tokens', '8')
    one.ask('And the nucleus?')
    assert said.count() == 2 and not said.last.inner_text().endswith('(stopped)')


def is_generating() -> bool:
    """Whether ms-swift's thread that generates a stream is alive."""
    return any('_model_generate' in thread.name for thread in threading.enumerate())
