"""Masks for answers that another engine has written: one teacher-forced pass over prompt and answer.

The hidden state at a `[SEG]` depends on the tokens before it and on nothing else. So text from any engine, read once by
this model, gives the masks that this model would have drawn had it written the text itself. That holds to the last
token only where the tokens are those that the engine chose (`answer_ids`) and the prompt is the one it was asked
(`same_prompt`).
"""
import torch
from collections.abc import Sequence
from swift.template import StdTemplateInputs
from swift.utils import to_device
from typing import Any, NamedTuple

from ..constants import SEG_TOKEN
from ..encoding.row_media import move_image_tags
from ..encoding.template import CitrusVTemplate
from ..errors import ROW_ERRORS, RowError
from ..files.errors import IMAGE_ERRORS, shown_name, unreadable
from ..model.seg_states import SegStates
from .generation import AnswerMasks
from .results import MaskResult
from .text_client import data_url

# Where the ids of an answer come from.
SERVER = 'of the server'
TEXT = 'of the text'
TEXT_INSTEAD = 'of the text, as those of the server spell another text in this vocabulary'
_IMAGE_TAG = '<image>'
_ROLES = ('user', 'assistant')
_NOT_SENT = ('videos', 'audios', 'objects', 'tools')
_OTHER_WAYS = 'Let this model write the text (no --text-from), or bring it with --text.'


class DrawnAnswer(NamedTuple):
    """An answer, its masks, and the ids of the prompt; None where no `[SEG]` asked for them."""
    text: str
    masks: list[MaskResult]
    prompt_ids: list[int] | None


# ---- the question, for a server


def chat_messages(template: CitrusVTemplate, row: dict[str, Any], row_id: str) -> list[dict[str, Any]]:
    """A row's question as the messages of OpenAI's API, its images as data: URLs where their tags stand.

    The system prompt is always said: the server's own default may be another one than the template's.

    Args:
        template: Of the model that draws.
        row: Ends with the user's turn.
        row_id: Its name.

    Raises:
        RowError: An image cannot be read or must not be, or the row has what OpenAI's API has no place for.
    """
    for key in _NOT_SENT:
        if row.get(key):
            raise RowError(row_id, f'it has {key!r}, which are not sent to a server.', _OTHER_WAYS, 'not-sent')
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
            raise unreadable(row_id, f'images[{i}]={shown_name(image)}', e, 'image-unreadable') from e
    system = template.template_meta.default_system if inputs.system is None else inputs.system
    turns = [{'role': 'system', 'content': system}] if system is not None else []
    turns += [{'role': turn['role'], 'content': turn['content']} for turn in inputs.messages]
    for turn in turns[system is not None:]:
        if turn['role'] not in _ROLES:
            raise RowError(row_id, f'it has a turn of {turn["role"]!r}, which is not sent to a server.', _OTHER_WAYS,
                           'not-sent')
    return [{**turn, 'content': _parts(turn['content'], urls)} for turn in turns]


def _parts(text: str, urls: list[str]) -> str | list[dict[str, Any]]:
    """A turn's text with images in the place of their tags; those are taken from the front of `urls`."""
    first, *others = text.split(_IMAGE_TAG, len(urls))
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
    """The ids of an answer without its end token, and where they come from (`SERVER`, `TEXT`, `TEXT_INSTEAD`).

    Args:
        template: Of the model that draws.
        text: The answer.
        token_ids: Those that the engine chose, where it tells. They are taken if they spell the text, but for blanks
            and special tokens, and for a stop word at the end, which some engines cut off the text alone.
        row_id: The name of the row, for errors.

    Raises:
        RowError: The text goes on behind an end token.
    """
    ids = None if token_ids is None else until_end(template, token_ids)
    if ids is not None and _spelled(template, ids).startswith(_bare(template, text)):
        return ids, SERVER
    whole = template.tokenizer.encode(text, add_special_tokens=False)
    ids = until_end(template, whole)
    rest = template.tokenizer.decode([token for token in whole[len(ids):] if token not in _ends(template)])
    if rest.strip():
        raise RowError(row_id, f'the answer goes on behind its end token: {rest[:80]!r}.',
                       'Cut it off at the end token, or take that out.', 'text')
    return ids, TEXT if token_ids is None else TEXT_INSTEAD


def _ends(template: CitrusVTemplate) -> set[int | None]:
    return {template.tokenizer.pad_token_id, template.tokenizer.eos_token_id}


def until_end(template: CitrusVTemplate, ids: Sequence[int]) -> list[int]:
    """The ids of an answer without its end token and what pads it."""
    ends = _ends(template)
    return list(ids[:next((i for i, token in enumerate(ids) if token in ends), len(ids))])


def _spelled(template: CitrusVTemplate, ids: list[int]) -> str:
    if any(token >= len(template.tokenizer) for token in ids):
        # Beside any text.
        return '\0'
    return _bare(template, template.tokenizer.decode(ids, spaces_between_special_tokens=False))


def _bare(template: CitrusVTemplate, text: str) -> str:
    for token in (SEG_TOKEN, *template.tokenizer.all_special_tokens):
        text = text.replace(token, '')
    return ''.join(text.split())


def same_prompt(template: CitrusVTemplate, ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Whether two prompts are the same tokens; in `theirs` an image may be one token or as many as it has."""
    return list(ours) == list(theirs) or _collapsed(template, ours) == list(theirs)


def _collapsed(template: CitrusVTemplate, ids: Sequence[int]) -> list[int]:
    image = template.image_token_id
    return [token for i, token in enumerate(ids) if not i or not token == ids[i - 1] == image]


# ---- the masks


@torch.inference_mode()
def draw_answers(engine: Any, requests: Sequence[Any], answers: Sequence[list[int]]) -> list[DrawnAnswer]:
    """The masks of answers, all in one batch.

    The model reads the requests whose answer says `[SEG]`, and no other.

    Args:
        engine: ms-swift's `TransformersEngine` with a Citrus-V model.
        requests: Rows without the answer, or `InferRequest`s.
        answers: For each the ids of its answer, as `answer_ids` gives them.

    Raises:
        RowError: An image cannot be read, or must not be.
    """
    template = engine.template
    drawn = [DrawnAnswer(template.decode_generate_ids(ids), [], None) for ids in answers]
    asked = [i for i, ids in enumerate(answers) if template.seg_token_id in ids]
    if not asked:
        return drawn
    # As the engine does before it generates.
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
