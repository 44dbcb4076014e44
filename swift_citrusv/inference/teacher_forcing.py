"""Masks for answers from another engine, by one teacher-forced pass over prompt and answer.

The hidden state at a `[SEG]` depends only on the tokens before it. So this pass yields the masks that the model would
have produced had it generated the text itself. This is exact only if the tokens are those of the engine (`answer_ids`)
and the prompt is the same (`same_prompt`).
"""
import torch
from collections.abc import Sequence
from swift.template import StdTemplateInputs
from swift.utils import to_device
from typing import Any, NamedTuple

from ..constants import IMAGE_PLACEHOLDER, SEG_TOKEN
from ..encoding.row_media import move_image_tags
from ..encoding.template import CitrusVTemplate
from ..errors import ROW_ERRORS, RowError
from ..files.errors import IMAGE_ERRORS, file_repr, unreadable_file
from ..model.seg_states import SegStates
from .generation import AnswerMasks, end_ids, until_end
from .results import MaskResult
from .text_client import data_url

# Sources of an answer's token ids.
SERVER = 'of the server'
TEXT = 'of the text'
TEXT_INSTEAD = 'of the text, as those of the server spell another text in this vocabulary'
_ROLES = ('user', 'assistant')
_NOT_SENT = ('videos', 'audios', 'objects', 'tools')
_OTHER_WAYS = 'Let this model write the text (no --text-from), or bring it with --text.'


class DrawnAnswer(NamedTuple):
    """An answer, its masks, and the prompt's token ids (None for an answer without `[SEG]`)."""
    text: str
    masks: list[MaskResult]
    prompt_ids: list[int] | None


# ---- the question, for a server


def chat_messages(template: CitrusVTemplate, row: dict[str, Any], row_id: str) -> list[dict[str, Any]]:
    """Converts a row's question to OpenAI messages, with its images as data: URLs in place of their tags.

    The system prompt is always included: the server's default may differ from the template's.

    Args:
        template: The template of the model that computes the masks.
        row: The row, ending with the user's turn.
        row_id: The row's name.

    Raises:
        RowError: An image cannot be read or is refused, or the row has a field that OpenAI's API does not support.
    """
    for key in _NOT_SENT:
        if row.get(key):
            raise RowError(row_id, f'it has {key!r}, which is not supported with --text-from.', _OTHER_WAYS, 'not-sent')
    try:
        inputs = StdTemplateInputs.from_dict(row)
        move_image_tags(inputs)
        template._add_default_tags(inputs)
    except ROW_ERRORS as e:
        raise RowError(row_id, f'{type(e).__name__}: {e}.', 'Look at the row with `citrusv check-data`.', 'row') from e
    urls = []
    for i, image in enumerate(inputs.images):
        try:
            urls.append(data_url(image))
        except IMAGE_ERRORS as e:
            raise unreadable_file(row_id, f'images[{i}]={file_repr(image)}', e, 'image-unreadable') from e
    system = template.template_meta.default_system if inputs.system is None else inputs.system
    turns = [{'role': 'system', 'content': system}] if system is not None else []
    turns += [{'role': turn['role'], 'content': turn['content']} for turn in inputs.messages]
    for turn in turns[system is not None:]:
        if turn['role'] not in _ROLES:
            raise RowError(row_id,
                           f'it has a turn with the role {turn["role"]!r}, which is not supported with --text-from.',
                           _OTHER_WAYS, 'not-sent')
    return [{**turn, 'content': _parts(turn['content'], urls)} for turn in turns]


def _parts(text: str, urls: list[str]) -> str | list[dict[str, Any]]:
    """Replaces the image tags of a turn's text by images, which are popped from the front of `urls`."""
    first, *others = text.split(IMAGE_PLACEHOLDER, len(urls))
    if not others:
        return text
    parts: list[dict[str, Any]] = [{'type': 'text', 'text': first}]
    for part in others:
        parts += [{'type': 'image_url', 'image_url': {'url': urls.pop(0)}}, {'type': 'text', 'text': part}]
    return [part for part in parts if part.get('text') != '']


# ---- the answer, as tokens


