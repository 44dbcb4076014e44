"""The report of an evaluation: one self-contained HTML file without scripts.

It is reproducible to the byte: it holds no date, no folder and no host name.
"""
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ..evaluate import Evaluation
from .charts import forest_plot, make_axis
from .markup import collapsible, definition_list, escaped, html_table, text_block
from .number_format import (forest_legend, forest_row, format_interval, format_value, measure_label, median_cells,
                            score_cell)
from .page import html_page
from .report_cases import case_cards, case_measure, select_cases
from .report_groups import distribution_charts, group_charts

_MAX_FLAGS = 40
# A description of each kind of `PredictionProblems`.
PROBLEM_TEXTS = {
    'missing': 'rows without a prediction; scored as no answer',
    'doubled': 'further predictions for a row; the first counts',
    'unknown': 'predictions that belong to no row; not scored',
    'malformed': 'invalid lines and predictions; their rows are scored as no answer',
    'reordered': 'lines that are not in the order of the rows; joined correctly',
    'failed': 'rows for which the prediction run reported an error; scored as no answer'
}


def write_report(evaluation: Evaluation, path: str, version: str) -> None:
    """Writes the report.

    Args:
        evaluation: The evaluation. Images are read from the files that the rows name.
        path: The HTML file.
        version: The version of this package.
    """
    with open(path, 'w', encoding='utf-8', newline='\n') as file:
        file.write(report_html(evaluation, version))


def report_html(evaluation: Evaluation, version: str) -> str:
    """The HTML of the report, without lone surrogates."""
    sections = {
        'Scores': _scores(evaluation),
        'Predictions': _predictions(evaluation),
        'Single cases': distribution_charts(evaluation),
        'Groups': group_charts(evaluation),
        'Pictures': _pictures(evaluation),
        'Rules': _rules(evaluation),
        'How it was made': _provenance(evaluation, version)
    }
    evaluation.pairs.close()
    title = f'{evaluation.task.TITLE}: {os.path.basename(evaluation.pairs.predictions.path)}'
    footer = f'swift-citrusv {escaped(version)}, <code>citrusv eval {escaped(evaluation.task.NAME)}</code>'
    return html_page(title, _head(evaluation), sections, footer)


# ---- the head


def _head(evaluation: Evaluation) -> str:
    pairs, first = evaluation.pairs, evaluation.task.measures[0]
    predictions, references = (os.path.basename(lines.path) for lines in (pairs.predictions, pairs.references))
    files = f'<bdi class="file">{escaped(predictions)}</bdi>'
    if pairs.references is not pairs.predictions:
        files += f' against <bdi class="file">{escaped(references)}</bdi>'
    score = evaluation.scores[first.name]
    wrong = sum(count for kind, count in evaluation.problems.counts.items() if kind != 'reordered')
    facts = [(measure_label(first), format_value(first, score.value), format_interval(first, score)),
             ('rows', f'{len(pairs):,}', f'joined {pairs.how}'),
             ('cases', f'{len(evaluation.table):,}', f'{evaluation.clusters}: {len(set(evaluation.table.clusters)):,}'),
             ('problems', f'{wrong:,}', 'in the predictions' if wrong else 'each row has its prediction')]
    tiles = ''.join(f'<div class="tile"><dt>{escaped(name)}</dt><dd><strong>{escaped(value)}</strong>'
                    f'<span class="dim">{escaped(note)}</span></dd></div>' for name, value, note in facts)
    return (f'<p class="over">Evaluation</p><h1>{escaped(evaluation.task.TITLE)}</h1><p class="files">{files}</p>'
            f'<dl class="tiles">{tiles}</dl>')


# ---- scores


