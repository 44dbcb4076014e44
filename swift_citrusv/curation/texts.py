"""The texts of a row, and how long they are."""
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..constants import SEG_TOKEN
from ..rows.layouts import standard_row
from ..settings import SettingError

# Placeholders of images and masks are no words.
_TAGS = re.compile(r'<(?:image|video|audio|ref-object|bbox|mask)>|' + re.escape(SEG_TOKEN))
# Without a tokenizer: a Chinese, Japanese or Korean character, or a word of another script, counts one.
CJK = r'\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff'
_UNITS = re.compile(rf'[{CJK}]|[^\W_{CJK}]+')
CHINESE = re.compile(r'[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]')


class RowText(NamedTuple):
    """The texts of a row without the placeholders of images and masks.

    Attributes:
        questions: What users say, turn by turn.
        answers: What the assistant says.
        roles: The roles of the turns.
        blank_answers: The answers, from 1, that are blank. One of placeholders only is not: `[SEG]` is an answer.
    """
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    roles: tuple[str, ...]
    blank_answers: tuple[int, ...] = ()

    @property
    def all(self) -> str:
        """Questions and answers."""
        return '\n'.join((*self.questions, *self.answers))


def row_text(data: Mapping[str, Any], row_id: str) -> RowText:
    """The texts of a row in any layout of ms-swift.

    Raises:
        RowError: The row has no conversation.
    """
    messages = data.get('messages')
    if not _is_plain(messages):
        messages = standard_row(data, row_id).get('messages')
    questions, answers, roles, blank = [], [], [], []
    for message in messages or ():
        role, content = message.get('role'), message.get('content')
        text = content if isinstance(content, str) else _joined(content)
        is_blank = not text.strip()
        if '<' in text or SEG_TOKEN in text:
            text = _TAGS.sub('', text)
        roles.append(str(role))
        if role == 'user':
            questions.append(text.strip())
        elif role == 'assistant':
            answers.append(text.strip())
            if is_blank:
                blank.append(len(answers))
    return RowText(tuple(questions), tuple(answers), tuple(roles), tuple(blank))


def _is_plain(messages: Any) -> bool:
    return isinstance(messages, list) and all(
        isinstance(message, dict) and 'role' in message and 'content' in message for message in messages)


def _joined(content: Any) -> str:
    if isinstance(content, list):
        return '\n'.join(part['text'] for part in content
                         if isinstance(part, dict) and isinstance(part.get('text'), str))  # yapf: disable
    return ''


def count_units(text: str) -> int:
    """Characters of Chinese, Japanese and Korean, and words of other scripts."""
    return len(_UNITS.findall(text))


def token_counter(folder: str | None) -> Callable[[str], int]:
    """A function that counts tokens.

    Args:
        folder: A folder with a `tokenizer.json`; None: `count_units`.

    Raises:
        SettingError: There is none.
    """
    if folder is None:
        return count_units
    path = tokenizer_file(folder)
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def tokenizer_file(folder: str) -> str:
    """The `tokenizer.json` of a folder.

    Raises:
        SettingError: There is none.
    """
    path = os.path.join(folder, 'tokenizer.json')
    if not os.path.isfile(path):
        raise SettingError(f'{folder} has no tokenizer.json. Give the folder of a fast tokenizer: '
                           '`AutoTokenizer.from_pretrained(...).save_pretrained(DIR)` writes one.')
    return path