def answer_ids(template: CitrusVTemplate,
               text: str,
               token_ids: Sequence[int] | None = None,
               row_id: str = 'the answer') -> tuple[list[int], str]:
    """Returns an answer's token ids without the end token, and their source (`SERVER`, `TEXT`, `TEXT_INSTEAD`).

    Args:
        template: The template of the model that computes the masks.
        text: The answer.
        token_ids: The engine's token ids, if known. They are used if they decode to the text, ignoring white space,
            special tokens, and a stop word at the end, which some engines remove from the text only.
        row_id: The row's name, for errors.

    Raises:
        RowError: The text continues after an end token.
    """
    ids = None if token_ids is None else until_end(template, token_ids)
    if ids is not None and _spelled(template, ids).startswith(_bare(template, text)):
        return ids, SERVER
    whole = template.tokenizer.encode(text, add_special_tokens=False)
    ids = until_end(template, whole)
    rest = template.tokenizer.decode([token for token in whole[len(ids):] if token not in end_ids(template)])
    if rest.strip():
        raise RowError(row_id, f'the answer continues after its end token: {rest[:80]!r}.',
                       'Remove the end token, or what follows it.', 'text')
    return ids, TEXT if token_ids is None else TEXT_INSTEAD


def _spelled(template: CitrusVTemplate, ids: list[int]) -> str:
    if any(token >= len(template.tokenizer) for token in ids):
        # No text starts with this.
        return '\0'
    return _bare(template, template.tokenizer.decode(ids, spaces_between_special_tokens=False))


def _bare(template: CitrusVTemplate, text: str) -> str:
    for token in (SEG_TOKEN, *template.tokenizer.all_special_tokens):
        text = text.replace(token, '')
    return ''.join(text.split())


def same_prompt(template: CitrusVTemplate, ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Whether two prompts have the same tokens; in `theirs` an image may be a single token or expanded."""
    return list(ours) == list(theirs) or _collapsed(template, ours) == list(theirs)


def _collapsed(template: CitrusVTemplate, ids: Sequence[int]) -> list[int]:
    image = template.image_token_id
    return [token for i, token in enumerate(ids) if not i or not token == ids[i - 1] == image]


# ---- the masks


@torch.inference_mode()
def draw_answers(engine: Any, requests: Sequence[Any], answers: Sequence[list[int]]) -> list[DrawnAnswer]:
    """Computes the masks of given answers in one batch, for those answers that contain `[SEG]`.

    Args:
        engine: ms-swift's `TransformersEngine` with a Citrus-V model.
        requests: Rows without the answer, or `InferRequest`s.
        answers: For each request the token ids of its answer, from `answer_ids`.

    Raises:
        RowError: An image cannot be read or is refused.
    """
    template = engine.template
    drawn = [DrawnAnswer(template.decode_generate_ids(ids), [], None) for ids in answers]
    asked = [i for i, ids in enumerate(answers) if template.seg_token_id in ids]
    if not asked:
        return drawn
    # As the engine does before generation.
    engine.model.eval()
    template.set_mode('transformers')
    if template.use_model:
        template.model = engine.model
    encoded, _ = engine._batch_encode([requests[i] for i in asked], strict=True)
    template_inputs = [one.pop('template_inputs') for one in encoded]
    inputs = to_device(template.data_collator(encoded), engine.model.device)
    _, inputs = template.pre_forward_hook(engine.model, None, inputs)
    prompts = inputs['input_ids']
    states = SegStates(template.seg_token_id, prompts)
    states.sequences = prompts.new_full((len(asked), max(len(answers[i]) for i in asked)),
                                        template.tokenizer.pad_token_id)
    for place, i in enumerate(asked):
        states.sequences[place, :len(answers[i])] = torch.tensor(answers[i])
    masks = AnswerMasks(engine.model, template, inputs, template_inputs, states)
    results = masks.draw([(place, 0) for place in range(len(asked))])
    there = inputs['attention_mask'].bool()
    for place, i in enumerate(asked):
        drawn[i] = drawn[i]._replace(masks=results[place], prompt_ids=prompts[place][there[place]].tolist())
    return drawn
