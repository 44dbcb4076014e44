"""`citrusv data dedup`: copies of images are found, and slices of a series and changed images are none."""
import base64
import duckdb
import io
import json
import numpy as np
import pytest
import skimage
from collections.abc import Iterator
from pathlib import Path
from PIL import Image, ImageDraw
from support import chest, scans
from support.dedup import dedup
from support.messy_rows import row
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.curation.dedup.image_likeness import hashes, likeness, thumbnail

QUESTION, ANSWER = 'What does this image show?', 'A picture whose content is described by this answer.'
LUNG, SOFT_TISSUE = (-600, 1500), (40, 400)
# Colour charts, gratings and noise of few pixels, which no perceptual hash tells from others.
ARTIFICIAL = ('color.png', 'chessboard_GRAY.png', 'chessboard_RGB.png', 'brick.png', 'microaneurysms.png')


def windowed(values: np.ndarray, window: tuple[int, int]) -> Image.Image:
    centre, width = window
    return Image.fromarray(((values - (centre - width / 2)) / width * 255).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope='module')
def slices() -> dict[tuple[int, int], list[Image.Image]]:
    values, _ = chest.voxels()
    return {window: [windowed(item.astype(float), window) for item in values] for window in (LUNG, SOFT_TISSUE)}


@pytest.fixture(scope='module')
def photos() -> list[Image.Image]:
    files = sorted((Path(skimage.__file__).parent / 'data').glob('*.*g'))
    opened = [Image.open(file).convert('RGB') for file in files if file.name not in ARTIFICIAL]
    for image in opened:
        # Smaller files take less time.
        image.thumbnail((400, 400))
    return opened


def jpeg(image: Image.Image, quality: int = 40, **values: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, 'JPEG', quality=quality, **values)
    return out.getvalue()


def gamma(image: Image.Image, exponent: float) -> Image.Image:
    return Image.fromarray((255 * (np.asarray(image) / 255)**exponent + .5).astype(np.uint8))


def cut(image: Image.Image, *sides: float) -> Image.Image:
    """Without parts of its left, upper, right and lower side."""
    width, height = image.size
    left, upper, right, lower = sides
    return image.crop((round(left * width), round(upper * height), round(width - right * width),
                       round(height - lower * height)))  # yapf: disable


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, 'PNG')
    return out.getvalue()


def copies(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    width, height = image.size
    for factor in (.6, 1.6):
        yield f'x{factor}', png(image.resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC))
    yield 'jpeg', jpeg(image)
    for exponent in (.7, 1.4):
        yield f'gamma{exponent}', png(gamma(image, exponent))
    yield 'cut', png(cut(image, .02, .02, .02, .02))
    yield 'cut left', png(cut(image, .02, 0, 0, 0))
    # As a camera saves a turned picture: with the turn in EXIF, and by a program that lost it.
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image.transpose(Image.Transpose.ROTATE_90)
    yield 'turned in EXIF', jpeg(turned, 90, exif=exif)
    yield 'turned', jpeg(turned, 90)


def written(folder: Path, name: str, content: bytes) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return str(folder / name)


def test_planted_copies(slices, photos, tmp_path):
    originals = [*photos, *(image for images in slices.values() for image in images[5::20])]
    rows, source, kinds = [], [], []
    for number, image in enumerate(originals):
        for kind, content in [('', png(image)), *copies(image)]:
            rows.append(row(QUESTION, ANSWER, written(tmp_path / 'images', f'{number}-{kind}.x', content)))
            source.append(number)
            kinds.append(kind)
    found = dedup(rows, tmp_path, 2)
    for line, (rule, verdict, winner) in found.items():
        assert (rule, verdict) == ('near-image', 'merged') and winner is not None
        assert source[line - 1] == source[winner - 1], (kinds[line - 1], kinds[winner - 1])
    # Of the ten rows about a picture one stays.
    expected = len(rows) - len(originals)
    assert len(found) >= .97 * expected, (len(found), expected)
    by_kind = {kind: sum(kinds[line - 1] == kind for line in found) / len(originals) for kind in set(kinds)}
    # The copy of 1.6 times the size stays.
    assert all(rate >= .95 for kind, rate in by_kind.items() if kind not in ('', 'x1.6')), by_kind


