"""Bad rows of every kind, each with its error and the step that finds it; and good rows with unusual files."""
import base64
import io
import json
import numpy as np
import os
import struct
import zlib
from pathlib import Path
from PIL import Image
from support.rows import Maker, box_mask, rle
from typing import Any, Literal, NamedTuple

# The line itself, the header of a file of the row, or the pixels of a file or mask.
Found = Literal['line', 'header', 'pixels']
SIDE = 84


class Fault(NamedTuple):
    """A bad row.

    kind: Of its RowError.
    found: The first step that can find it.
    row: The row, or the line itself.
    needs_model: Whether `citrusv check-data` sees it only with --model.
    """
    name: str
    kind: str
    found: Found
    row: dict[str, Any] | bytes
    needs_model: bool = False


def one_colour_png(width: int, height: int) -> bytes:
    """A palette PNG with one bit a pixel, all of one colour: 400 million pixels in 50 kB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))

    header = struct.pack('>IIBBBBB', width, height, 1, 3, 0, 0, 0)
    pixels = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 1)
    palette = bytes((40, 80, 120, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'PLTE', palette) + chunk(b'IDAT', pixels) + chunk(
        b'IEND', b'')


def noise(height: int = SIDE, width: int = SIDE, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


class Faults:
    """Makes bad and unusual rows.

    Args:
        folder: Where their files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.maker = Maker(folder)

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def image(self, name: str, image: Image.Image, **kwargs: Any) -> str:
        path = self.folder / name
        image.save(path, **kwargs)
        return str(path)

    def plain(self, image: Any) -> dict[str, Any]:
        return self.maker.row('<image>What is it?', 'A cell.', images=[image])

    def seg(self, mask: Any, image: Any = None, answer: str = 'The cell: [SEG].') -> dict[str, Any]:
        images = [self.maker.image(SIDE, SIDE) if image is None else image]
        return self.maker.row('<image>Segment the cell.', answer, images=images, masks=[mask])

    def video(self, *frames: Any) -> dict[str, Any]:
        return self.maker.row('<video>What moves?', 'The cell.', videos=[list(frames)])

    def good(self, count: int) -> list[dict[str, Any]]:
        """Ordinary rows of every kind of the row contract."""
        rows: list[dict[str, Any]] = []
        while len(rows) < count:
            rows += self.maker.every_kind()
        return rows[:count]

    def unusual(self) -> dict[str, dict[str, Any]]:
        """Good rows with unusual files."""
        deep = Image.fromarray(np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE))
        several = [noise(seed=seed) for seed in range(3)]
        exif = Image.Exif()
        exif[0x0112] = 6
        files = {
            '16 bits': self.image('deep.png', deep),
            '16 bits, TIFF': self.image('deep.tif', deep),
            'CMYK': self.image('cmyk.jpg',
                               noise().convert('CMYK')),
            'palette': self.image('palette.png',
                                  noise().quantize(16)),
            'palette with transparency': self.image('clear.png', noise().quantize(16), transparency=0),
            'grey with alpha': self.image('grey_alpha.png',
                                          noise().convert('LA')),
            'colour with alpha': self.image('alpha.png',
                                            noise().convert('RGBA')),
            'one bit': self.image('bits.png',
                                  noise().convert('1')),
            'animated GIF': self.image('moving.gif', several[0], save_all=True, append_images=several[1:]),
            'animated WebP': self.image('moving.webp', several[0], save_all=True, append_images=several[1:]),
            'several pages': self.image('pages.tif', several[0], save_all=True, append_images=several[1:]),
            'turned by EXIF': self.image('turned.jpg', noise(60, 100), exif=exif),
            '1 x 1': self.image('dot.png', noise(1, 1)),
            'narrow': self.image('narrow.png', noise(3, 500)),
        }
        rows = {name: self.plain(path) for name, path in files.items()}
        content = io.BytesIO()
        noise().save(content, 'PNG')
        text = base64.b64encode(content.getvalue()).decode()
        rows |= {
            'data: URL': self.plain(f'data:image/png;base64,{text}'),
            'base64': self.plain(text),
            'file: URL': self.plain(f'file://{files["palette"]}'),
            'frames of a video': self.video(files['16 bits'], files['palette'], files['animated GIF']),
            'mask of 1 x 1': self.seg({
                'size': [1, 1],
                'counts': [0, 1]
            }, files['1 x 1']),
            'mask on 16 bits': self.seg(rle(box_mask((SIDE, SIDE), (5, 5, 40, 40))), files['16 bits']),
            'mask in a palette': self.seg({
                'path': files['palette'],
                'label': 3
            }),
            'mask of 16 bits': self.seg({'path': files['16 bits']}),
            'empty mask': self.seg({
                'size': [SIDE, SIDE],
                'counts': [SIDE * SIDE]
            }),
            'empty strings': self.maker.row('', ''),
            'boxes': {
                **self.maker.row('<image>Where is <ref-object>?', 'At <bbox>.', images=[files['palette']]), 'objects': {
                    'ref': ['the cell'],
                    'bbox': [[1.5, 2, 30, 40]]
                }
            },
        }
        return rows

    def bad(self) -> list[Fault]:
        return [*self._lines(), *self._headers(), *self._pixels()]

    def _lines(self) -> list[Fault]:
        size = [SIDE, SIDE]
        row, seg = self.maker.row, self.seg
        pixels = SIDE * SIDE
        boxes = {'ref': ['the cell'], 'bbox': [[1, 2, float('nan'), 40]]}
        bomb = [100_000, 100_000]
        return [
            Fault('not JSON', 'not-json', 'line', b'{"messages": ['),
            Fault('not UTF-8', 'not-json', 'line', b'{"messages": "\xff"}'),
            Fault('half a character', 'not-json', 'line',
                  json.dumps(row('a \ud83d b', 'No.')).encode()),
            Fault('nested too deeply', 'not-json', 'line', b'{"messages": ' + 3000 * b'[' + 3000 * b']' + b'}'),
            Fault('a huge integer', 'not-json', 'line', b'{"messages": ' + 5000 * b'9' + b'}'),
            Fault('no message', 'messages', 'line', {'messages': []}),
            Fault('no content', 'message', 'line', {'messages': [{
                'role': 'user'
            }]}),
            Fault('unknown role', 'preprocessor', 'line',
                  {'messages': [{
                      'role': 'doctor',
                      'content': 'Hm?'
                  }, {
                      'role': 'assistant',
                      'content': 'Yes.'
                  }]}, True),
            Fault('two [SEG], one mask', 'mask-count', 'line', seg(self.maker.mask(), answer='[SEG] and [SEG].')),
            Fault('mask without image', 'masks-without-image', 'line', row('Segment.', '[SEG]', masks=[[[1] * 6]])),
            Fault('mask of no form', 'mask-form', 'line', seg(5)),
            Fault('RLE with a negative run', 'mask-rle', 'line', seg({
                'size': size,
                'counts': [-5, pixels + 5]
            })),
            Fault('RLE with a run too long', 'mask-rle', 'line', seg({
                'size': size,
                'counts': [5, pixels]
            })),
            Fault('RLE with a run of 65 bits', 'not-json', 'line', seg({
                'size': size,
                'counts': [5, 2**64 + pixels - 5]
            })),
            Fault('RLE bomb', 'too-many-pixels', 'line', seg({
                'size': bomb,
                'counts': [10**10]
            })),
            Fault('compressed RLE bomb', 'too-many-pixels', 'line', seg({
                'size': bomb,
                'counts': 'PPP1'
            })),
            Fault('RLE without counts', 'mask-rle', 'line', seg({
                'size': size,
                'counts': ''
            })),
            Fault('polygon with NaN', 'mask-polygon', 'line', seg([[1, 2, 30, 4, float('nan'), 60]])),
            Fault('mask file without a name', 'mask-path', 'line', seg({'path': ''})),
            Fault('box with NaN', 'objects', 'line', {
                **self.plain(self.maker.image()), 'objects': boxes
            }),
            Fault('image is a number', 'image-unreadable', 'line', self.plain(5)),
        ]

    def _headers(self) -> list[Fault]:
        plain, seg = self.plain, self.seg
        (self.folder / 'folder.png').mkdir()
        os.mkfifo(self.folder / 'pipe.png')
        page = self.file('page.png', b'<html>404 Not Found</html>')
        eps = self.file('a.eps', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 84 84\n%%EndComments\nshowpage\n')
        bomb = self.file('bomb.png', one_colour_png(20_000, 20_000))
        missing = str(self.folder / 'nowhere.png')
        floats = self.image('floats.tif', Image.fromarray(np.ones((SIDE, SIDE), np.float32)))
        small = self.image('small.png', noise(40, 60).convert('L'))
        unreadable = 'image-unreadable'
        return [
            Fault('missing image', unreadable, 'header', plain(missing)),
            Fault('missing image of a mask', unreadable, 'header', seg(self.maker.mask(), missing)),
            Fault('image without a name', unreadable, 'header', plain('')),
            Fault('image is a folder', 'file-format', 'header', plain(str(self.folder / 'folder.png'))),
            Fault('image is a pipe', unreadable, 'header', plain(str(self.folder / 'pipe.png'))),
            Fault('image is an NRRD file', 'file-format', 'header', plain(self.file('a.nrrd', b'NRRD0004\n'))),
            Fault('image of zero bytes', unreadable, 'header', plain(self.file('empty.png', b''))),
            Fault('image is a web page', unreadable, 'header', plain(page)),
            Fault('half a data: URL', unreadable, 'header', plain('data:image/png;base64,iVBORw0KGgo=')),
            Fault('image at a URL', 'url', 'header', plain('http://127.0.0.1:9/a.png')),
            Fault('20,000 x 20,000 pixels', 'too-many-pixels', 'header', plain(bomb)),
            Fault('image for Ghostscript', 'image-format', 'header', plain(eps)),
            Fault('image of floats', 'image-mode', 'header', plain(floats)),
            Fault('image too narrow', 'encode', 'header', plain(self.image('line.png', noise(2, 500))), True),
            Fault('RLE of another size', 'mask-size', 'header', seg(rle(box_mask((40, 60), (5, 5, 20, 20))))),
            Fault('mask file of another size', 'mask-size', 'header', seg({'path': small})),
            Fault('missing mask file', 'mask-file', 'header', seg({'path': missing})),
            Fault('mask file is a folder', 'file-format', 'header', seg({'path': str(self.folder / 'folder.png')})),
            Fault('mask file is a web page', 'mask-file', 'header', seg({'path': page})),
            Fault('mask file is a bomb', 'too-many-pixels', 'header', seg({'path': bomb})),
            Fault('missing frame', 'video-unreadable', 'header', self.video(self.maker.image(), missing)),
            Fault('frame is a bomb', 'too-many-pixels', 'header', self.video(self.maker.image(), bomb)),
            Fault('missing video', 'video-unreadable', 'header', {
                **self.maker.row('<video>What moves?', 'The cell.'), 'videos': [str(self.folder / 'nowhere.mp4')]
            }),
            Fault('more tags than images', 'image-tags', 'header', {
                **plain(self.maker.image()),
                **self.maker.row('<image><image>What?', 'A cell.')
            }),
            Fault('too long', 'MaxLengthError', 'header', self.maker.row('Count.', 'one two ' * 3000), True),
        ]

    def _pixels(self) -> list[Fault]:
        seg = self.seg
        cut_jpg = Path(self.image('whole.jpg', noise(), quality=95))
        cut_jpg.write_bytes(cut_jpg.read_bytes()[:-800])
        cut_png = Path(self.image('whole.png', noise()))
        cut_png.write_bytes(cut_png.read_bytes()[:-400])
        moving = self.image('moving_mask.gif', noise().convert('L'), save_all=True, append_images=[noise(seed=1)])
        colour = self.image('colour_mask.png', noise())
        size = [SIDE, SIDE]
        whole = rle(box_mask((SIDE, SIDE), (5, 5, 40, 40)))['counts']
        return [
            Fault('JPEG cut short', 'image-unreadable', 'pixels', self.plain(str(cut_jpg))),
            Fault('JPEG cut short, with a mask', 'image-unreadable', 'pixels', seg(self.maker.mask(), str(cut_jpg))),
            Fault('PNG cut short', 'image-unreadable', 'pixels', self.plain(str(cut_png))),
            Fault('frame cut short', 'video-unreadable', 'pixels', self.video(str(cut_jpg), str(cut_jpg))),
            Fault('RLE that is no RLE', 'mask-rle', 'pixels', seg({
                'size': size,
                'counts': 'not an RLE'
            })),
            Fault('RLE cut short', 'mask-rle', 'pixels', seg({
                'size': size,
                'counts': whole[:-2]
            })),
            Fault('compressed RLE with a negative run', 'mask-rle', 'pixels', seg({
                'size': size,
                'counts': 'OOO'
            })),
            Fault('compressed RLE that runs over', 'mask-rle', 'pixels', seg({
                'size': size,
                'counts': whole + 'PPPPP1'
            })),
            Fault('polygon outside', 'mask-outside', 'pixels', seg([[900, 900, 950, 900, 950, 950]])),
            Fault('label in a colour mask', 'mask-mode', 'pixels', seg({
                'path': colour,
                'label': 1
            })),
            Fault('label in a JPEG mask', 'mask-lossy', 'pixels',
                  seg({
                      'path': self.image('label.jpg',
                                         noise(SIDE, SIDE).convert('L')),
                      'label': 1
                  })),
            Fault('moving mask', 'mask-mode', 'pixels', seg({'path': moving})),
            Fault('mask file cut short', 'mask-file', 'pixels', seg({'path': str(cut_png)})),
        ]


def mixed(good: list[dict[str, Any]], bad: list[Fault]) -> tuple[list[bytes], dict[int, Fault]]:
    """Lines with the bad rows spread evenly among the good ones, and the faults by the number of their line."""
    lines: list[bytes] = []
    faults: dict[int, Fault] = {}
    step = len(good) / max(len(bad), 1)
    waiting = list(good)
    for i, fault in enumerate(bad):
        taken = round((i + .5) * step) - (len(good) - len(waiting))
        lines += [json.dumps(row).encode() for row in waiting[:taken]]
        waiting = waiting[taken:]
        lines.append(fault.row if isinstance(fault.row, bytes) else json.dumps(fault.row).encode())
        faults[len(lines)] = fault
    return [*lines, *(json.dumps(row).encode() for row in waiting)], faults


def write_lines(path: Path, lines: list[bytes]) -> str:
    path.write_bytes(b'\n'.join(lines) + b'\n')
    return str(path)
