"""The page of `citrusv try`: overlays of held-out images, scores, doubts, and what to do next."""
import numpy as np
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from PIL import Image
from typing import Any

from .. import __version__
from ..rows.drawing import colour, overlay
from ..scoring.html_report.markup import definition_list, escaped, html_table, shortened
from ..scoring.html_report.page import html_document
from ..scoring.html_report.report_cases import image_data_url
from ..scoring.row_images import open_rgb
from .answers import Drawn

_SIDE = 260
_MOST_IMAGES, _MOST_NAMES = 18, 40


def triple(image: Image.Image, masks: Sequence[Drawn], names: Sequence[str], side: int = _SIDE) -> Image.Image:
    """Image, truth and prediction side by side, each name in its colour.

    Args:
        image: RGB.
        masks: The masks on it.
        names: All names; the index of a name is that of its colour.
        side: The longer side of each part, in pixels.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.asarray(image.convert('RGB').resize(size, Image.Resampling.BICUBIC))
    # Large masks first, so that none covers a smaller one.
    order = sorted(masks, key=lambda mask: -int(mask.target.sum()))
    parts = [pixels]
    for shown in ([mask.target for mask in order], [mask.prediction for mask in order]):
        picture = pixels
        for mask, array in zip(order, shown):
            if array is not None:
                enlarged = np.asarray(Image.fromarray(array.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
                blank = [np.zeros_like(enlarged)] * (names.index(mask.name) % 10)
                picture = overlay(picture, [*blank, enlarged], opacity=.3)
        parts.append(picture)
    canvas = Image.new('RGB', (3 * size[0] + 8, size[1]), 'white')
    for index, part in enumerate(parts):
        canvas.paste(Image.fromarray(part), (index * (size[0] + 4), 0))
    return canvas


def write_page(path: Path, report: dict[str, Any], drawn: Sequence[Drawn]) -> None:
    """Writes the page: one self-contained HTML file without scripts.

    Args:
        path: The HTML file.
        report: The content of report.json.
        drawn: The held-out masks.
    """
    sections = {
        'Held-out images': _pictures(drawn),
        'Dice by name': _names(report),
        'The rows': _findings(report),
        'Training': _stages(report),
        'With real weights': ''.join(f'<p><code>{escaped(line)}</code></p>' for line in report['next']),
    }
    body = '\n'.join(f'<section><h2>{escaped(title)}</h2>\n{content}\n</section>'
                     for title, content in sections.items())  # yapf: disable
    held_out = report['held_out']
    facts = [('held-out Dice', _number(held_out['dice']), f'{held_out["masks"]:,} masks, the model writes its answer'),
             ('average mask', _number(held_out['average_mask']), 'Dice without looking at the image'),
             ('rows', f'{report["rows"]["train"]:,}', f'and {report["rows"]["held_out"]:,} held out'),
             ('time', f'{report["seconds"] / 60:.1f} min',
              f'{report["processor_seconds"] / 60:.1f} min of processor time')]
    tiles = ''.join(f'<div class="tile"><dt>{escaped(name)}</dt><dd><strong>{escaped(value)}</strong>'
                    f'<span class="dim">{escaped(note)}</span></dd></div>' for name, value, note in facts)
    content = f'''<header><p class="over">A tiny model on your rows</p><h1>{escaped(Path(report["file"]).name)}</h1>
<dl class="tiles">{tiles}</dl></header>
<main>
{body}
</main>
<footer>swift-citrusv {escaped(__version__)}, <code>citrusv try</code>. The model has 1.4 M parameters and starts from
noise: the scores say that rows and masks can be learned, not how good a real model becomes.</footer>'''
    text = html_document(f'citrusv try: {report["file"]}', content)
    path.write_text(text, encoding='utf-8', errors='backslashreplace', newline='\n')


def _pictures(drawn: Sequence[Drawn]) -> str:
    groups: dict[str, list[Drawn]] = defaultdict(list)
    for mask in drawn:
        groups[str(mask.image)].append(mask)
    names = sorted({mask.name for mask in drawn})
    # From the worst image to the best, evenly spaced.
    order = sorted(groups.values(), key=lambda group: float(np.mean([mask.dice for mask in group])))
    places = np.unique(np.linspace(0, len(order) - 1, min(_MOST_IMAGES, len(order))).round().astype(int))
    cards = ''.join(_card(order[place], names) for place in places)
    legend = ' '.join(f'<span style="color: rgb{colour(index)}">■</span> {escaped(shortened(name, 60))}'
                      for index, name in enumerate(names[:_MOST_NAMES]))  # yapf: disable
    return (f'<p>{legend}</p><p class="dim">Image, truth, prediction; {len(places)} of {len(order)} held-out images, '
            f'the worst first.</p><div class="cards wide">{cards}</div>')


def _card(group: Sequence[Drawn], names: Sequence[str]) -> str:
    image, problem = open_rgb(group[0].image)
    picture = f'<p>{escaped(problem)}</p>'
    if image is not None:
        shown = triple(image, group, names)
        about = 'image, truth and prediction: ' + ', '.join(mask.name for mask in group)
        picture = (f'<img src="{image_data_url(shown)}" width="{shown.width}" height="{shown.height}" '
                   f'alt="{escaped(shortened(about, 200))}">')  # yapf: disable
    lines = [(shortened(f'{mask.name} {mask.dice:.2f}', 80),
              f'{escaped(shortened(mask.question, 200))}<br><span class="dim">{escaped(shortened(mask.answer, 200))}'
              '</span>') for mask in group]  # yapf: disable
    title = Path(group[0].image[-200:]).name if isinstance(group[0].image, str) else 'image'
    mean = float(np.mean([mask.dice for mask in group]))
    return (f'<article class="card"><div class="title"><h4>{escaped(shortened(title, 80))}</h4>'
            f'<span class="score">Dice {mean:.2f}</span></div>{picture}{definition_list(lines)}</article>')


def _names(report: dict[str, Any]) -> str:
    found = report['held_out']['by_name']
    rows = [[escaped(shortened(name, 80)), f'{value["masks"]:,}', _number(value['dice']),
             _number(value['average_mask']), _number(value['ceiling'])]
            for name, value in [*found.items()][:_MOST_NAMES]]  # yapf: disable
    more = len(found) - _MOST_NAMES
    note = f'<p class="dim">{more} more are in report.json.</p>' if more > 0 else ''
    return html_table(
        'Average mask: Dice of the mean training mask of that name. Limit: about the best at 64 x 64 pixels.',
        ['name', 'masks', 'Dice', 'average mask', 'limit'], rows) + note


def _findings(report: dict[str, Any]) -> str:
    found = [f'{item["problem"]} {item["remedy"]}' for item in report['findings']]
    found += [*report['notes'], *report['verdicts']]
    if not found:
        return '<p class="good">Nothing speaks against learning these rows.</p>'
    return f'<ul>{"".join(f"<li>{escaped(text)}</li>" for text in found)}</ul>'


def _stages(report: dict[str, Any]) -> str:
    rows = []
    for name, stage in report['stages'].items():
        first, last = stage['first_losses'], stage['last_losses']
        losses = [f'{first[key]:.2f} to {last[key]:.2f}' if key in first and key in last else ''
                  for key in ('loss_token', 'loss_dice', 'loss_bce')]  # yapf: disable
        rows.append([escaped(name), f'{stage["rows"]:,}', f'{stage["steps"]:,}', f'{stage["seconds"]:.0f} s', *losses])
    return html_table('Each stage is a run of swift sft; its log is beside this page.',
                      ['stage', 'rows', 'steps', 'time', 'token loss', 'Dice loss', 'BCE loss'], rows)


def _number(value: float | None) -> str:
    return '–' if value is None else f'{value:.2f}'
