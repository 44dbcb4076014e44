"""The Python interface: text and masks from a checkpoint.

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
from .inference.generation import until_end
from .inference.results import MaskResult
from .inference.teacher_forcing import answer_ids, draw_answers
from .plugin.models import loading_before
from .plugin.register import register

# A file name (DICOM and NIfTI: docs/medical.md), a PIL image, an array [h, w] or [h, w, 3], or a pydicom Dataset.
ImageLike = Any
Images = ImageLike | list[ImageLike] | None
# Images and prompt, or a row of the row contract ending with the user's turn.
Request = tuple[Images, str | list[dict[str, Any]]] | dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer: its text, and a mask for each `[SEG]` in it.

    Attributes:
        text: The text, without the end token.
        masks: In the order of the `[SEG]`; `mask.array` is uint8 {0, 1} [h, w] at the image's original size.
        finish_reason: 'stop'; 'length' if max_tokens ended it; 'given' for `masks_of`.
    """
    text: str
    masks: tuple[MaskResult, ...]
    finish_reason: str


@dataclass(frozen=True)
class AnswerDelta:
    """A part of a streamed answer.

    Attributes:
        text: The new text.
        masks: The masks of the whole answer, in the last part; None in the others.
    """
    text: str
    masks: tuple[MaskResult, ...] | None


class CitrusVPipeline:
    """A Citrus-V model for inference.

    Args:
        model: A checkpoint directory, a hub name, or a loaded model.
        template: The template of a loaded model.
        adapters: Directories of LoRA adapters.
        device: 'cpu', 'cuda', 'cuda:1', ...; by default the best available.
        dtype: Data type of the MLLM; by default that of the checkpoint.
        batch_size: Maximum number of requests in a batch.
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
            with loading_before(adapters):
                model, processor = get_model_processor(
                    model, model_type=MODEL_TYPE, torch_dtype=dtype, device_map=None if device is None else str(device))
            template = get_template(processor, template_type=MODEL_TYPE)
        self.engine = TransformersEngine(
            model.eval(), template=template, adapters=list(adapters), max_batch_size=batch_size)
        # Errors are raised instead of returned in place of answers.
        self.engine.strict = True

    def __call__(self, images: Images, prompt: str | list[dict[str, Any]], **generation: Any) -> Answer:
        """Answers one request.

        Args:
            images: None, one image or several: paths, PIL images, or arrays [h, w] or [h, w, 3]
                (`files.windowing.array_to_image`).
            prompt: The question; images without an `<image>` tag in it come first. Or the messages of a conversation,
                [{'role': 'user', 'content': ...}, ...], ending with the user's turn.
            generation: Fields of ms-swift's `RequestConfig`: max_tokens, temperature, top_p, top_k, num_beams, stop,
                seed, repetition_penalty, ... Greedy by default.

        Raises:
            RowError: An image cannot be read, or is refused (`files.rules.FileRules`).
            ValueError: A setting is unknown, or the request leaves no room for an answer.
        """
        return self.batch([(images, prompt)], **generation)[0]

    def batch(self, requests: Sequence[Request], **generation: Any) -> list[Answer]:
        """Answers several requests, `batch_size` at a time.

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

    def stream(self, images: Images, prompt: str | list[dict[str, Any]], **generation: Any) -> Iterator[AnswerDelta]:
        """Streams the answer to one request; the last part has the masks."""
        config = _config({**generation, 'stream': True})
        for chunk in self.engine.infer([self._request(images, prompt)], config, use_tqdm=False)[0]:
            delta = chunk.choices[0].delta
            masks = getattr(delta, 'masks', None)
            yield AnswerDelta(delta.content or '', None if masks is None else _masks(masks))

    def masks_of(self, requests: Sequence[Request], answers: Sequence[str | Sequence[int]]) -> list[Answer]:
        """Computes the masks of answers from another engine, by one pass over each prompt and its answer.

        They are the masks that this model would have produced had it generated the same tokens.

        Args:
            requests: As in `batch`.
            answers: For each request its answer: a text with `[SEG]`, or better the token ids of the engine, since a
                text may tokenize differently.

        Returns:
            The answers in the same order; `finish_reason` is 'given'.
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
