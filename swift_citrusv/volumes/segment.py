"""Segments every slice of a volume with one question."""
import re
from collections.abc import Callable, Iterable, Sequence
from tqdm import tqdm
from typing import Any, Protocol

from .volume import Volume

_ARTICLE = re.compile(r'^(?:the|an?)\s+')


class SliceAnswer(Protocol):
    """An answer about a slice, e.g. `pipeline.Answer`.

    Attributes:
        text: The text.
        masks: Its masks, each with `array` (uint8 {0, 1} [h, w] at the image's size), `phrase` and `score`.
    """

    @property
    def text(self) -> str:
        ...

    @property
    def masks(self) -> Sequence[Any]:
        ...


# E.g. `CitrusVPipeline.batch`: takes pairs of an image and a question, returns an answer for each.
AnswerSlices = Callable[[list[tuple[Any, str]]], Iterable[SliceAnswer]]


def segment_volume(volume: Volume,
                   segment: AnswerSlices,
                   prompt: str,
                   *,
                   batch_size: int = 8,
                   indices: Sequence[int] | None = None,
                   label: str | None = None) -> list[dict[str, Any]]:
    """Asks one question about every slice, and adds the masks of the answers to the volume.

    Args:
        volume: The volume; masks are added to it.
        segment: Answers questions about images.
        prompt: The question.
        batch_size: The number of slices in a call of `segment`.
        indices: The slices; by default all.
        label: The label of all masks. By default, each mask has the label of its phrase (`label_of`).

    Returns:
        For each slice {'index', 'text', 'masks': [{'label', 'score', 'area'}, ...]}.

    Raises:
        ValueError: `batch_size` is below 1, or `segment` returns another number of answers.
    """
    if batch_size < 1:
        raise ValueError(f'The batch size is {batch_size} slices: give 1 or more.')
    indices = range(len(volume)) if indices is None else indices
    records = []
    with tqdm(total=len(indices), desc=f'{volume.plane or "stored"} slices', unit=' slices') as bar:
        for start in range(0, len(indices), batch_size):
            part = indices[start:start + batch_size]
            answers = list(segment([(volume.image(index), prompt) for index in part]))
            if len(answers) != len(part):
                raise ValueError(f'There are {len(answers)} answers about {len(part)} slices: return one for each.')
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
    """The label of a mask's phrase: in lower case and without article, since answers about slices vary in both."""
    return _ARTICLE.sub('', ' '.join(phrase.split()).casefold()) or 'mask'
