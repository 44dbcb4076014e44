"""Whether rows can be learned, before any training: what stops a run, and what is doubtful."""
import numpy as np
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .user_rows import SIDE, UserMask, UserRow

# Fewer images, or masks of a name, are too few to learn from; below the second number it is doubtful.
_MIN_IMAGES, _FEW_IMAGES = 4, 30
_FEW_MASKS = 10
# Masks with fewer pixels at the size of the tiny model's masks are hardly drawn.
_MIN_PIXELS = 4
_SHOWN = 8


@dataclass(frozen=True)
class Finding:
    """Something that keeps rows from being learned ('stop') or may do so ('doubt').

    Attributes:
        level: 'stop' or 'doubt'.
        kind: A short, stable name.
        problem: What is wrong, with the values.
        remedy: What the user can do.
    """
    level: Literal['stop', 'doubt']
    kind: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.problem} {self.remedy}'


def check_rows(rows: Sequence[UserRow], masks: Sequence[UserMask], needs_split: bool) -> list[Finding]:
    """All findings, those that stop first.

    Args:
        rows: The training file.
        masks: Its masks.
        needs_split: Whether held-out images are taken from these rows.
    """
    found = list(_missing(rows, masks))
    if not found:
        found = [*_images(masks, needs_split), *_words(rows, masks), *_equal(masks), *_sizes(masks), *_counts(masks),
                 *_unmasked(rows)]  # yapf: disable
    return sorted(found, key=lambda finding: finding.level != 'stop')


def _missing(rows: Sequence[UserRow], masks: Sequence[UserMask]) -> Iterator[Finding]:
    if not rows:
        yield Finding('stop', 'no-rows', 'The file has no rows.', 'Write one JSON object a line.')
    elif not masks:
        num_seg = sum(item.num_seg > 0 for item in rows)
        if num_seg:
            yield Finding('stop', 'no-masks',
                          f'{num_seg:,} of {len(rows):,} rows have [SEG] in an answer, and none has masks.',
                          "Add the column 'masks', one entry for each [SEG].")
        else:
            yield Finding('stop', 'no-masks', f'None of {len(rows):,} rows has masks.',
                          "Write [SEG] into the answers, and the column 'masks' with one entry for each.")
    elif not any(mask.area for mask in masks):
        yield Finding('stop', 'empty-masks', f'All {len(masks):,} masks are empty: there is nothing to draw.',
                      'Check the mask files, and the value of "label": it selects the pixels of exactly that value.')


def _images(masks: Sequence[UserMask], needs_split: bool) -> Iterator[Finding]:
    num = len({mask.image for mask in masks})
    if num == 1 and needs_split:
        yield Finding('stop', 'one-image', f'All {len(masks):,} masks are on one image: none is left to test on.',
                      'Add rows about other images, or give other rows with --val.')
    elif num < _MIN_IMAGES:
        noun = 'image' if num == 1 else 'images'
        yield Finding('stop', 'few-images', f'The masks are on {num} {noun}: too few to learn from.',
                      f'Give at least {_MIN_IMAGES}; {_FEW_IMAGES} and more are better.')
    elif num < _FEW_IMAGES:
        yield Finding('doubt', 'few-images', f'The masks are on {num} images only: few to learn from.',
                      f'{_FEW_IMAGES} and more are better.')


def _words(rows: Sequence[UserRow], masks: Sequence[UserMask]) -> Iterator[Finding]:
    """Different masks on one image for which all words are the same."""
    same: dict[tuple[str, str], list[UserMask]] = defaultdict(list)
    several: dict[str, set[bytes]] = defaultdict(set)
    for mask in masks:
        same[mask.image, mask.text.given].append(mask)
        several[mask.image].add(mask.digest)
    clashes = [group for group in same.values() if len({mask.digest for mask in group}) > 1]
    num = sum(map(len, clashes))
    # Of images with one mask nobody can say whether their words tell it from another.
    of = sum(len(several[mask.image]) > 1 for mask in masks)
    if num:
        first = clashes[0][0].text
        names = sorted({rows[mask.row].name for mask in clashes[0]})
        stop = num > .5 * of
        share = 'Nothing tells one structure from another' if stop else 'Some masks have no words of their own'
        yield Finding(
            'stop' if stop else 'doubt', 'no-name',
            f'{share}: {num:,} of {of:,} masks on images with several masks have the same question and answer as '
            f'another mask of their image, e.g. {", ".join(names[:3])}: "{_short(first.question)}", answered '
            f'"{_short(first.phrase)} [SEG]".', 'Name the structure beside each [SEG]: "The left atrium: [SEG]."')
        if stop:
            return
    guessed = _guessed(rows, masks)
    if guessed:
        yield Finding(
            'doubt', 'question-without-name',
            f'{guessed[0]:,} masks are told apart only by the answer: the same question about the same image has '
            f'different answers, e.g. "{_short(guessed[1])}". The model must guess which one is meant.',
            'Name the structure in the question too.')
    if {mask.name for mask in masks} == {''}:
        yield Finding('doubt', 'no-name', 'No word near any [SEG], in the answer or the question, names a structure.',
                      'That is enough for a single kind of structure only. For several, name each beside its [SEG].')


