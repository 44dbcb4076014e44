"""Runs the counts, and writes tables, pictures and the page."""
import base64
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ... import __version__
from ...files.rules import FileRules
from ...scoring.html_report.markup import collapsible, escaped, html_table
from ...settings import SettingError
from ..data_files import read_json, whole_file, write_csv, write_json
from ..engine import Engine
from ..inputs import SHARD_BYTES, find_files, hash_files, is_output, split
from ..labels import LABELS
from ..page import page_head, steps_table, write_page
from ..step import Stage
from . import figures
from .count import FORMS, NO_VALUE, Columns, CountTask, merged

_PAGE = 'stats.html'
# Lines of a table on the page.
_MAX_LINES = 40


def run_stats(inputs: Sequence[str],
              output: str,
              columns: Columns = Columns(),
              tokenizer: str | None = None,
              reads_images: bool = True,
              files: FileRules = FileRules(),
              engine: Engine = Engine(),
              quiet: bool = False) -> dict[str, Any]:
    """Counts rows, and writes what was counted.

    Args:
        inputs: Files and folders of rows, or outputs of steps; each is a set of its own in the figure of modalities.
        output: The folder to write.
        columns: What to count.
        tokenizer: A folder with `tokenizer.json`; None: characters and words.
        reads_images: Whether to open images for their size.
        files: What rows may name.
        engine: Where it runs.
        quiet: Whether to show no progress bars.

    Returns:
        What is in `stats.json`.

    Raises:
        SettingError: An input or option is wrong, or the output is something else.
    """
    if os.path.isdir(output) and set(os.listdir(output)) and not os.path.exists(os.path.join(output, 'stats.json')):
        raise SettingError(f'{output} is not empty, and not the output of this command. Name another folder.')
    rules = files
    shards, names = [], []
    for argument in inputs:
        parts = split(hash_files(find_files([argument]), quiet), SHARD_BYTES, True)
        shards += parts
        names += [os.path.basename(os.path.abspath(argument))] * len(parts)
    made = [argument for argument in inputs if is_output(argument)]
    if files.image_dir is None and made:
        rules = replace(files, image_dir=os.path.abspath(made[0]))
    os.makedirs(output, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix='work-') as work:
        task = CountTask(shards, names, work, columns, tokenizer, reads_images, rules)
        if shards:
            engine.run([Stage('stats', task, len(shards), work, None, 'rows')], quiet)
        counts = merged(work, len(shards))
    result = {
        'version': __version__,
        'inputs': [os.path.basename(os.path.abspath(argument)) for argument in inputs],
        'tokens': 'characters and words' if tokenizer is None else os.path.basename(os.path.abspath(tokenizer)),
        'counts': {name: dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
                   for name, found in counts.items() if found},
    }  # yapf: disable
    pictures = _pictures(counts, columns, bool(tokenizer))
    tables = _tables(counts)
    shutil.rmtree(os.path.join(output, 'pictures'), ignore_errors=True)
    for name, (_, content) in pictures.items():
        with whole_file(os.path.join(output, 'pictures', f'{name}.png')) as part, open(part, 'wb') as file:
            file.write(content)
    for name, lines in tables.items():
        write_csv(os.path.join(output, f'{name}.csv'), lines)
    write_json(os.path.join(output, 'stats.json'), result)
    _write_page(os.path.join(output, _PAGE), result, counts, pictures, tables, made)
    return result


def _tables(counts: Mapping[str, Counter[str]]) -> dict[str, list[dict[str, Any]]]:
    """The paper's tables 1 and 2 for these rows, as lines."""
    by_form: dict[str, Counter[str]] = {}
    for name, count in counts.get('dataset kind', Counter()).items():
        form, _, dataset = name.partition('\t')
        by_form.setdefault(form, Counter())[dataset] += count
    datasets = [{'kind of rows': form, 'data set': dataset, 'rows': count}
                for form in FORMS if form in by_form for dataset, count in by_form[form].most_common()]  # yapf: disable
    labels = [{'dimension': dimension, 'label': label, 'rows': counts.get(f'label {dimension}', Counter())[label]}
              for dimension, all_labels in LABELS.items() for label in (*all_labels, NO_VALUE)]  # yapf: disable
    return {'table-1-data-sets': datasets, 'table-2-labels': labels}


def _pictures(counts: Mapping[str, Counter[str]], columns: Columns,
              has_tokenizer: bool) -> dict[str, tuple[str, bytes]]:
    """(title, PNG) of each picture, by its file name."""
    total = counts.get('total', Counter())
    unit = 'tokens' if has_tokenizer else 'Chinese characters and words'
    found: dict[str, tuple[str, bytes]] = {}

    def add(name: str, title: str, content: bytes) -> None:
        found[name] = (title, content)

    for dimension, whose in (('task', 'all rows'), ('region', 'rows with images')):
        labels = {label: count for label, count in counts.get(f'label {dimension}', Counter()).items()
                  if label != NO_VALUE}  # yapf: disable
        if labels:
            title = f'{dimension.capitalize()}s of {whose}'
            add(f'figure-2-{dimension}s', title, figures.bars(title, labels, 'rows'))
    kinds = counts.get('kind', Counter())
    types = kinds if set(kinds) - {NO_VALUE} else counts.get('form', Counter())
    if types:
        centre = '\n'.join([f'{total["rows"]:,} rows', f'{total["images"]:,} images', f'{total["tokens"]:,} tokens'])
        add('figure-9-types', 'Types of rows', figures.ring('Types of rows', types, centre))
    by_stage: dict[str, dict[str, int]] = {}
    for name, count in counts.get('stage modality', Counter()).items():
        stage, _, label = name.partition('\t')
        if label != NO_VALUE:
            by_stage.setdefault(stage, {})[label] = count
    if by_stage:
        title = 'Modalities of each input'
        add('figure-12-modalities', title, figures.stacked(title, by_stage, LABELS['modality']))
    for name, title in (('question tokens', 'Length of questions'), ('answer tokens', 'Length of answers')):
        if counts.get(name):
            ranges = {int(edge): count for edge, count in counts[name].items()}
            add(name.replace(' ', '-'), title, figures.columns(title, ranges, f'{unit}, from'))
    for name, title in (('images', 'Images of a row'), ('masks', 'Masks of a row'), ('turns', 'Answers of a row')):
        if len(counts.get(name, ())) > 1:
            values = dict(sorted(counts[name].items(), key=lambda item: int(item[0])))
            add(name, title, figures.bars(title, values, 'rows', keeps_order=True))
    sizes = {(int(name.split(' x ')[0]), int(name.split(' x ')[1])): count
             for name, count in counts.get('image sizes', Counter()).items() if ' x ' in name}  # yapf: disable
    if sizes:
        add('image-sizes', 'Sizes of images', figures.sizes('Sizes of images', sizes))
    for column in columns.others:
        if counts.get(f'column {column}'):
            safe = ''.join(letter if letter.isalnum() else '-' for letter in column)
            add(f'column-{safe}', column, figures.bars(column, counts[f'column {column}'], 'rows'))
    return found


