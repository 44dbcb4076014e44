"""ms-swift's layouts of a row, and what each becomes in the row contract.

The layouts are `messages` in several spellings (ShareGPT, LLaVA, OpenAI, Anthropic), Alpaca, and query and response.
In training, ms-swift's own preprocessors convert the rows. These functions do the same for the checks before it
(`swift.dataset.preprocessor.core`: AutoPreprocessor, MessagesPreprocessor, AlpacaPreprocessor, ResponsePreprocessor); a
test compares the two.
"""
import ast
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..errors import RowError
from .mask_format import short_repr

# The columns that ms-swift reads the conversation from, by precedence.
CHAT_COLUMNS = ('messages', 'conversations', 'conversation')
_MEDIA_NAMES = {name: f'{medium}s' for medium in ('image', 'audio', 'video') for name in (f'{medium}s', medium)}
_SYSTEM_NAMES = ('system', 'system_prompt')
_QUERY_NAMES = ('query', 'prompt', 'input', 'instruction', 'question', 'problem')
_RESPONSE_NAMES = ('response', 'answer', 'output', 'targets', 'target', 'answer_key', 'answers', 'solution', 'text',
                   'completion', 'content')
_ROLES = {'human': 'user', 'gpt': 'assistant', 'bot': 'assistant', 'function_call': 'tool_call'}
_ROLES.update(dict.fromkeys(('function_response', 'observation', 'observations'), 'tool_response'))
_STANDARD_ROLES = ('user', 'assistant', 'system', 'tool', 'tool_call', 'tool_response')


class ColumnPlan(NamedTuple):
    """How ms-swift reads a file.

    Attributes:
        layout: 'messages', 'alpaca' or 'response' (query and response).
        names: The new names of the columns that ms-swift renames.
        usual_names: For the layout 'response': which columns can become `query` and `response`.
    """
    layout: str
    names: dict[str, str]
    usual_names: dict[str, tuple[str, ...]]


@lru_cache(maxsize=1024)
def column_plan(columns: tuple[str, ...]) -> ColumnPlan:
    """How ms-swift reads a file with these columns."""
    usual: dict[str, tuple[str, ...]] = {'messages': CHAT_COLUMNS}
    layout = 'messages'
    if not any(name in columns for name in CHAT_COLUMNS):
        layout = 'alpaca' if 'instruction' in columns and 'input' in columns else 'response'
        usual = {'query': _QUERY_NAMES, 'response': _RESPONSE_NAMES}
    known = {**_MEDIA_NAMES, **dict.fromkeys(_SYSTEM_NAMES, 'system')}
    known.update({name: target for target, names in usual.items() for name in names})
    # As `RowPreprocessor.safe_rename_columns`: no column is renamed where two mean the same.
    actual = {column.lower(): column for column in columns}
    found = {actual[name]: target for name, target in known.items() if name in actual}
    counts = Counter(found.values())
    names = {column: target for column, target in found.items() if counts[target] == 1 and column != target}
    return ColumnPlan(layout, names, usual)


def standard_row(row: Mapping[str, Any], row_id: str, columns: Collection[str] | None = None) -> Mapping[str, Any]:
    """The row with `messages`, `images` and `videos`; the row itself if it has that form already.

    Args:
        row: A row in any layout; it is not changed.
        row_id: The row's name.
        columns: The columns of the whole file; by default those of the row.

    Raises:
        RowError: The row has not the layout of its columns (kind 'layout'). Faults of `messages` are left to
            `contract.parse_row`.
    """
    layout, names, _ = column_plan(tuple(row if columns is None else columns))
    if layout == 'messages' and not names and _is_standard(row.get('messages')):
        return row
    new = dict(row)
    for column, name in names.items():
        if column in new:
            value = new.pop(column)
            new[name] = value if new.get(name) is None else new[name]
    if layout == 'messages':
        _convert_chat(new)
    else:
        _convert_pair(new, layout, row_id)
    for medium in ('images', 'videos'):
        if isinstance(new.get(medium), (str, Mapping)):
            new[medium] = [new[medium]]
    return new


def no_conversation(row_id: str, columns: Iterable[str]) -> RowError:
    """The error for a row without any column that ms-swift reads a conversation from."""
    return RowError(row_id, f'ms-swift finds no conversation in the columns {short_repr(sorted(columns))}.',
                    "Write 'messages', or name yours: --columns '{\"chat\": \"messages\"}'.", 'columns')


# ---- messages


def _is_standard(messages: Any) -> bool:
    if not isinstance(messages, list):
        return False
    for message in messages:
        if not isinstance(message, dict) or message.get('role') not in _STANDARD_ROLES:
            return False
        if 'tool_calls' in message or isinstance(message.get('content'), list):
            return False
    return bool(messages)


