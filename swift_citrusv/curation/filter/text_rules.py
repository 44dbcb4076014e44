"""Decides on the texts of a row."""
import re
from collections.abc import Callable, Iterator, Sequence

from ..step import Decision
from ..texts import CHINESE, CJK, RowText, count_units
from .rule_file import FilterRules, TextRule, compiled

# From this share of Chinese characters on, Chinese rules apply; below a twentieth, only the English ones.
_CHINESE_SHARE, _ENGLISH_SHARE = .2, .05
_GROUP = 4
_UNIT = re.compile(rf'[{CJK}]|\w+')


class TextJudge:
    """Applies the rules.

    Args:
        rules: The rules.
        count_tokens: Counts the tokens of a text.
    """

    def __init__(self, rules: FilterRules, count_tokens: Callable[[str], int] = count_units) -> None:
        self._rules = rules
        self._count = count_tokens
        self._compiled = [(rule, [compiled(pattern) for pattern in rule.patterns]) for rule in rules.text_rules]

    def decide(self, text: RowText, has_masks: bool) -> Iterator[Decision]:
        """Yields the decisions on a row."""
        yield from self._on_turns(text)
        whole = text.all
        rules = self._rules
        tokens = self._count(whole)
        if tokens < rules.min_tokens and not has_masks:
            yield Decision('short', 'dropped', tokens, rules.min_tokens)
        elif tokens > rules.max_tokens:
            yield Decision('long', 'dropped', tokens, rules.max_tokens)
        share = repetition(whole, rules.min_repetition_length)
        if share > rules.max_repetition:
            yield Decision('repetition', 'dropped', round(share, 4), rules.max_repetition)
        if self._compiled:
            parts = {'any': whole, 'question': '\n'.join(text.questions), 'answer': '\n'.join(text.answers)}
            languages = languages_of(whole)
            seen: set[str] = set()
            for rule, patterns in self._compiled:
                if rule.language in languages and rule.name not in seen:
                    decision = _apply(rule, patterns, parts[rule.where])
                    if decision is not None:
                        seen.add(rule.name)
                        yield decision

    @staticmethod
    def _on_turns(text: RowText) -> Iterator[Decision]:
        if 'assistant' not in text.roles or text.roles[-1] == 'user':
            yield Decision('no-answer', 'dropped', detail='the conversation ends with a question.')
        elif text.blank_answers:
            yield Decision('no-answer', 'dropped', detail=f'answer {text.blank_answers[0]} is empty.')


def _apply(rule: TextRule, patterns: Sequence[re.Pattern[str]], text: str) -> Decision | None:
    matches = [match for pattern in patterns for match in pattern.finditer(text)]
    if not matches:
        return None
    shown = repr(matches[0].group()[:60])
    if rule.min_share is not None:
        share = sum(len(match.group()) for match in matches) / len(text)
        return Decision(rule.name, rule.verdict, round(share, 4), rule.min_share, '', f'it has {shown}.') \
            if share >= rule.min_share else None
    if len(matches) < rule.min_count:
        return None
    return Decision(rule.name, rule.verdict, len(matches), rule.min_count, '', f'it has {shown}.')


def languages_of(text: str) -> tuple[str, ...]:
    """The languages whose rules apply; both for a mixed text."""
    chinese = len(CHINESE.findall(text))
    units = count_units(text) if chinese else 1
    share = chinese / units if units else 0.
    return ('any', *(('zh', ) if share >= _ENGLISH_SHARE else ()), *(('en', ) if share < 1 - _CHINESE_SHARE else ()))


def repetition(text: str, min_length: int) -> float:
    """The share of groups of 4 units that have occurred before; 0 for a text with fewer than `min_length` units."""
    if len(text) < min_length:
        return 0.
    units = _UNIT.findall(text.lower())
    if len(units) < max(min_length, _GROUP):
        return 0.
    groups = list(zip(units, units[1:], units[2:], units[3:]))
    return 1 - len(set(groups)) / len(groups)
