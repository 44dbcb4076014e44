"""The tables of docs/compatibility.md, from the sorts and rules of `swift_citrusv.plugin.flags`.

`python -m support.compatibility` (in tests/) writes them into the page, between its two marks.
"""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'compatibility.md'
# The tables stand between a line '<!-- NAME: begin -->' and a line '<!-- NAME: end -->'.
TRAINING, RLHF, INFERENCE = 'flags of training', 'flags of rlhf', 'flags of inference'
_FAMILY = 4


def _shorten(names: Sequence[str], known: Iterable[str]) -> str:
    """The names in code font; all of at least `_FAMILY` flags with the same first word as `word_*`."""
    known = set(known)
    words = [name.partition('_')[0] for name in names]
    short: list[str] = []
    for name, word in zip(names, words):
        family = {other for other in known if other.startswith(f'{word}_')}
        if name in family and len(family) >= _FAMILY and family <= set(names):
            name = f'{word}_*'
        if name not in short:
            short.append(name)
    return ', '.join(f'`{name}`' for name in short)


def _lines(entries: Iterable[Any], known: set[str]) -> Iterator[str]:
    for entry in entries:
        flags = _shorten(entry.flags.split(), known)
        values = getattr(entry, 'values', '')
        reason = ' '.join(filter(None, (entry.reason, getattr(entry, 'remedy', ''))))
        reason = reason.replace('|', '\\|').replace('<', '&lt;')
        yield f'| {flags}{f" ({values})" if values else ""} | {entry.outcome} | {reason} |'


def tables(groups: Mapping[str, Sequence[Any]], known: set[str]) -> str:
    """A heading and a table for each group."""
    parts = []
    for title, entries in groups.items():
        head = ['| flag | outcome | why, or what instead |', '| --- | --- | --- |']
        parts.append('\n'.join([f'### {title}', '', *head, *_lines(entries, known)]))
    return '\n\n'.join(parts)


def expected() -> dict[str, str]:
    """The tables that the page must have, by the name of their marks."""
    from swift.arguments import DeployArguments, RLHFArguments, SftArguments

    from swift_citrusv.plugin.flags import inference_rules, rlhf_rules, rules, setting_rules, sorts, tuner_rules
    training: dict[str, list[Any]] = {title: [*entries, *rules.RULES[title]] for title, entries in sorts.SORTS.items()}
    training[tuner_rules.TITLE] = [*tuner_rules.SORTS, *tuner_rules.RULES]
    training |= setting_rules.SETTING_RULES
    inference: dict[str, list[Any]] = {
        f'{title} in inference': [*inference_rules.SORTS.get(title, []), *inference_rules.RULES.get(title, [])]
        for title in dict.fromkeys([*inference_rules.SORTS, *inference_rules.RULES])
    }
    rlhf: dict[str, list[Any]] = {
        title: [*rlhf_rules.SORTS.get(title, []), *rlhf_rules.RULES.get(title, [])]
        for title in dict.fromkeys([*rlhf_rules.SORTS, *rlhf_rules.RULES])
    }
    return {
        TRAINING: tables(training, {spec.name
                                    for spec in fields(SftArguments)}),
        RLHF: tables(rlhf, {spec.name
                            for spec in fields(RLHFArguments)}),
        INFERENCE: tables(inference, {spec.name
                                      for spec in fields(DeployArguments)}),
    }


def sections(page: str) -> dict[str, str]:
    """What stands between the marks of a page."""
    found = {}
    for name in (TRAINING, RLHF, INFERENCE):
        _, begin, rest = page.partition(f'<!-- {name}: begin -->')
        text, end, _ = rest.partition(f'<!-- {name}: end -->')
        assert begin and end, f'the page has no marks for {name}'
        found[name] = text.strip()
    return found


def write() -> None:
    page = PAGE.read_text(encoding='utf-8')
    for name, text in expected().items():
        head, begin, rest = page.partition(f'<!-- {name}: begin -->')
        _, end, tail = rest.partition(f'<!-- {name}: end -->')
        page = f'{head}{begin}\n\n{text}\n\n{end}{tail}'
    PAGE.write_text(page, encoding='utf-8')


if __name__ == '__main__':
    write()
