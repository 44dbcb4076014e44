"""Masks for a batch of generated answers: from the `SegStates` of the generation and the images of the requests.

SAM2 encodes each image once, and only images that a `[SEG]` of the batch refers to.
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
from ..encoding.seg_tensors import seg_pixels
from ..encoding.template import CitrusVTemplate, SegRequest
from ..model.seg_states import SegStates, append_answers
from ..rows.masks import encode_rle
from ..rows.target_image import TargetImage, infer_target_image
from .results import MaskResult, at_full_size, box_of, phrase_of

logger = get_logger()


@dataclass
class SegMessage(ChatMessage):
    """An answer with its masks (`MaskResult.to_dict`, in the order of its `[SEG]`) and its saved overlays."""
    masks: list[dict[str, Any]] | None = None
    overlays: list[dict[str, Any]] | None = None


@dataclass
class SegDelta(DeltaMessage):
    """The last chunk of a streamed answer, with the masks of the whole answer and its overlays."""
    masks: list[dict[str, Any]] | None = None
    overlays: list[dict[str, Any]] | None = None


@dataclass
class SegCompletionChoice(CompletionResponseChoice):
    """An answer of /v1/completions, or a chunk of one, with its masks."""
    masks: list[dict[str, Any]] | None = None
    overlays: list[dict[str, Any]] | None = None


class _Tokens(NamedTuple):
    """The tokens of an answer: `ids` without the end token, and the positions of `[SEG]` in them, `places`."""
    prompt: int
    ids: list[int]
    places: list[int]


class _Query(NamedTuple):
    """The input of SAM2 for one mask.

    Attributes:
        answer: Index of the answer.
        text: The answer.
        offset: Position of the `[SEG]` in the text, in characters.
        image: The image at its original size.
        target: The image's index in the conversation, and the rule that selected it.
        state: The hidden state at the `[SEG]`, [D].
    """
    answer: int
    text: str
    offset: int
    image: Image.Image
    target: TargetImage
    state: Tensor


def until_end(template: CitrusVTemplate, ids: Sequence[int]) -> list[int]:
    """Returns the token ids of an answer up to its end token or padding."""
    ends = end_ids(template)
    return list(ids[:next((i for i, token in enumerate(ids) if token in ends), len(ids))])


def end_ids(template: CitrusVTemplate) -> set[int | None]:
    """Returns the ids that end an answer: the end token and the padding token."""
    return {template.tokenizer.pad_token_id, template.tokenizer.eos_token_id}


class AnswerMasks:
    """Computes the masks of a batch of answers.

    Args:
        model: A Citrus-V model, or its PEFT wrapper.
        template: The model's template.
        inputs: The collated prompts, as passed to `generate`.
        requests: The `template_inputs` of ms-swift, one per prompt.
        states: The recorded hidden states of the generation.
        adapter: The active LoRA adapter, if there are several.
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
        # Names of the rows, if the requests come from a file.
        self.names: list[str | None] = [request.extra_kwargs.get(ROW_COLUMN) for request in requests]
        self.states = states
        self.adapter = adapter

    # Needed here, not only around `generate`: the masks of a stream are computed in the thread that reads it.
    @torch.inference_mode()
    def draw(self, answers: Sequence[tuple[int, int]]) -> list[list[MaskResult]]:
        """Computes the masks of some answers in one batch: tokens, hidden states, images, SAM2, in this order.

        Args:
            answers: For each answer the index of its prompt, and its index among the sequences of that prompt.

        Returns:
            For each answer its masks, in the order of its `[SEG]`.
        """
        tokens = [self._tokens(*answer) for answer in answers]
        self._compute_missing_states(tokens)
        queries = [query for i, one in enumerate(tokens) for query in self._queries(i, one)]
        drawn: list[list[MaskResult]] = [[] for _ in answers]
        for query, result in zip(queries, self._run_sam2(queries)):
            drawn[query.answer].append(result)
        return drawn

    def text(self, prompt: int, sequence: int = 0) -> str:
        """Returns an answer as text."""
        return self.template.decode_generate_ids(self._tokens(prompt, sequence).ids)

    # ---- tokens

    def _tokens(self, prompt: int, sequence: int) -> _Tokens:
        ids = until_end(self.template, self.states.generated(prompt, sequence))
        return _Tokens(prompt, ids, [i for i, token in enumerate(ids) if token == self.states.seg_token_id])

    # ---- hidden states

    def _compute_missing_states(self, answers: Sequence[_Tokens]) -> None:
        """Computes the states that the generation did not keep, in one pass over prompts and answers.

        An answer whose last token is `[SEG]` has none there, and an answer of another engine has none at all.
        """
        left = [
            one for one in answers if any(
                self.states.get(one.prompt, one.ids[:place + 1]) is None for place in one.places)
        ]
        while left:
            # One answer of each prompt at a time.
            now = {one.prompt: one for one in reversed(left)}
            left = [one for one in left if one is not now[one.prompt]]
            rows = [now[prompt].ids if prompt in now else [] for prompt in range(self.states.num_prompts)]
            hidden = self._read(append_answers(self.inputs, rows, self.template.tokenizer.pad_token_id))
            for prompt, one in now.items():
                for place in one.places:
                    state = hidden[prompt, self.states.prompt_length + place].clone()
                    self.states.put(prompt, one.ids[:place + 1], state)

    def _read(self, inputs: dict[str, Any]) -> Tensor:
        inputs = {key: value for key, value in inputs.items() if key not in ('labels', 'loss_scale', 'seg_states')}
        if self.adapter is None:
            return self.base.compute_last_hidden_state(**inputs)
        # As PEFT does in its own forward.
        names = [self.adapter] * self.states.num_prompts
        with self.model._enable_peft_forward_hooks(adapter_names=names):
            return self.base.compute_last_hidden_state(**inputs)

    # ---- images

    def _queries(self, answer: int, tokens: _Tokens) -> list[_Query]:
        if not tokens.places:
            return []
        images, turns = self.requests[tokens.prompt]
        text = self.template.decode_generate_ids(tokens.ids)
        if not images:
            logger.warning(f'The answer {text[:200]!r} has {len(tokens.places)} {SEG_TOKEN}, but its request has no '
                           'image: it gets no mask.')
            return []
        queries = []
        for place in tokens.places:
            # The `[SEG]` begins where the decoded text before it ends.
            offset = len(self.template.decode_generate_ids(tokens.ids[:place]))
            target = infer_target_image(turns, text[:offset], len(images))
            state = self.states.get(tokens.prompt, tokens.ids[:place + 1])
            assert target is not None and state is not None
            queries.append(_Query(answer, text, offset, images[target.image], target, state))
        return queries

    # ---- SAM2

    def _run_sam2(self, queries: list[_Query]) -> list[MaskResult]:
        if not queries:
            return []
        unique = {id(query.image): query.image for query in queries}
        order = {key: i for i, key in enumerate(unique)}
        pixels = np.stack([seg_pixels(image, self.template.input_side) for image in unique.values()])
        segmenter, projector = (self._module(name) for name in ('segmenter', 'seg_projector'))
        device = next(segmenter.parameters()).device
        prompts = projector(torch.stack([query.state for query in queries]).to(device))[:, None]
        index = torch.tensor([order[id(query.image)] for query in queries], device=device)
        images = torch.from_numpy(pixels).to(device)
        drawing = segmenter(images, index, prompts, scores=True)
        ious, objects = drawing.iou_scores.tolist(), drawing.object_logits.sigmoid().tolist()
        results = []
        for query, logits, iou, visible in zip(queries, drawing.logits, ious, objects):
            array, score = at_full_size(logits, query.image.height, query.image.width)
            rle = encode_rle(array)
            results.append(
                MaskResult(
                    rle=rle,
                    bbox=box_of(rle),
                    area=int(array.sum()),
                    score=score,
                    iou_score=iou,
                    object_score=visible,
                    scores_trained=False,
                    phrase=phrase_of(query.text, query.offset),
                    image_index=query.target.image,
                    image_rule=query.target.rule,
                    offset=query.offset))
        return results

    def _module(self, name: str) -> nn.Module:
        """Returns a submodule by name; with several adapters, the copy of the active one."""
        module = getattr(self.base, name)
        copies = getattr(module, 'modules_to_save', None)
        if self.adapter is None or copies is None:
            return module
        return copies[self.adapter] if self.adapter in copies else module.original_module