def test_slices_of_a_ct_are_no_copies(slices, tmp_path):
    """Neither as DICOM files nor as PNG files, which say nothing of a series."""
    for window, images in slices.items():
        names = [written(tmp_path / 'png', f'{window[0]}-{number}.png', png(image))
                 for number, image in enumerate(images)]  # yapf: disable
        assert len(names) == 133
        assert dedup([row(QUESTION, ANSWER, name) for name in names], tmp_path / 'rows', 2) == {}
    names = chest.write_series(tmp_path / 'series', 2)
    assert dedup([row(QUESTION, ANSWER, f'{name}#window=-600,1500') for name in names], tmp_path / 'rows', 2) == {}


def test_a_copy_belongs_to_its_own_slice(slices, tmp_path):
    images = slices[LUNG][40:60]
    names = [written(tmp_path / 'png', f'{number}.png', png(image)) for number, image in enumerate(images)]
    names += [written(tmp_path / 'png', f'{number}.jpg', jpeg(cut(image, .01, .01, 0, .01)))
              for number, image in enumerate(images)]  # yapf: disable
    rows = [row(QUESTION, ANSWER, name) for name in names]
    found = dedup(rows, tmp_path, 2)
    # Another number of parts and of workers changes nothing.
    assert dedup(rows, tmp_path, 1, 20000) == found
    assert found == {21 + number: ('near-image', 'merged', 1 + number) for number in range(20)}


def test_thin_slices_of_one_series_are_no_copies(tmp_path):
    """Slices 0.25 mm apart look the same; the series says that they are not. As loose PNG files they cannot be told."""
    values = chest.voxels(2)[0][60:62].astype(float)
    thin = np.stack([values[0] * (1 - part) + values[1] * part for part in np.linspace(0, 1, 10)]).astype(np.int16)
    names = [
        f'{name}#window=lung'
        for name in scans.series(tmp_path / 'dicom', thin + 1024, first=(0, 0, 0), spacing=(1.4, 1.4), step=.25)
    ]
    assert dedup([row(QUESTION, ANSWER, name) for name in names], tmp_path) == {}
    nifti = str(tmp_path / 'thin.nii.gz')
    import nibabel
    nibabel.save(nibabel.Nifti1Image(thin.transpose(2, 1, 0), np.diag([1.4, 1.4, .25, 1])), nifti)
    names = [f'{nifti}#index={index}&window=lung' for index in range(10)]
    assert dedup([row(QUESTION, ANSWER, name) for name in names], tmp_path) == {}
    loose = [written(tmp_path / 'png', f'{i}.png', png(windowed(item, LUNG))) for i, item in enumerate(thin)]
    assert dedup([row(QUESTION, ANSWER, name) for name in loose], tmp_path) != {}


