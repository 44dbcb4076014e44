"""Text and masks from a checkpoint, in Python: no command line, no arguments of ms-swift.

    pipe = CitrusVPipeline('output/last-checkpoint')
    answer = pipe('slice.png', 'Segment the left atrium.')
    print(answer.text, [mask.phrase for mask in answer.masks])
"""
import torch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine
from swift.model import get_model_processor
from swift.template import get_template
from tqdm import tqdm
from typing import Any

from .constants import MODEL_TYPE
from .inference.results import MaskResult
from .inference.teacher_forcing import answer_ids, draw_answers, until_end
from .plugin.register import register

# A name (docs/medical.md for DICOM and NIfTI), an open image, an array [h, w] or [h, w, 3], a pydicom Dataset.
ImageLike = Any
Images = ImageLike | list[ImageLike] | None
# Images and prompt, or a row of the row contract that ends with the user's turn.
Request = tuple[Images, str | list[dict[str, Any]]] | dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the model said, and a mask for each `[SEG]` in it.

    Attributes:
        text: The answer, without the end token.
        masks: In the order of the `[SEG]`; `mask.array` is uint8 {0, 1} [h, w] at the image's own size.
        finish_reason: 'stop', 'length' where max_tokens ended it, or 'given' (`masks_of`).
    """
    text: str
    masks: tuple[MaskResult, ...]
    finish_reason: str


@dataclass(frozen=True)
class Piece:
    """A piece of an answer as it is written; the last one has its masks.

    Attributes:
        text: What is new.
        masks: Of the whole answer, in the last piece; None before.
    """
    text: str
    masks: tuple[MaskResult, ...] | None


class CitrusVPipeline:
    """Asks a Citrus-V model.

    Args:
        model: A checkpoint directory or a hub name; or a model and its template.
        template: The template, where `model` is a model.
        adapters: Directories of LoRA adapters on top of it.
        device: 'cpu', 'cuda', 'cuda:1', ...; the best there is by default.
        dtype: Of the MLLM; the checkpoint's own by default.
        batch_size: Most requests that are answered at once.
    """

    def __init__(self,
                 model: Any,
                 template: Any = None,
                 *,
                 adapters: Sequence[str] = (),
                 device: str | torch.device | None = None,
                 dtype: torch.dtype | None = None,
                 batch_size: int = 8) -> None:
        register()
        if isinstance(model, str):
            model, processor = get_model_processor(
                model, model_type=MODEL_TYPE, torch_dtype=dtype, device_map=None if device is None else str(device))
            template = get_template(processor)
        self.engine = TransformersEngine(
            model.eval(), template=template, adapters=list(adapters), max_batch_size=batch_size)
        # An error about a request is raised, and not put into the place of its answer.
        self.engine.strict = True

    def __call__(self, images: Images, prompt: str | list[dict[str, Any]], **generation: Any) -> Answer:
        """Answers one request.

        Args:
            images: None, one image or several: paths, PIL images or arrays [h, w] or [h, w, 3] (`windows.to_image`).
            prompt: The question; images whose `<image>` it does not place stand before it. Or the messages of a
                conversation, [{'role': 'user', 'content': ...}, ...], that ends with the user's turn.
            generation: Fields of ms-swift's `RequestConfig`: max_tokens, temperature, top_p, top_k, num_beams, stop,
                seed, repetition_penalty, ... Greedy by default.

        Raises:
            RowError: An image cannot be read, or must not be (`images.FileRules`).
            ValueError: A setting is unknown, or the request leaves no room for an answer.
        """
        return self.batch([(images, prompt)], **generation)[0]

    def batch(self, requests: Sequence[Request], **generation: Any) -> list[Answer]:
        """Answers several requests, `batch_size` at a time; each gets its own masks, whatever stands beside it.

        Args:
            requests: Pairs of images and prompt, or rows.
            generation: As above.
        """
        config = _config(generation)
        size = self.engine.max_batch_size or len(requests)
        answers: list[Answer] = []
        with tqdm(total=len(requests), unit=' requests', disable=len(requests) <= size) as bar:
            for start in range(0, len(requests), size):
                part = [self._of(request) for request in requests[start:start + size]]
                for response in self.engine.infer(part, config, use_tqdm=False):
                    choice = response.choices[0]
                    answers.append(
                        Answer(choice.message.content, _masks(choice.message.masks), str(choice.finish_reason)))
                bar.update(len(part))
        return answers

    def stream(self, images: Images, prompt: str | list[dict[str, Any]], **generation: Any) -> Iterator[Piece]:
        """Answers one request piece by piece; the last piece has the masks."""
        config = _config({**generation, 'stream': True})
        for chunk in self.engine.infer([self._request(images, prompt)], config, use_tqdm=False)[0]:
            delta = chunk.choices[0].delta
            masks = getattr(delta, 'masks', None)
            yield Piece(delta.content or '', None if masks is None else _masks(masks))

    def masks_of(self, requests: Sequence[Request], answers: Sequence[str | Sequence[int]]) -> list[Answer]:
        """The masks of answers that another engine has written, by one pass over each prompt and its answer.

        They are those that this model would have drawn had it written the answer itself, token for token.

        Args:
            requests: As in `batch`.
            answers: For each request its answer: a text, in which `[SEG]` asks for a mask, or better the ids of the
                tokens that the engine chose, since a text can be cut into other tokens.

        Returns:
            In the same order; `finish_reason` is 'given'.
        """
        template = self.engine.template
        ids = [answer_ids(template, answer)[0] if isinstance(answer, str) else until_end(template, answer)
               for answer in answers]  # yapf: disable
        pairs = list(zip(map(self._of, requests), ids, strict=True))
        size = self.engine.max_batch_size or len(pairs)
        found: list[Answer] = []
        with tqdm(total=len(pairs), unit=' requests', disable=len(pairs) <= size) as bar:
            for start in range(0, len(pairs), size):
                part = pairs[start:start + size]
                for drawn in draw_answers(self.engine, [request for request, _ in part], [one for _, one in part]):
                    found.append(Answer(drawn.text, tuple(drawn.masks), 'given'))
                bar.update(len(part))
        return found

    @classmethod
    def _of(cls, request: Request) -> Any:
        return request if isinstance(request, dict) else cls._request(*request)

    @staticmethod
    def _request(images: Images, prompt: str | list[dict[str, Any]]) -> InferRequest:
        if images is None:
            images = []
        elif not isinstance(images, (list, tuple)):
            images = [images]
        messages = [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else prompt
        return InferRequest(messages=messages, images=list(images))


def _config(generation: dict[str, Any]) -> RequestConfig:
    try:
        return RequestConfig(**{'temperature': 0, 'max_tokens': 512, **generation})
    except TypeError as e:
        raise ValueError(f'{e}. The settings are the fields of ms-swift\'s RequestConfig.') from e


def _masks(masks: list[dict[str, Any]]) -> tuple[MaskResult, ...]:
    return tuple(MaskResult(**mask) for mask in masks)