def _convert_chat(row: dict[str, Any]) -> None:
    messages = _repaired(row.get('messages'))
    if not isinstance(messages, (list, tuple)) or not messages or not all(isinstance(m, Mapping) for m in messages):
        row['messages'] = messages
        return
    images: list[Any] = []
    messages = _provider_messages([dict(message) for message in messages], images)
    if images and not row.get('images'):
        row['images'] = images
    for message in messages:
        for key, other in (('role', 'from'), ('content', 'value')):
            if other in message:
                message[key] = message.pop(other)
    system = row.pop('system', None)
    if 'role' not in messages[0] and 'content' not in messages[0]:
        messages = _from_pairs(messages)
    for message in messages:
        role = message.get('role')
        if isinstance(role, str):
            message['role'] = _ROLES.get(role.replace('-', '_'), role)
    if system is not None and messages[0].get('role') != 'system':
        messages.insert(0, {'role': 'system', 'content': system})
    row['messages'] = messages


def _repaired(messages: Any) -> Any:
    """Messages that a cell holds as JSON, or as Python writes a list."""
    if not isinstance(messages, str):
        return messages
    try:
        return json.loads(messages)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(messages)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return messages


def _from_pairs(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`{'human': ..., 'assistant': ...}`, one a round."""
    turns = []
    for message in messages:
        for role, names in (('user', ('user', 'human')), ('assistant', ('assistant', 'gpt', 'bot'))):
            found = [message[name] for name in names if name in message]
            turns.append({'role': role, 'content': found[-1] if found else None})
    return turns


def _provider_messages(messages: list[dict[str, Any]], images: list[Any]) -> list[dict[str, Any]]:
    """Turns of OpenAI's and Anthropic's interfaces as ms-swift's; the images of Anthropic's blocks go to `images`."""
    if any(message.get('tool_calls') for message in messages):
        return [turn for message in messages for turn in _openai_turns(message)]
    blocks = [block for message in messages if isinstance(message.get('content'), list) for block in message['content']]
    if any(isinstance(block, Mapping) and (block.get('type') in ('tool_use', 'tool_result') or 'source' in block)
           for block in blocks):  # yapf: disable
        return [turn for message in messages for turn in _anthropic_turns(message, images)]
    return messages


def _openai_turns(message: dict[str, Any]) -> list[dict[str, Any]]:
    calls = message.get('tool_calls') if message.get('role') == 'assistant' else None
    if not calls:
        return [message]
    turns = [{'role': 'tool_call', 'content': {'call': call}} for call in calls]
    return [{'role': 'assistant', 'content': message['content']}, *turns] if message.get('content') else turns


def _anthropic_turns(message: dict[str, Any], images: list[Any]) -> list[dict[str, Any]]:
    if not isinstance(message.get('content'), list):
        return [message]
    turns: list[dict[str, Any]] = []
    text = ''
    for block in message['content']:
        kind = block.get('type') if isinstance(block, Mapping) else None
        if kind in ('text', 'image'):
            text += _block_text(block, images)
            continue
        if text:
            turns.append({'role': message.get('role'), 'content': text})
            text = ''
        if kind == 'tool_use':
            turns.append({'role': 'tool_call', 'content': {'name': block.get('name'), 'arguments': block.get('input')}})
        else:
            content = block.get('content', '') if isinstance(block, Mapping) else block
            if isinstance(content, list):
                content = ''.join(_block_text(part, images) for part in content)
            turns.append({'role': 'tool_response', 'content': content})
    if text:
        turns.append({'role': message.get('role'), 'content': text})
    return turns


def _block_text(block: Any, images: list[Any]) -> str:
    if not isinstance(block, Mapping) or block.get('type') != 'image':
        return str(block.get('text', '')) if isinstance(block, Mapping) else str(block)
    source = block.get('source') or {}
    base64 = f'data:{source.get("media_type")};base64,{source.get("data")}'
    images.append(source.get('url') if source.get('type') == 'url' else base64)
    return '<image>'


# ---- query and response


def _convert_pair(row: dict[str, Any], layout: str, row_id: str) -> None:
    if layout == 'alpaca':
        instruction, given, output = (row.pop(key, None) for key in ('instruction', 'input', 'output'))
        if output is not None:
            row['response'] = output
        row['query'] = f'{instruction}\n{given}' if instruction and given else instruction or given
        if not isinstance(row['query'], str):
            raise RowError(row_id, f"'instruction' is {short_repr(instruction)} and 'input' {short_repr(given)}.",
                           'Write the question into one of them.', 'layout')
    history, system = row.pop('history', None) or [], row.pop('system', None)
    query, response = row.pop('query', None), row.pop('response', None)
    if isinstance(response, (list, tuple)):
        response = response[0] if response else None
    if isinstance(history, str):
        history = _repaired(history)
    if not isinstance(history,
                      (list, tuple)) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history):
        raise RowError(row_id, f"'history' is {short_repr(history)}.", "Write it as [['query', 'response'], ...].",
                       'layout')
    messages = [] if system is None else [{'role': 'system', 'content': system}]
    for pair in (*history, (query, response)):
        messages += [{'role': role, 'content': text} for role, text in zip(('user', 'assistant'), pair)
                     if text is not None]  # yapf: disable
    if not messages:
        raise no_conversation(row_id, row)
    row['messages'] = messages
