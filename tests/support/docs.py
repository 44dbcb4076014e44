"""The pages of the documentation, and the commands in them."""
import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = ['README.md', 'CONTRIBUTING.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))]
PROGRAMS = ('citrusv', 'swift', 'make', 'bash', 'pip', 'pytest', '.venv/bin/python', '.venv/bin/pre-commit')

_FENCED = re.compile(r'^```(\w*)\n(.*?)^```', re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r'^ {4}(\S.*)$', re.MULTILINE)
_IN_PROSE = re.compile(r'`([^`]+)`')
_ASSIGNMENT = re.compile(r'[A-Z][A-Z_0-9]*=')
_NESTED = re.compile(r'\$\((citrusv [^)]*)\)')


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def blocks_of(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return _FENCED.findall(text_of(page))


class Command(NamedTuple):
    """A command of the documentation.

    page: Where it is.
    words: Without environment variables in front of it.
    whole: Whether it is in a block or in a line of its own; in prose it may be shortened.
    """
    page: str
    words: tuple[str, ...]
    whole: bool

    @property
    def program(self) -> str:
        return self.words[0]

    @property
    def flags(self) -> set[str]:
        return {word for word in self.words if word.startswith('--')}


def commands_of(page: str) -> list[Command]:
    """The commands of a page, in its order, each once."""
    text = text_of(page)
    lines = [line for language, block in blocks_of(page) if language in ('bash', '') for line in _joined(block)]
    rest = _FENCED.sub('', text)
    lines += [line for line in _joined('\n'.join(_INDENTED.findall(rest)))]
    lines += [nested for line in lines for nested in _NESTED.findall(line)]
    found = [_command(page, line, True) for line in lines]
    found += [_command(page, ' '.join(line.split()), False) for line in _IN_PROSE.findall(rest)]
    return list(dict.fromkeys(command for command in found if command is not None))


def _joined(block: str) -> list[str]:
    return block.replace('\\\n', ' ').splitlines()


def _command(page: str, line: str, whole: bool) -> Command | None:
    if not line.split() or not any(word in line for word in PROGRAMS):
        return None
    try:
        words = shlex.split(line.replace(' ...', ''), comments=True)
    except ValueError:
        # Prose between two backticks that belong to others.
        return None
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    return Command(page, tuple(words), whole) if len(words) > 1 and words[0] in PROGRAMS else None
