"""Identities in texts: found by rules, and by what a header says of its patient."""
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from ...settings import SettingError
from ..data_files import read_yaml

# Weights and check digits of Chinese identity cards. Source: GB 11643-1999.
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = '10X98765432'
# Words of a name that are too short or too common to be sought in a text.
_MIN_NAME = 3
_NO_NAMES = frozenset('anonymous anonymized unknown patient test none null dr mr mrs ms prof the and for of'.split())


class Finding(NamedTuple):
    """An identity in a text.

    Attributes:
        rule: The name of the rule.
        start, stop: Where it stands.
        is_sure: Whether it is one for certain.
    """
    rule: str
    start: int
    stop: int
    is_sure: bool


@dataclass(frozen=True)
class TextRule:
    """A rule of the YAML file.

    Attributes:
        name: Its name, which stands in the place of what it finds: '[PHONE]'.
        text: What it finds, in words.
        patterns: What it finds; a group 'id' is the identity, else all of it.
        check: The name of a further condition; '' for none.
        is_sure: Whether what it finds goes without a person's look.
    """
    name: str
    text: str
    patterns: tuple[re.Pattern[str], ...]
    check: str = ''
    is_sure: bool = True


def _card(text: str) -> bool:
    """Whether the last digit of an identity card fits, and its birthday is a day."""
    digits = re.sub(r'\s', '', text).upper()
    try:
        date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    return check_digit(digits[:17]) == digits[17]


def check_digit(digits: str) -> str:
    """The last digit of an identity card that begins with 17 digits."""
    return _CHECKS[sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, digits)) % 11]


_CONDITIONS: Mapping[str, Callable[[str], bool]] = {
    '': lambda text: True,
    'identity-card': _card,
}


@dataclass(frozen=True)
class DeidRules:
    """What counts as an identity in texts, and what text may stay in pixels.

    Attributes:
        texts: The rules, in the order in which they are tried: the first that finds a place has it.
        allowed: What a word in an image may be, as patterns over the whole word.
        sha256: Of the file.
    """
    texts: tuple[TextRule, ...]
    allowed: tuple[re.Pattern[str], ...]
    sha256: str

    def is_allowed(self, text: str) -> bool:
        """Whether all words that were read in an image may stay."""
        return all(any(pattern.fullmatch(word) for pattern in self.allowed) for word in text.split())


def read_rules(path: str) -> DeidRules:
    """Reads the YAML file.

    Raises:
        SettingError: It is not such a file; the message names the entry.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or set(content) != {'texts', 'allowed_in_images'}:
        raise SettingError(f'{path}: expected the keys texts and allowed_in_images.')
    rules = []
    for name, entry in _mapping(content['texts'], path, 'texts').items():
        entry = _mapping(entry, path, name)
        unknown = set(entry) - {'text', 'patterns', 'check', 'sure'}
        if unknown or not entry.get('patterns'):
            problem = f'unknown: {", ".join(sorted(unknown))}' if unknown else 'patterns is missing'
            raise SettingError(f'{path}: {name}: {problem}. The keys are text, patterns, check and sure.')
        if entry.get('check', '') not in _CONDITIONS:
            raise SettingError(f'{path}: {name}: there is no check {entry["check"]!r}. '
                               f'Checks: {", ".join(filter(None, _CONDITIONS))}.')  # yapf: disable
        patterns = tuple(_pattern(pattern, path, name) for pattern in entry['patterns'])
        rules.append(TextRule(name, str(entry.get('text', name)), patterns, entry.get('check', ''),
                              bool(entry.get('sure', True))))  # yapf: disable
    words = content['allowed_in_images']
    if not isinstance(words, list):
        raise SettingError(f'{path}: allowed_in_images is no list.')
    allowed = tuple(_pattern(word, path, 'allowed_in_images') for word in words)
    with open(path, 'rb') as file:
        return DeidRules(tuple(rules), allowed, hashlib.sha256(file.read()).hexdigest())


def _mapping(value: Any, path: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingError(f'{path}: {name} is no mapping.')
    return value


def _pattern(text: Any, path: str, name: str) -> re.Pattern[str]:
    try:
        return re.compile(str(text))
    except re.error as error:
        raise SettingError(f'{path}: {name}: {str(text)[:60]!r} is no regular expression: {error}.') from error


def names_of(values: Iterable[str]) -> tuple[str, ...]:
    """The words of names and numbers that must not stand in any text of a patient, the longest first.

    Args:
        values: Names, as in DICOM ('SIMPSON^HOMER^J^') or in words; numbers.
    """
    found = set()
    for value in values:
        for part in re.split(r'[\^=,;\s]+', value):
            part = part.strip('.-_()[]')
            # Chinese names have two characters.
            least = 2 if re.search(r'[\u4e00-\u9fff]', part) else _MIN_NAME
            if len(part) >= least and part.casefold() not in _NO_NAMES:
                found.add(part)
        parts = [part for part in re.split(r'[\^=]+', value) if part.strip()]
        # As in the header, and as one says it.
        for whole in (' '.join(parts), ' '.join([*parts[1:2], *parts[:1]])):
            if ' ' in whole and any(part in found for part in whole.split()):
                found.add(whole)
    return longest_first(found)


def longest_first(words: Iterable[str]) -> tuple[str, ...]:
    """Words in the order in which they are sought."""
    return tuple(sorted(words, key=lambda word: (-len(word), word)))


class TextCleaner:
    """Replaces identities in texts.

    Args:
        rules: The rules.
    """
    # The name of the rule that seeks what headers say.
    KNOWN = 'known-identity'

    def __init__(self, rules: DeidRules) -> None:
        self._rules = rules.texts

    def find(self, text: str, known: Sequence[str] = ()) -> list[Finding]:
        """The identities in a text, in order, none inside another.

        Args:
            text: The text.
            known: Words from `names_of`.
        """
        found: list[Finding] = []
        if known:
            words = '|'.join(re.escape(word).replace(r'\ ', r'[\s,^]+') for word in known)
            self._add(found, self.KNOWN, True, re.finditer(rf'(?i)(?<![^\W_])(?:{words})(?![^\W_])', text))
            # Chinese has no spaces.
            chinese = '|'.join(re.escape(word) for word in known if re.search(r'[\u4e00-\u9fff]', word))
            if chinese:
                self._add(found, self.KNOWN, True, re.finditer(chinese, text))
        for rule in self._rules:
            condition = _CONDITIONS[rule.check]
            for pattern in rule.patterns:
                self._add(found, rule.name, rule.is_sure, pattern.finditer(text), condition)
        return sorted(found, key=lambda item: item.start)

    @staticmethod
    def _add(found: list[Finding],
             name: str,
             is_sure: bool,
             matches: Iterable[re.Match[str]],
             condition: Callable[[str], bool] = _CONDITIONS['']) -> None:
        for match in matches:
            group = 'id' if 'id' in match.re.groupindex and match['id'] is not None else 0
            start, stop = match.span(group)
            if start < stop and condition(match[group]) and not any(
                    item.start < stop and start < item.stop for item in found):  # yapf: disable
                found.append(Finding(name, start, stop, is_sure))

    def clean(self, text: str, known: Sequence[str] = ()) -> tuple[str, list[Finding]]:
        """The text with '[PHONE]' in the place of a phone number, and what was found.

        Args:
            text: The text.
            known: Words from `names_of`.
        """
        findings = self.find(text, known)
        parts, end = [], 0
        for item in findings:
            parts += [text[end:item.start], f'[{item.rule.upper()}]']
            end = item.stop
        return ''.join(parts) + text[end:], findings
