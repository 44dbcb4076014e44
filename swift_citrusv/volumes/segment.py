"""A model asked about every slice of a volume, whatever answers for it."""
import re
from collections.abc import Callable, Iterable, Sequence
from tqdm import tqdm
from typing import Any, Protocol

from .volume import Volume

_ARTICLE = re.compile(r'^(?:the|an?)\s+')


class SliceMask(Protocol):
    """A mask of an answer: uint8 {0, 1} [h, w] at the image's size, what it is of, and how sure the model is."""
    array: Any
    phrase: str
    score: float


class SliceAnswer(Protocol):
    """An answer about a slice."""
    text: str
    masks: Sequence[Any]


# As `CitrusVPipeline.batch`: pairs of an image and a question in, an answer for each out.
AnswerSlices = Callable[[list[tuple[Any, str]]], Iterable[Any]]


def segment_volume(volume: Volume,
                   segment: AnswerSlices,
                   prompt: str,
                   *,
                   batch_size: int = 8,
                   indices: Sequence[int] | None = None,
                   label: str | None = None) -> list[dict[str, Any]]:
    """Asks one question about every slice, and puts the masks of the answers into the volume.

    Args:
        volume: Its masks are added to.
        segment: Answers questions about images, a `SliceAnswer` for each.
        prompt: The question.
        batch_size: Slices that are asked about at once.
        indices: Which slices; by default all.
        label: The label of all masks. By default each mask has that of its phrase (`label_of`).

    Returns:
        For each slice {'index', 'text', 'masks': [{'label', 'score', 'area'}, ...]}: what was answered.
    """
    if batch_size < 1:
        raise ValueError(f'A batch of {batch_size} slices: give 1 or more.')
    indices = range(len(volume)) if indices is None else indices
    records = []
    with tqdm(total=len(indices), desc=f'{volume.plane or "stored"} slices', unit=' slices') as bar:
        for start in range(0, len(indices), batch_size):
            part = indices[start:start + batch_size]
            answers = list(segment([(volume.image(index), prompt) for index in part]))
            if len(answers) != len(part):
                raise ValueError(f'{len(part)} slices were asked about, and {len(answers)} answers came.')
            for index, answer in zip(part, answers):
                masks = []
                for mask in answer.masks:
                    name = label_of(mask.phrase) if label is None else label
                    volume.put(index, mask.array, name)
                    masks.append({'label': name, 'score': float(mask.score), 'area': int(mask.array.sum())})
                records.append({'index': int(index), 'text': answer.text, 'masks': masks})
            bar.update(len(part))
    return records


def label_of(phrase: str) -> str:
    """The label of a mask's phrase: in lower case and without its article, as slices word it in different ways."""
    return _ARTICLE.sub('', ' '.join(phrase.split()).casefold()) or 'mask'
