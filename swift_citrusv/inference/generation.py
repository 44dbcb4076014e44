"""The masks of answers: what joins a generation's `SegStates` to the request's images, for ms-swift's own engine.

SAM2 runs once on each image that a `[SEG]` of the batch draws on, and on no other.
"""
import numpy as np
import torch
from collections.abc import Sequence
from dataclasses import dataclass
from PIL import Image
from swift.infer_engine.protocol import ChatMessage, CompletionResponseChoice, DeltaMessage
from swift.utils import get_logger
from torch import Tensor, nn
from typing import Any, NamedTuple

from ..constants import ROW_COLUMN, SEG_REQUEST_KEY, SEG_TOKEN
from ..encoding.template import CitrusVTemplate, SegRequest
from ..model.seg_states import SegStates, append_answers
from ..rows.target_image import Choice, choose_image
from .results import MaskResult, at_full_size, box_of, encode_rle, phrase_of

logger = get_logger()


@dataclass
class SegMessage(ChatMessage):
    """An answer with its masks, in the order of its `[SEG]`: `MaskResult.to_dict`; and its `overlays.save_overlays`."""
    masks: list[dict[str, Any]] | None = None
    overlays: list[dict[str, Any]] | None = None


@dataclass
class SegDelta(DeltaMessage):
    """The last piece of a streamed answer, with the masks of all of it, and its overlays."""
    masks: list[dict[str, Any]] | None = None
    overlays: list[dict[str, Any]] | None = None


@dataclass
class SegCompletionChoice(CompletionResponseChoice):
    """An answer at /v1/completions, or a piece of one, with its masks."""
    masks: list[dict[str, Any]] | None = None
    overlays: list[dict[str, Any]] | None = None


class _Wanted(NamedTuple):
    """A mask to draw.

    answer: The index of its answer.
    text: That answer.
    offset: Where the `[SEG]` begins in it.
    image: The image.
    choice: Its index in the conversation, and why it was chosen.
    state: At the `[SEG]`, [D].
    """
    answer: int
    text: str
    offset: int
    image: Image.Image
    choice: Choice
    state: Tensor


