"""The HTML report of a step and of a run: what each rule took, with examples."""
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..files.rules import file_rules
from ..scoring.html_report.markup import collapsible, escaped, html_table, shortened, text_block
from .data_files import FILES
from .page import page_head, small_picture, steps_table, write_page
from .step import VERDICTS
from .summary_text import count_words, measured_words

_TEXTS = {
    'kept': 'as they were',
    'changed': 'changed, and go on',
    'review': 'for a person to look at',
    'merged': 'merged into others',
    'dropped': 'left out',
}
# Pictures on a page.
_MAX_PICTURES = 60
_PICTURE_SIDE = 220


def write_step_report(folder: str, summary: Mapping[str, Any], examples: Mapping[str, Sequence[Mapping[str, Any]]],
                      more: Mapping[str, str]) -> None:
    """Writes `report.html` of a step.

    Args:
        folder: The output.
        summary: Its summary.
        examples: Examples of each rule.
        more: Sections of the step, as HTML.
    """
    sections = {'Rules': _rules_table(summary), **more, 'Examples': _examples(summary, examples, folder)}
    _write(folder, f'citrusv data {summary["step"]}', summary, sections)


def write_run_report(folder: str, summary: Mapping[str, Any]) -> None:
    """Writes `report.html` of a run."""
    links = {f'<a href="{escaped(step)}/report.html">{escaped(step)}</a>': counts
             for step, counts in summary['steps'].items()}  # yapf: disable
    _write(folder, 'citrusv data run', summary, {'Steps': steps_table(links)})


def _write(folder: str, title: str, summary: Mapping[str, Any], sections: Mapping[str, str]) -> None:
    recipe = escaped(json.dumps(summary['run'], indent=1, ensure_ascii=False))
    sections = {**sections, 'Recipe': collapsible('What was run on what', f'<pre class="text">{recipe}</pre>')}
    total = summary['in']
    tiles = [('rows in', f'{total:,}', '')]
    tiles += [(verdict, f'{summary[verdict]:,}', f'{_share(summary[verdict], total)}, {_TEXTS[verdict]}')
              for verdict in VERDICTS]  # yapf: disable
    write_page(os.path.join(folder, 'report.html'), title, page_head(title, tiles), sections)


def _share(count: int, total: int) -> str:
    return f'{100 * count / total:.1f} %' if total else '-'


def _rules_table(summary: Mapping[str, Any]) -> str:
    total = summary['in']
    rows = []
    for rule, item in summary['rules'].items():
        hits = sum(count for verdict, count in item.items() if verdict != 'text')
        rows.append([escaped(rule), count_words(item) or '0', _share(hits, total), escaped(item['text'])])
    return ('<p>A row may break several rules; then the strongest decides: dropped, merged, review, changed.</p>'
            + html_table('Rows by rule', ['rule', 'rows', 'share', 'what it finds'], rows, 'words'))


def _examples(summary: Mapping[str, Any], examples: Mapping[str, Sequence[Mapping[str, Any]]], folder: str) -> str:
    parts, pictures = [], 0
    for rule, item in summary['rules'].items():
        cards = []
        for example in examples.get(rule, ()):
            picture = ''
            if example['images'] and pictures < _MAX_PICTURES:
                picture = _picture(example['images'][0], folder)
                pictures += bool(picture)
            cards.append(_card(example, picture))
        if cards:
            parts.append(f'<h3>{escaped(rule)} <span class="dim">{escaped(item["text"])}</span></h3>'
                         f'<div class="cards">{"".join(cards)}</div>')
    return '\n'.join(parts) or '<p>No rule found anything.</p>'


def _card(example: Mapping[str, Any], picture: str) -> str:
    measured = measured_words(example['measure'], example['threshold'])
    notes = [note for note in (example['verdict'], measured, shortened(example['detail'], 160).rstrip('.')) if note]
    if example['evidence_id']:
        notes.append(f'evidence {shortened(example["evidence_id"], 80)}')
    return (f'<article class="card"><h4>{escaped(example["source"])}:{example["line"]} '
            f'<span class="dim">{escaped(example["row_id"])}</span></h4>'
            f'<p>{escaped("; ".join(notes))}</p>{picture}{text_block(_row_words(example["text"]))}</article>')


def _row_words(text: str) -> str:
    """The conversation of a row, or its JSON if it has none."""
    try:
        messages = json.loads(text)['messages']
        return '\n'.join(f'{message["role"]}: {message["content"]}' for message in messages)
    except (ValueError, KeyError, TypeError):
        return text


def _picture(reference: str, folder: str) -> str:
    # Files that the step has written, too.
    rules = replace(file_rules(), image_dir=folder) if reference.startswith(f'{FILES}/') else None
    return small_picture(reference, _PICTURE_SIDE, rules)
