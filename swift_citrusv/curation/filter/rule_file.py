"""The rules of the filter, in a YAML file that people edit."""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...settings import SettingError
from ..data_files import read_yaml

_WHERE = ('question', 'answer', 'any')
_LANGUAGES = ('en', 'zh', 'any')
_VERDICTS = ('dropped', 'review')
_KEYS = {'name', 'text', 'where', 'language', 'patterns', 'min_count', 'min_share', 'verdict'}
_NAME = re.compile(r'[a-z][a-z0-9-]*')


@dataclass(frozen=True)
class TextRule:
    """A rule on texts.

    Attributes:
        name, text: Its name, and what it finds.
        where: 'question', 'answer' or 'any'.
        language: 'en', 'zh' or 'any'.
        patterns: Regular expressions.
        min_count: Matches needed.
        min_share: The share of characters that matches must cover; None: `min_count` counts.
        verdict: 'dropped' or 'review'.
    """
    name: str
    text: str
    where: str
    language: str
    patterns: tuple[str, ...]
    min_count: int = 1
    min_share: float | None = None
    verdict: str = 'dropped'


@dataclass(frozen=True)
class FilterRules:
    """All rules; see `templates/filter_rules.yaml` for their meaning."""
    min_pixels: int
    blank_share: float
    min_tokens: int
    max_tokens: int
    max_repetition: float
    min_repetition_length: int
    text_rules: tuple[TextRule, ...]

    def with_values(self, **values: Any) -> 'FilterRules':
        """With other values, where they are not None."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})


def read_rules(path: str) -> FilterRules:
    """Reads a file of rules.

    Raises:
        SettingError: The file has a fault; the message names the place.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise SettingError(f'{path} holds a {type(content).__name__}, not a mapping.')
    values: dict[str, Any] = {}
    # Keys of a section with their types and the names in `FilterRules`.
    sections: dict[str, dict[str, tuple[type, str]]] = {
        'images': {
            'min_pixels': (int, 'min_pixels'),
            'blank_share': (float, 'blank_share')
        },
        'tokens': {
            'min': (int, 'min_tokens'),
            'max': (int, 'max_tokens')
        },
        'repetition': {
            'max_share': (float, 'max_repetition'),
            'min_length': (int, 'min_repetition_length')
        },
    }
    _check_keys(path, '', content, {*sections, 'rules'})
    for section, keys in sections.items():
        part = content.get(section)
        if not isinstance(part, dict):
            raise SettingError(f'{path}: {section!r} is {part!r}, not a mapping of {", ".join(keys)}.')
        _check_keys(path, section, part, set(keys))
        for name, (kind, target) in keys.items():
            value = part.get(name)
            if (not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0
                    or kind is int and not isinstance(value, int)):
                raise SettingError(
                    f'{path}: {section}.{name} is {value!r}, not {"an integer" if kind is int else "a number"} '
                    'of 0 or more.')
            values[target] = kind(value)
    rules = content.get('rules')
    if not isinstance(rules, list):
        raise SettingError(f"{path}: 'rules' is {rules!r}, not a list.")
    text_rules = tuple(_text_rule(path, number, rule) for number, rule in enumerate(rules, start=1))
    texts: dict[str, str] = {}
    for rule in text_rules:
        if texts.setdefault(rule.name, rule.text) != rule.text:
            raise SettingError(f'{path}: the rules {rule.name!r} have different texts. Rules of one name count as one.')
    return FilterRules(text_rules=text_rules, **values)


def _check_keys(path: str, place: str, found: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(str(name) for name in found.keys() - known)
    if unknown:
        where = f'{place} has' if place else 'it has'
        raise SettingError(f'{path}: {where} the unknown key {unknown[0]!r}. Known: {", ".join(sorted(known))}.')


def _text_rule(path: str, number: int, rule: Any) -> TextRule:
    place = f'rule {number}'
    if not isinstance(rule, dict):
        raise SettingError(f'{path}: {place} is {rule!r}, not a mapping.')
    _check_keys(path, place, rule, _KEYS)
    missing = [name for name in ('name', 'text', 'where', 'language', 'patterns', 'verdict') if name not in rule]
    if missing:
        raise SettingError(f'{path}: {place} lacks {missing[0]!r}.')
    if not isinstance(rule['name'], str) or not _NAME.fullmatch(rule['name']):
        raise SettingError(f'{path}: {place} has the name {rule["name"]!r}. Use small letters, digits and hyphens.')
    place = f'rule {number} ({rule["name"]})'
    for name, choices in (('where', _WHERE), ('language', _LANGUAGES), ('verdict', _VERDICTS)):
        if rule[name] not in choices:
            raise SettingError(f'{path}: {place} has {name} {rule[name]!r}, which is none of {", ".join(choices)}.')
    patterns = rule['patterns']
    if not isinstance(patterns, list) or not patterns:
        raise SettingError(f'{path}: {place} has patterns {patterns!r}, not a list of regular expressions.')
    count, share = rule.get('min_count', 1), rule.get('min_share')
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise SettingError(f'{path}: {place} has min_count {count!r}, not an integer of 1 or more.')
    if share is not None and (not isinstance(share, (int, float)) or not 0 < share <= 1):
        raise SettingError(f'{path}: {place} has min_share {share!r}, not a number above 0 and at most 1.')
    for pattern in patterns:
        compiled(pattern, f'{path}: {place}')
    return TextRule(rule['name'], str(rule['text']), rule['where'], rule['language'], tuple(patterns), count, share,
                    rule['verdict'])  # yapf: disable


def compiled(pattern: Any, place: str = '') -> re.Pattern[str]:
    """A regular expression without regard to case.

    Raises:
        SettingError: It is none.
    """
    try:
        return re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    except (re.error, TypeError) as error:
        raise SettingError(f'{place} has the pattern {pattern!r}, which is no regular expression: {error}.') from error


def descriptions(rules: Sequence[TextRule]) -> dict[str, str]:
    """The texts of rules by their names."""
    return {rule.name: rule.text for rule in rules}
