"""Image files of every kind that differ in how their size is known."""
import numpy as np
import struct
import zlib
from pathlib import Path
from PIL import Image, TiffImagePlugin
from typing import Any

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'


def noise(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height * width)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def oriented_tiff(value: int) -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = value
    return tags


def xmp_tiff() -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[700] = 1
    tags[700] = XMP
    return tags


def raw_png(path: Path, bit_depth: int, colour_type: int, rows: list[bytes], width: int) -> str:
    """A PNG of a kind that PIL does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = struct.pack('>IIBBBBB', width, len(rows), bit_depth, colour_type, 0, 0, 0)
    data = zlib.compress(b''.join(b'\x00' + row for row in rows))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b''))
    return str(path)


def write_images(folder: Path) -> list[str]:
    """One file of every kind that could have another size after loading than its header says, or than it looks."""
    folder.mkdir(exist_ok=True)
    wide = noise(100, 300)
    grey = wide.convert('L')
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        'plain.jpg': (wide, {}),
        'grey.jpg': (grey, {}),
        'turned.jpg': (wide, {'exif': orientation(6)}),
        'cmyk.jpg': (wide.convert('CMYK'), {}),
        'progressive.jpg': (wide, {'progressive': True}),
        'frames.mpo': (wide, {'save_all': True, 'append_images': [noise(50, 60)]}),
        'plain.png': (wide, {}),
        'turned.png': (wide, {'exif': orientation(6)}),
        'palette.png': (wide.quantize(16), {}),
        'clear.png': (wide.quantize(16), {'transparency': 0}),
        'deep.png': (Image.fromarray(np.arange(30000, dtype=np.uint16).reshape(100, 300)), {}),
        'alpha.png': (wide.convert('RGBA'), {}),
        'grey_alpha.png': (wide.convert('LA'), {}),
        'bits.png': (wide.convert('1'), {}),
        'plain.tif': (wide, {}),
        'turned.tif': (wide, {'tiffinfo': oriented_tiff(6)}),
        'turned_lzw.tif': (wide, {'tiffinfo': oriented_tiff(8), 'compression': 'tiff_lzw'}),
        'mirrored.tif': (wide, {'tiffinfo': oriented_tiff(2)}),
        'turned_xmp.tif': (wide, {'tiffinfo': xmp_tiff()}),
        'pages.tif': (wide, {'save_all': True, 'append_images': [noise(50, 60)]}),
        'plain.gif': (wide, {}),
        'plain.bmp': (wide, {}),
        'plain.webp': (wide, {}),
        'plain.jp2': (wide, {}),
        'plain.ppm': (wide, {}),
        'plain.ico': (wide, {'sizes': [(64, 64), (16, 32)]}),
        'plain.tga': (wide, {}),
        'dot.png': (noise(1, 1), {}),
        'small.png': (noise(9, 31), {}),
        'narrow.png': (noise(2, 300), {}),
        'huge.png': (Image.new('P', (9000, 4000), 3), {}),
        'long.png': (Image.new('L', (12000, 61), 3), {}),
    }  # yapf: disable
    for name, (image, kwargs) in files.items():
        image.save(folder / name, **kwargs)
    return [str(folder / name) for name in files]