def _write_page(path: str, result: Mapping[str, Any], counts: Mapping[str, Counter[str]],
                pictures: Mapping[str, tuple[str, bytes]], tables: Mapping[str, Sequence[Mapping[str, Any]]],
                made: Sequence[str]) -> None:
    total = counts.get('total', Counter())
    unreadable = counts.get('unreadable', Counter()).total()
    not_opened = counts.get('image sizes', Counter())['not opened']
    tiles = [('rows', total['rows'], f'{unreadable:,} more cannot be read' if unreadable else ''),
             ('images', total['images'], f'{not_opened:,} not opened' if not_opened else ''),
             ('masks', total['masks'], ''), ('tokens', total['tokens'], result['tokens'])]  # yapf: disable
    title = ', '.join(result['inputs'])
    head = page_head(title, [(name, f'{value:,}', note) for name, value, note in tiles])
    sections = {}
    if pictures:
        sections['Pictures'] = ''.join(
            f'<figure><img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escaped(title)}" '
            f'style="max-width:100%"></figure>' for title, png in pictures.values())  # yapf: disable
    sections['Data sets'] = _lines_table('Rows by data set', tables['table-1-data-sets'])
    unknown = {dimension: counts.get(f'unknown {dimension}', Counter()) for dimension in LABELS}
    notes = ''.join(f'<p>{escaped(dimension)}: {sum(found.values()):,} rows have other labels, counted as Other: '
                    f'{escaped(", ".join(name for name, _ in found.most_common(8)))}</p>'
                    for dimension, found in unknown.items() if found)  # yapf: disable
    sections['Labels'] = notes + _lines_table('Labels (table 2 of the paper)', tables['table-2-labels'], 60)
    for folder in made:
        sections.update(_made(folder))
    numbers = escaped(json.dumps(result['counts'], indent=1, ensure_ascii=False))
    sections['Numbers'] = collapsible('All counts', f'<pre class="text">{numbers}</pre>')
    write_page(path, 'Statistics', head, sections)


def _lines_table(caption: str, lines: Sequence[Mapping[str, Any]], most: int = _MAX_LINES) -> str:
    if not lines:
        return '<p>None.</p>'
    rows = [[escaped(f'{value:,}' if isinstance(value, int) else str(value)) for value in line.values()]
            for line in lines[:most]]  # yapf: disable
    note = f'<p>{most} of {len(lines)} lines; all are in the CSV file.</p>' if len(lines) > most else ''
    return note + html_table(caption, [escaped(name) for name in lines[0]], rows)


def _made(folder: str) -> dict[str, str]:
    """What the steps that made an input did, and what they certify."""
    name = os.path.basename(os.path.abspath(folder))
    summary = read_json(os.path.join(folder, 'summary.json'))
    steps = summary.get('steps') or {summary['step']: summary}
    sections = {f'Steps of {name}': steps_table({escaped(step): item for step, item in steps.items()})}
    places = [folder, *(os.path.join(folder, step) for step in summary.get('steps', ()))]
    documents = {'certificate.json': ('Leak certificate', _certificate), 'proof.json': ('Proof of deid', _proof)}
    for document, (title, write) in documents.items():
        for place in places:
            path = os.path.join(place, document)
            if os.path.exists(path):
                sections[f'{title} of {name}'] = write(read_json(path))
    return sections


def _certificate(content: Mapping[str, Any]) -> str:
    found = ', '.join(f'{level} {count:,}' for level, count in content['leaks'].items())
    sets = [[escaped(str(item['set'])), f'{item["items"]:,}' if 'items' in item else '-', escaped(item['sha256'][:16])]
            for item in content['evaluation_sets']]  # yapf: disable
    limits = ', '.join(f'{name} {value:g}' for name, value in content['thresholds'].items())
    return (f'<p>{content["rows_without_a_leak"]:,} of {content["rows"]:,} rows hold nothing of these evaluation sets. '
            f'Found: {escaped(found)}. Thresholds: {escaped(limits)}. Images compared: '
            f'{"yes" if content["images_compared"] else "no"}.</p>'
            + html_table('Evaluation sets', ['set', 'items', 'SHA-256'], sets))  # yapf: disable


def _proof(content: Mapping[str, Any]) -> str:
    from ..deid.prove import html_of
    return html_of(content)
