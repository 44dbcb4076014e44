"""When two texts say the same: their form, their shingles, and the words that make a difference."""
import hashlib
import numpy as np
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from ..texts import CJK, RowText

# Words and numbers of any script but Chinese, Japanese and Korean, of which each character counts. Signs of numbers,
# comparisons, and the plus and minus of a laboratory result in brackets are units too.
_NUMBER = r'(?<![^\W_])[-+]?\d+(?:[.,:/]\d+)*|\d+(?:[.,:/]\d+)*'
_UNITS = re.compile(rf'[^\W\d_{CJK}]+|[{CJK}]|{_NUMBER}|[<>≤≥±%]|(?<=\()[-+]+(?=\))')
# The same for ASCII, in half the time.
_ASCII_UNITS = re.compile(rf'[a-z]+|{_NUMBER}|[<>%]|(?<=\()[-+]+(?=\))', re.ASCII)
# A text without these has words only, which need no regular expression.
_MORE_THAN_WORDS = re.compile(r'[\d<>%(]')
_SPACES = bytes(code if chr(code).isascii() and chr(code).isalpha() else 32 for code in range(256))
_SHINGLE = 3
# Bands x rows of the signature. Two texts of Jaccard index .8 share a band with a probability of .996, of .5 with .36.
BANDS, ROWS = 14, 5
_SEED = 1
# Odd numbers that tell the places in a shingle apart.
_MIX = np.array([0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9], np.uint64)
# One of these makes another statement of a text, whatever the rest says: sides, denials, courses. Numbers do too.
_DECISIVE = frozenset(
    'left right bilateral upper lower middle anterior posterior medial lateral superior inferior proximal distal '
    'no not without never absent negative positive present normal abnormal increased decreased increasing decreasing '
    'enlarged reduced larger smaller improved worsened stable unchanged new resolved acute chronic benign malignant '
    'mild moderate severe high low male female before after yes left-sided right-sided none neither nor denies'.split())
_DECISIVE_CHINESE = frozenset('左右双上下中前后内外侧无未非否不有阴阳正异增减大小升降新旧急慢良恶轻重高低男女是')


def text_units(text: RowText) -> list[str]:
    """The units of the questions and answers of a row; joined by spaces they are its normal form.

    It has no differences of case, width, punctuation and space. Numbers keep their signs and separators.
    """
    if len(text.questions) == len(text.answers) == 1:
        return units_of(text.questions[0]) + units_of(text.answers[0])
    return [unit for part in (*text.questions, *text.answers) for unit in units_of(part)]


def hashable_units(text: RowText) -> list[str | bytes]:
    """As `text_units`, for `shingle_hashes`: texts of ASCII words alone as bytes, in a third of the time."""
    units: list[str | bytes] = []
    for part in (*text.questions, *text.answers):
        if part.isascii() and _MORE_THAN_WORDS.search(part) is None:
            units += part.lower().encode().translate(_SPACES).split()
        else:
            units += units_of(part)
    return units


def units_of(text: str) -> list[str]:
    """Words, numbers, and Chinese characters."""
    if text.isascii():
        return _ASCII_UNITS.findall(text.lower())
    return _UNITS.findall(unicodedata.normalize('NFKC', text).replace('\u2212', '-').casefold())


def exact_key(text: str, images: bytes) -> bytes:
    """16 bytes of a text and of the images that it is about."""
    return digest(text.encode('utf-8', 'surrogatepass') + b'\0' + images)


def digest(content: bytes) -> bytes:
    """16 bytes that tell contents apart."""
    return hashlib.blake2b(content, digest_size=16).digest()