def _scores(evaluation: Evaluation) -> str:
    measures, scores = evaluation.task.measures, evaluation.scores
    rows = []
    for measure in measures:
        score = scores[measure.name]
        value, interval = format_value(measure, score.value), format_interval(measure, score) or '–'
        row = [escaped(measure_label(measure)), value, interval, f'{score.count:,}', f'{score.clusters:,}']
        if evaluation.medians:
            row[3:3] = median_cells(measure, evaluation.medians.get(measure.name))
        rows.append(row)
    header = ['score', 'mean' if evaluation.medians else 'value', 'interval', 'cases', escaped(evaluation.clusters)]
    if evaluation.medians:
        header[3:3] = ['median', 'quartiles']
    caption = f'All cases, with 95 % intervals, resampled by {evaluation.clusters}.'
    if not evaluation.settings.repeats:
        caption = 'All cases'
        for line in (header, *rows):
            del line[2]
    found = html_table(caption, header, rows)
    if any(not measure.higher_is_better for measure in measures):
        found += '<p class="dim">↓ lower is better.</p>'
    undefined = [measure.name for measure in measures if math.isnan(scores[measure.name].value)]
    if undefined:
        found += f'<p>Not defined for these cases: {escaped(", ".join(undefined))}.</p>'
    return f'<div class="beside"><div>{found}</div>{_forests(evaluation)}</div>{_macros(evaluation)}'


def _forests(evaluation: Evaluation) -> str:
    measures, scores = evaluation.task.measures, evaluation.scores
    charts = []
    shared = [measure for measure in measures if measure.percent]
    # The others have different units: each gets its own axis.
    for chosen in [shared, *([measure] for measure in measures if not measure.percent)]:
        known = [measure for measure in chosen if not math.isnan(scores[measure.name].value)]
        if known:
            lines = [forest_row(measure, scores[measure.name], measure.label, '') for measure in known]
            label = 'score in %' if known[0].percent else known[0].label
            if not known[0].percent and not known[0].higher_is_better:
                label += ', lower is better'
            limits = [value for row in lines for value in (row.value, row.low, row.high)]
            charts.append(forest_plot(lines, make_axis(limits, label, known[0].percent)))
    key = f'<figcaption>{forest_legend([*scores.values()])}</figcaption>'
    return f'<figure aria-label="The scores">{"".join(charts)}{key}</figure>' if charts else ''


def _macros(evaluation: Evaluation) -> str:
    columns = [column for column, scores in evaluation.macros.items() if scores]
    if not columns:
        return ''
    rows = [[escaped(measure_label(measure)), score_cell(measure, evaluation.scores[measure.name]),
             *(score_cell(measure, evaluation.macros[column].get(measure.name)) for column in columns)]
            for measure in evaluation.task.measures
            if not math.isnan(evaluation.scores[measure.name].value)]  # yapf: disable
    header = ['score', 'all cases', *(f'{escaped(column)}<br><span class="dim">{len(evaluation.groups[column]):,} '
                                      'groups</span>' for column in columns)]  # yapf: disable
    return '<h3>Macro means</h3>' + html_table(
        'Unweighted means of the scores of the groups of a column, next to the score of all cases.', header, rows)


# ---- predictions


def _predictions(evaluation: Evaluation) -> str:
    counts, examples = evaluation.problems.counts, evaluation.problems.examples
    found = [kind for kind, count in counts.items() if count]
    none = [kind for kind, count in counts.items() if not count]
    if found:
        rows = []
        for kind in found:
            meaning = f'{escaped(PROBLEM_TEXTS[kind])}{_examples(examples.get(kind, ()))}'
            rows.append([escaped(kind), f'{counts[kind]:,}', meaning])
        header = ['kind', 'count', 'meaning, with examples']
        parts = [html_table('Problems of the predictions', header, rows, 'words')]
        if none:
            parts.append(f'<p>None are {escaped(", ".join(none))}.</p>')
    else:
        size = f'{len(evaluation.pairs):,}'
        parts = [f'<p class="good">No problems: {size} of {size} rows have one valid prediction, in the order of the '
                 f'rows. None are {escaped(", ".join(none))}.</p>']  # yapf: disable
    return ''.join([*parts, _flags(evaluation)])


