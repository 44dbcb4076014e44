"""A summary in words."""
from collections.abc import Iterator, Mapping
from typing import Any

from .step import VERDICTS


def summary_lines(summary: Mapping[str, Any], folder: str) -> Iterator[str]:
    """The lines: rows by verdict, rows by rule, where to look."""
    counts = ', '.join(f'{summary[verdict]:,} {verdict}' for verdict in VERDICTS if summary[verdict])
    yield f'{summary["in"]:,} rows: {counts or "none"}.'
    if 'steps' in summary:
        for step, item in summary['steps'].items():
            parts = ', '.join(f'{item[verdict]:,} {verdict}' for verdict in VERDICTS if item[verdict])
            yield f'  {step}: {item["in"]:,} rows: {parts or "none"}.'
            yield from _rule_lines(summary['rules'][step], '    ')
    else:
        yield from _rule_lines(summary['rules'], '  ')
    yield f'Rows that go on: {folder}/rows. Report: {folder}/report.html. One row: citrusv data why {folder} ROW'


def _rule_lines(rules: Mapping[str, Any], indent: str) -> Iterator[str]:
    for rule, item in rules.items():
        found = count_words(item)
        if found:
            yield f'{indent}{rule}: {found} ({item["text"]})'


def count_words(item: Mapping[str, Any]) -> str:
    """The rows that a rule of a summary took, by verdict; '' for none."""
    return ', '.join(f'{count:,} {verdict}' for verdict, count in item.items() if verdict != 'text')


def measured_words(measure: float | None, threshold: float | None) -> str:
    """What a rule has measured; '' if it measures nothing."""
    if measure is None:
        return ''
    return f'measured {measure:g}' + (f', threshold {threshold:g}' if threshold is not None else '')