def _guessed(rows: Sequence[UserRow], masks: Sequence[UserMask]) -> tuple[int, str] | None:
    """Masks of rows with one mask, whose question about their image has other answers as well."""
    groups: dict[tuple[str, str], list[UserMask]] = defaultdict(list)
    for mask in masks:
        if rows[mask.row].num_masks == 1:
            groups[mask.image, mask.text.question].append(mask)
    open_ones = [group for group in groups.values()
                 if len({mask.digest for mask in group}) > 1 and len({mask.text.phrase for mask in group}) > 1
                 ]  # yapf: disable
    return (sum(map(len, open_ones)), open_ones[0][0].text.question) if open_ones else None


def _equal(masks: Sequence[UserMask]) -> Iterator[Finding]:
    """Images on which differently named masks all have the same pixels."""
    images: dict[str, list[UserMask]] = defaultdict(list)
    for mask in masks:
        if mask.area:
            images[mask.image].append(mask)
    several = [group for group in images.values() if len({mask.name or mask.text.given for mask in group}) > 1]
    equal = [group for group in several if len({mask.digest for mask in group}) == 1]
    if not equal:
        return
    stop = len(equal) == len(several) and len(equal) > 1
    names = ', '.join(f'"{_short(name)}"' for name in sorted({mask.name or mask.text.phrase for mask in equal[0]})[:4])
    yield Finding(
        'stop' if stop else 'doubt', 'equal-masks',
        f'On {len(equal):,} of {len(several):,} images with several names, all masks are the same pixels '
        f'({names}), so that the name selects nothing.',
        'If the mask file is a label map, add its value: {"path": "m.png", "label": 3}.')


def _sizes(masks: Sequence[UserMask]) -> Iterator[Finding]:
    filled = [mask for mask in masks if mask.area]
    empty = len(masks) - len(filled)
    if empty > .5 * len(masks):
        yield Finding('doubt', 'empty-masks', f'{empty:,} of {len(masks):,} masks are empty ("not present").',
                      'The model may learn to draw nothing: add rows in which the structure is there.')
    full = sum(mask.share == 1 for mask in filled)
    if full > .5 * len(filled):
        yield Finding('doubt', 'full-masks', f'{full:,} of {len(filled):,} masks cover their whole image.',
                      'Check the mask files: all non-zero pixels count without "label".')
    small = [mask for mask in filled if mask.area_small < _MIN_PIXELS]
    if not small:
        return
    by_name = Counter(mask.name for mask in small)
    of_name = Counter(mask.name for mask in filled)
    listed = ', '.join(f'{_quoted(name)} {count:,} of {of_name[name]:,}' for name, count in by_name.most_common(_SHOWN))
    median = float(np.median([mask.area_small for mask in small]))
    yield Finding(
        'stop' if len(small) > .5 * len(filled) else 'doubt', 'vanishing-masks',
        f'{len(small):,} of {len(filled):,} masks vanish at the size that the tiny model draws ({SIDE} x {SIDE}): they '
        f'have {median:g} pixels there, fewer than {_MIN_PIXELS} ({listed}).',
        'Crop the images around the structures. SAM2 itself draws 256 x 256.')


def _counts(masks: Sequence[UserMask]) -> Iterator[Finding]:
    counts = Counter(mask.name for mask in masks if mask.area)
    few = [name for name, count in counts.items() if count < _FEW_MASKS]
    if few and len(counts) > 1:
        listed = ', '.join(f'{_quoted(name)} {counts[name]}' for name in sorted(few, key=counts.__getitem__)[:_SHOWN])
        more = f' and {len(few) - _SHOWN} more' if len(few) > _SHOWN else ''
        yield Finding('doubt', 'few-masks',
                      f'{len(few)} of {len(counts)} names have fewer than {_FEW_MASKS} masks: {listed}{more}.',
                      'Such a name is hardly learned: add rows, or use one name for the same structure.')
    elif few:
        yield Finding('doubt', 'few-masks', f'There are only {sum(counts.values())} masks.',
                      f'{_FEW_MASKS} and more of each name are better.')


def _unmasked(rows: Sequence[UserRow]) -> Iterator[Finding]:
    bare = [item.name for item in rows if item.num_seg and not item.num_masks]
    if bare:
        yield Finding(
            'doubt', 'seg-without-masks',
            f'{len(bare):,} of {len(rows):,} rows have [SEG] in an answer and no masks, e.g. {bare[0]}: they '
            'train the text only.', "If they should train masks, add 'masks'.")


def _quoted(name: str) -> str:
    return f'"{_short(name)}"' if name else '(no name)'


def _short(text: str) -> str:
    line = ' '.join(text.split())
    return line if len(line) <= 80 else f'{line[:79]}…'