def _flags(evaluation: Evaluation) -> str:
    cases = evaluation.table
    flags = cases.flag_counts()
    if not flags:
        return '<p class="good">No case has a flag.</p>'
    rows = [[escaped(flag), f'{count:,}', f'{100 * count / len(cases):.1f} %',
             escaped(', '.join(map(cases.case_name, cases.flags[flag][:3])))]
            for flag, count in [*flags.items()][:_MAX_FLAGS]]  # yapf: disable
    header = ['flag', 'cases', 'share', 'first cases']
    found = html_table('Flagged cases; the rules below explain the flags', header, rows, 'flags')
    if len(flags) > _MAX_FLAGS:
        found += f'<p>{len(flags) - _MAX_FLAGS:,} more flags are in scores.json.</p>'
    return f'<h3>Flags</h3>{found}'


def _examples(messages: Sequence[str]) -> str:
    shown = [f'<li>{text_block(message)}</li>' for message in messages]
    if len(shown) < 3:
        return f'<ul>{"".join(shown)}</ul>' if shown else ''
    rest = collapsible(f'{len(shown) - 2} more examples', f'<ul>{"".join(shown[2:])}</ul>')
    return f'<ul>{"".join(shown[:2])}</ul>{rest}'


# ---- cases


def _pictures(evaluation: Evaluation) -> str:
    measure = case_measure(evaluation)
    values = evaluation.table.columns[measure.per_case] if measure and measure.per_case else None
    higher_is_better = measure.higher_is_better if measure else True
    chosen = select_cases(values, higher_is_better, len(evaluation.table), evaluation.settings.seed)
    parts = []
    if measure is None:
        parts.append('<p>No score is defined for single cases: these are random ones.</p>')
    elif not chosen.best:
        parts.append(f'<p>There is no best and no worst case: all have the same {escaped(measure.label)}.</p>')
    by = f' by {escaped(measure.label)}' if measure else ''
    for title, cases, name in ((f'Best cases{by}', chosen.best, 'best'), (f'Worst cases{by}', chosen.worst, 'worst'),
                               ('Random cases', chosen.others, 'random')):  # yapf: disable
        if cases:
            parts.append(f'<h3>{title}</h3>{case_cards(evaluation, cases, measure, name)}')
    if len(chosen.best) + len(chosen.worst) + len(chosen.others) == len(evaluation.table):
        parts.append('<p>There are no other cases.</p>')
    return ''.join(parts)


# ---- rules and settings


def _rules(evaluation: Evaluation) -> str:
    return _text_list(evaluation.task.rules)


def _text_list(texts: Mapping[str, str]) -> str:
    return definition_list([(name, f'<span dir="auto">{escaped(text)}</span>') for name, text in texts.items()])


def _provenance(evaluation: Evaluation, version: str) -> str:
    settings, pairs, clusters = evaluation.settings, evaluation.pairs, len(set(evaluation.table.clusters))
    intervals = (f'the middle 95 % of {settings.repeats:,} resamplings with replacement of the {clusters:,} clusters '
                 f'({evaluation.clusters}), seed {settings.seed}' if settings.repeats else 'none (--repeats 0)')
    own = pairs.references is pairs.predictions
    facts = {
        'program': f'swift-citrusv {version}, citrusv eval {evaluation.task.NAME}',
        'predictions': os.path.basename(pairs.predictions.path),
        'references': 'in the predictions' if own else os.path.basename(pairs.references.path),
        'joined': pairs.how,
        'intervals': intervals,
        'groups': ', '.join(evaluation.groups) or 'none',
        'random cases': f'seed {settings.seed}',
    }
    facts |= {f'option {name}': _option(value) for name, value in asdict(evaluation.task).items()}  # type: ignore
    return _text_list(facts)


def _option(value: object) -> str:
    return 'not set' if value is None else str(value)