class AnswerMasks:
    """Draws the masks of a batch of answers.

    Args:
        model: A Citrus-V model, or PEFT's wrapper of one.
        template: Its template.
        inputs: The collated prompts, as `generate` was given them.
        requests: The `template_inputs` of ms-swift, one for each prompt.
        states: What followed the generation.
        adapter: The LoRA adapter that answers, where there are several.
    """

    def __init__(self,
                 model: nn.Module,
                 template: CitrusVTemplate,
                 inputs: dict[str, Any],
                 requests: Sequence[Any],
                 states: SegStates,
                 adapter: str | None = None) -> None:
        self.model = model
        self.base = template.get_base_model(model)
        self.template = template
        self.inputs = inputs
        self.requests: list[SegRequest] = [request.extra_kwargs[SEG_REQUEST_KEY] for request in requests]
        # Of their rows, where they come from a file.
        self.names: list[str | None] = [request.extra_kwargs.get(ROW_COLUMN) for request in requests]
        self.states = states
        self.adapter = adapter

    # Not inference_mode alone around `generate`: a stream is drawn in the thread that reads it.
    @torch.inference_mode()
    def draw(self, answers: Sequence[tuple[int, int]]) -> list[list[MaskResult]]:
        """The masks of some answers, drawn together.

        Args:
            answers: Each as the index of its prompt and of the sequence drawn from it.

        Returns:
            For each answer its masks, in the order of its `[SEG]`.
        """
        ids = [self._ids(*answer) for answer in answers]
        self._complete([(prompt, one) for (prompt, _), one in zip(answers, ids) if self.states.missing(prompt, one)])
        wanted = [mask for i, (prompt, _) in enumerate(answers) for mask in self._wanted(i, prompt, ids[i])]
        drawn: list[list[MaskResult]] = [[] for _ in answers]
        for mask, result in zip(wanted, self._draw(wanted)):
            drawn[mask.answer].append(result)
        return drawn

    def text(self, prompt: int, sequence: int = 0) -> str:
        """An answer."""
        return self.template.decode_generate_ids(self._ids(prompt, sequence))

    # ---- which masks

    def _ids(self, prompt: int, sequence: int) -> list[int]:
        """The ids of an answer, without its end token and what pads it."""
        tokenizer = self.template.tokenizer
        ends = {tokenizer.pad_token_id, tokenizer.eos_token_id}
        ids = self.states.generated(prompt, sequence)
        return ids[:next((i for i, token in enumerate(ids) if token in ends), len(ids))]

    def _wanted(self, answer: int, prompt: int, ids: list[int]) -> list[_Wanted]:
        places = [i for i, token in enumerate(ids) if token == self.states.seg_token_id]
        if not places:
            return []
        images, turns = self.requests[prompt]
        text = self.template.decode_generate_ids(ids)
        if not images:
            logger.warning(f'The answer {text[:200]!r} has {len(places)} {SEG_TOKEN}, but its request has no image to '
                           'draw on: it gets no mask.')
            return []
        wanted = []
        for place in places:
            # Special tokens begin where the text before them ends.
            offset = len(self.template.decode_generate_ids(ids[:place]))
            choice = choose_image(turns, text[:offset], len(images))
            state = self.states.get(prompt, ids[:place + 1])
            assert choice is not None and state is not None
            wanted.append(_Wanted(answer, text, offset, images[choice.image], choice, state))
        return wanted

    # ---- answers whose last token is [SEG], and answers that another engine has written

    def _complete(self, answers: list[tuple[int, list[int]]]) -> None:
        """Finds the states that no step has left, in one pass over prompts and answers."""
        while answers:
            # One answer of each prompt at a time.
            now = dict(reversed(answers))
            answers = [(prompt, ids) for prompt, ids in answers if ids is not now[prompt]]
            rows = [now.get(prompt, []) for prompt in range(self.states.num_prompts)]
            inputs = append_answers(self.inputs, rows, self.template.tokenizer.pad_token_id)
            hidden = self._read(inputs)
            for prompt, ids in now.items():
                for i, token in enumerate(ids):
                    if token == self.states.seg_token_id:
                        state = hidden[prompt, self.states.prompt_length + i].clone()
                        self.states.put(prompt, ids[:i + 1], state)

    def _read(self, inputs: dict[str, Any]) -> Tensor:
        inputs = {key: value for key, value in inputs.items() if key not in ('labels', 'loss_scale', 'seg_states')}
        if self.adapter is None:
            return self.base.read(**inputs)
        # What PEFT does around its own forward.
        names = [self.adapter] * self.states.num_prompts
        with self.model._enable_peft_forward_hooks(adapter_names=names):
            return self.base.read(**inputs)

    # ---- SAM2

    def _draw(self, wanted: list[_Wanted]) -> list[MaskResult]:
        if not wanted:
            return []
        unique = {id(mask.image): mask.image for mask in wanted}
        order = {key: i for i, key in enumerate(unique)}
        side = (self.template.input_side, self.template.input_side)
        # As in training: PIL's BILINEAR antialiases when it shrinks.
        pixels = np.stack([np.array(image.resize(side, Image.Resampling.BILINEAR)) for image in unique.values()])
        segmenter, projector = (self._module(name) for name in ('segmenter', 'seg_projector'))
        device = next(segmenter.parameters()).device
        prompts = projector(torch.stack([mask.state for mask in wanted]).to(device))[:, None]
        index = torch.tensor([order[id(mask.image)] for mask in wanted], device=device)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
        drawing = segmenter(images, index, prompts, scores=True)
        ious, objects = drawing.iou_scores.tolist(), drawing.object_logits.sigmoid().tolist()
        results = []
        for mask, logits, iou, seen in zip(wanted, drawing.logits, ious, objects):
            array, score = at_full_size(logits, mask.image.height, mask.image.width)
            rle = encode_rle(array)
            results.append(
                MaskResult(
                    rle=rle,
                    bbox=box_of(rle),
                    area=int(array.sum()),
                    score=score,
                    iou_score=iou,
                    object_score=seen,
                    scores_trained=False,
                    phrase=phrase_of(mask.text, mask.offset),
                    image_index=mask.choice.image,
                    image_rule=mask.choice.rule,
                    offset=mask.offset))
        return results

    def _module(self, name: str) -> nn.Module:
        """The part of the model with this name; with several adapters, that of the one that answers."""
        module = getattr(self.base, name)
        copies = getattr(module, 'modules_to_save', None)
        if self.adapter is None or copies is None:
            return module
        return copies[self.adapter] if self.adapter in copies else module.original_module