def band_keys(texts: Sequence[list[str | bytes]], images: Sequence[bytes]) -> np.ndarray:
    """Keys that near-duplicates share with high probability.

    Args:
        texts: The units of n texts, at least one each.
        images: Keys of their images: texts about other images share nothing.

    Returns:
        uint64 [n, BANDS].
    """
    from rensa import RMinHash
    tokens, offsets = shingle_hashes(texts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(tokens, offsets, num_perm=BANDS * ROWS, seed=_SEED)
    values = chain.from_iterable(matrix.to_rows())
    signature = np.fromiter(values, np.uint32, len(texts) * BANDS * ROWS).reshape(len(texts), BANDS, ROWS)
    keys = np.empty((len(texts), BANDS), np.uint64)
    keys[:] = [[int.from_bytes(image[:8].ljust(8, b'\0'), 'little')] for image in images]
    # FNV-1a over the rows of a band; arithmetic of uint64 wraps around.
    keys ^= np.arange(BANDS, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
    for row in range(ROWS):
        keys = (keys ^ signature[:, :, row].astype(np.uint64)) * np.uint64(0x100000001b3)
        keys ^= keys >> np.uint64(29)
    return keys


def shingle_hashes(texts: Sequence[list[str | bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of many texts as numbers.

    Args:
        texts: Their units.

    Returns:
        tokens: uint64 [m], text by text.
        offsets: uint64 [n + 1]: where the tokens of each text start.
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    total = int(lengths.sum())
    numbers = hash_units(chain.from_iterable(texts), total)
    # A text of fewer than three units has one shingle, of all of them: it goes on with zeros.
    padded = np.maximum(lengths, _SHINGLE)
    starts = np.concatenate(([0], np.cumsum(padded)))
    values = np.zeros(int(starts[-1]) + _SHINGLE, np.uint64)
    sources = np.concatenate(([0], np.cumsum(lengths)))[:-1]
    values[np.arange(total) + np.repeat(starts[:-1] - sources, lengths)] = numbers
    mixed = values[:-2] * _MIX[0] + values[1:-1] * _MIX[1] + values[2:] * _MIX[2]
    mixed ^= mixed >> np.uint64(31)
    # A group that starts in the last two units of a text would reach into the next one.
    counts = padded - _SHINGLE + 1
    offsets = np.concatenate(([0], np.cumsum(counts)))
    places = np.arange(int(offsets[-1])) + np.repeat(starts[:-1] - offsets[:-1], counts)
    return np.ascontiguousarray(mixed[places]), offsets.astype(np.uint64)


class _UnitHashes(dict[str | bytes, int]):
    """64-bit numbers of units, which are remembered: a text has few new ones."""
    _MOST = 1 << 20

    def __missing__(self, unit: str | bytes) -> int:
        if len(self) >= self._MOST:
            self.clear()
        content = unit if isinstance(unit, bytes) else unit.encode('utf-8', 'surrogatepass')
        number = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), 'little')
        self[unit] = number
        return number


_UNIT_HASHES = _UnitHashes()


def hash_units(units: Iterable[str | bytes], count: int = -1) -> np.ndarray:
    """The numbers of units: uint64 [n].

    Args:
        units: The units.
        count: Their number, if it is known.
    """
    return np.fromiter(map(_UNIT_HASHES.__getitem__, units), np.uint64, count)


def jaccard(first: str, second: str) -> float:
    """The Jaccard index of the shingles of two normal forms."""
    one, other = shingles_of(first.split()), shingles_of(second.split())
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def shingles_of(units: Sequence[str]) -> set[tuple[str, ...]]:
    """Groups of three neighbouring units; a shorter text is one group."""
    return set(zip(units, units[1:], units[2:])) if len(units) >= _SHINGLE else {tuple(units)}


def decisive_difference(first: str, second: str) -> str:
    """A unit that makes two normal forms say different things; '' if there is none.

    It is a number, a sign, a side, a denial or a course that only one of them has, or that stands elsewhere in the same
    words: 'left larger than right'.
    """
    units, others = first.split(), second.split()
    one, other = set(units), set(others)
    if len(one) == len(units) and len(other) == len(others):
        # No unit stands twice, as in most texts.
        different = one ^ other
    else:
        counts, other_counts = Counter(units), Counter(others)
        different = (counts - other_counts).keys() | (other_counts - counts).keys()
    if different:
        return min(filter(_is_decisive, different), default='')
    pairs = [[unit for unit in text if _is_decisive(unit)] for text in (units, others)]
    return next((a for a, b in zip(*pairs) if a != b), '')


def _is_decisive(unit: str) -> bool:
    return not unit[0].isalpha() or unit in _DECISIVE or unit in _DECISIVE_CHINESE