def drawn(image: Image.Image, what: str) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    width, height = image.size
    if what == 'nodule':
        draw.ellipse((.3 * width, .45 * height, .35 * width, .5 * height), fill=200)
    elif what == 'box':
        draw.rectangle((.3 * width, .4 * height, .5 * width, .6 * height), outline=255, width=4)
    else:
        draw.text((.3 * width, .3 * height), what, fill=255, font_size=height // 20)
    return image


@pytest.mark.parametrize('what', ['nodule', 'box', 'SEE HERE'])
def test_something_drawn_makes_another_image(slices, tmp_path, what):
    image = slices[LUNG][70]
    names = [written(tmp_path, 'a.png', png(image)), written(tmp_path, 'b.png', png(drawn(image, what)))]
    assert dedup([row(QUESTION, ANSWER, name) for name in names], tmp_path) == {}


def test_a_mirrored_image_is_another(slices, tmp_path):
    """Left is not right."""
    names = [written(tmp_path, f'{i}.png', png(image)) for i, image in enumerate(
        [slices[LUNG][50], slices[LUNG][50].transpose(Image.Transpose.FLIP_LEFT_RIGHT)])]  # yapf: disable
    assert dedup([row(QUESTION, ANSWER, name) for name in names], tmp_path) == {}


def test_blank_images_are_no_copies(tmp_path):
    rng = np.random.default_rng(0)
    names = [written(tmp_path, f'{i}.png', png(Image.fromarray(rng.integers(9, 11, (300, 300), dtype=np.uint8))))
             for i in range(4)]  # yapf: disable
    names += [written(tmp_path, f'flat{grey}.png', png(Image.new('L', (300, 300), grey))) for grey in (3, 4, 200)]
    names.append(written(tmp_path, 'line.png', png(Image.new('L', (3000, 1), 4))))
    assert dedup([row(QUESTION, ANSWER, name) for name in names], tmp_path) == {}


def test_rows_about_copies(slices, tmp_path):
    """Text and image count both; the row with most masks stays; images may be inside the row, and several."""
    image, other = slices[LUNG][40], slices[LUNG][80]
    name, copy = written(tmp_path, 'a.png', png(image)), written(tmp_path, 'b.jpg', jpeg(image))
    far, far_copy = written(tmp_path, 'c.png', png(other)), written(tmp_path, 'd.jpg', jpeg(other))
    inside = {'bytes': None, 'path': copy}
    data = f'data:image/jpeg;base64,{base64.b64encode(jpeg(image, 60)).decode()}'
    rows = [
        row(QUESTION, ANSWER, name),
        row(QUESTION, ANSWER, copy, masks=[{'size': [512, 512], 'counts': '0'}]),
        row('Where is the heart in this image?', ANSWER, copy),
        row('Where is the liver in this image?', 'It is not seen on this slice at all.', name),
        row(QUESTION, ANSWER, far),
        row(QUESTION, ANSWER, inside),
        row(QUESTION, ANSWER, data),
        {**row(QUESTION, ANSWER), 'images': [name, far]},
        {**row(QUESTION, ANSWER), 'images': [copy, far_copy]},
        {**row(QUESTION, ANSWER), 'images': [far_copy, copy]},
    ]  # yapf: disable
    found = dedup(rows, tmp_path)
    assert found == {1: ('near-image', 'merged', 2), 6: ('exact-pair', 'merged', 2), 7: ('near-image', 'merged', 2),
                     9: ('near-image', 'merged', 8)}  # yapf: disable
    lines = duckdb.connect().execute(
        f"SELECT measure, threshold FROM '{tmp_path}/out/ledger/*.parquet' WHERE rule = 'near-image'").fetchall()
    assert len(lines) == 3 and all(.985 <= measure <= 1 and threshold == .985 for measure, threshold in lines)
    # Nearly the same text about a copy.
    long = ('Both lungs are well expanded, with a faint opacity at the base that may be atelectasis. The bones show '
            'degenerative change of the spine, and the soft tissues look as one expects.')
    rows = [row(QUESTION, long, name), row(QUESTION, long.replace('faint', 'subtle'), copy),
            row(QUESTION, long.replace('faint', 'pale'), far)]  # yapf: disable
    assert dedup(rows, tmp_path) == {1: ('near-pair', 'merged', 2)}
    # No copies are sought.
    assert dedup(rows, tmp_path, image_threshold=None) == dedup(rows, tmp_path, reads_images=False) == {}


def test_hashes_and_likeness(slices):
    """Against the definition: turned images have the turned hashes, and shifted pixels correlate fully."""
    image = slices[SOFT_TISSUE][66]
    own = hashes(image)
    for turns in range(4):
        turned = Image.fromarray(np.ascontiguousarray(np.rot90(np.asarray(image), turns)))
        distances = [(own[turns] ^ item).bit_count() for item in hashes(turned)]
        assert distances[0] <= 2 and min(distances[1:]) > 12
    assert likeness(thumbnail(image), thumbnail(image)) == pytest.approx(1, abs=1e-4)
    moved = Image.fromarray(np.roll(np.asarray(image), (4, -6), (0, 1)))
    assert likeness(thumbnail(image), thumbnail(moved)) > .999
    assert likeness(thumbnail(image), thumbnail(slices[SOFT_TISSUE][67])) < .985
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    assert likeness(thumbnail(image), thumbnail(Image.fromarray(noise))) == 0


def test_flags(tmp_path, capsys, slices):
    image = slices[LUNG][40]
    names = [written(tmp_path, 'a.png', png(image)), written(tmp_path, 'b.jpg', jpeg(image))]
    path = tmp_path / 'rows.jsonl'
    path.write_text('\n'.join(json.dumps(row(QUESTION, ANSWER, name)) for name in names))
    arguments = ['data', 'dedup', str(path), '--output']
    for number, (flags, merged) in enumerate(
        (([], 1), (['--image-threshold', '1'], 0), (['--image-threshold',
                                                     '.9'], 1), (['--exact'], 0), (['--no-images'], 0))):
        assert main([*arguments, str(tmp_path / f'out{number}'), *flags]) == 0
        assert json.loads((tmp_path / f'out{number}' / 'summary.json').read_text())['merged'] == merged, flags
    capsys.readouterr()
    for flags, message in ((['--image-threshold', '1.5'], '--image-threshold is 1.5'),
                           (['--image-threshold', '.9',
                             '--exact'], 'do not seek'), (['--image-threshold', '.9', '--no-images'], 'do not seek')):
        assert main([*arguments, str(tmp_path / 'no'), *flags]) == 2
        assert message in capsys.readouterr().err
