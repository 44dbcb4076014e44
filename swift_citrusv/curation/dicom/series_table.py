"""The table of series: one line for each, with its measures and its verdict."""
import numpy as np
from collections.abc import Mapping, Sequence
from typing import Any

from ...scoring.html_report.markup import escaped, shortened
from ..page import small_picture
from .facts import times
from .series import Series

# Where an axis points, from right, front and feet: DICOM's coordinates.
_LETTERS = (('R', 'L'), ('A', 'P'), ('I', 'S'))
_PLANES = ('sagittal', 'coronal', 'axial')
# Series and pictures of the report.
_MAX_LINES, _MAX_PICTURES, _SIDE = 300, 60, 160


def line_of(key: str, series: Series, verdict: str) -> dict[str, Any]:
    """The line of a series.

    Args:
        key: What its slices have in common.
        series: The series, checked.
        verdict: What becomes of the slices that count.
    """
    order = [series.slices[number] for number in series.order]
    shown = order[len(order) // 2] if order else series.slices[0]
    extent = extent_of(series)
    directions = np.array(shown.directions)
    sizes = sorted({(item.columns, item.rows) for item in order})
    return {
        'series': key,
        'file': shown.name,
        'kind': shown.kind,
        'modality': shown.modality,
        'description': shown.description,
        'study': shown.study,
        'patient': shown.patient,
        'images': len(series.slices),
        'slices': len(order) // series.volumes,
        'volumes': series.volumes,
        'size': ', '.join(f'{width} x {height}' for width, height in sizes[:3]),
        'spacing_mm': times([*shown.spacing, *([series.step] if series.step is not None else [])]),
        'extent_mm': times(extent),
        'plane': _plane(directions) if shown.is_volume and len(directions) == 6 else '',
        'axes': _axes(directions) if len(directions) == 6 else '',
        'missing': series.gaps,
        'duplicates': series.duplicates,
        'verdict': verdict,
        'rules': ', '.join(dict.fromkeys(fault.rule for fault in series.faults)),
        'why': '; '.join(f'{fault.rule}: {fault.detail}' for fault in list(dict.fromkeys(series.faults))[:4]),
    }  # yapf: disable


def extent_of(series: Series) -> list[float]:
    """The millimetres from right to left, from front to back and from feet to head; [] if they are unknown.

    Half a voxel beyond the outer centres on each side.
    """
    corners = []
    for item in (series.slices[number] for number in series.order):
        if not (item.position and item.directions and item.spacing):
            return []
        row, column = (np.array(item.directions[:3]) * item.spacing[1], np.array(item.directions[3:]) * item.spacing[0])
        half = np.cross(item.directions[:3], item.directions[3:]) * (series.step or 0) / 2
        for across in (-.5, item.columns - .5):
            for down in (-.5, item.rows - .5):
                corners += [np.array(item.position) + across * row + down * column + sign * half for sign in (-1, 1)]
    return [float(value) for value in np.ptp(np.array(corners), axis=0)] if corners else []


def _plane(directions: np.ndarray) -> str:
    return _PLANES[int(np.argmax(np.abs(np.cross(directions[:3], directions[3:]))))]


def _axes(directions: np.ndarray) -> str:
    """Where rows, columns and slices point, e.g. 'LPS'."""
    letters = []
    for axis in (directions[:3], directions[3:], np.cross(directions[:3], directions[3:])):
        world = int(np.argmax(np.abs(axis)))
        letters.append(_LETTERS[world][int(axis[world] > 0)])
    return ''.join(letters)


def html_of(lines: Sequence[Mapping[str, Any]], paths: Mapping[str, str]) -> str:
    """The series of a report, each with a picture of its middle slice; the broken ones first.

    Args:
        lines: The lines of all series.
        paths: The paths of the files, by their sources.
    """
    order = sorted(lines, key=lambda line: (line['verdict'] == 'kept', line['series']))
    cards = []
    for number, line in enumerate(order[:_MAX_LINES]):
        picture = _picture(line['file'], paths) if number < _MAX_PICTURES else ''
        counts = [f'{line["images"]} images', f'{line["missing"]} missing' if line['missing'] else '',
                  f'{line["duplicates"]} copies' if line['duplicates'] else '',
                  f'{line["volumes"]} volumes' if line['volumes'] > 1 else '']  # yapf: disable
        measures = [line['modality'] or line['kind'], f'{line["plane"]} {line["axes"]}'.strip(),
                    f'{line["size"]} pixels' if line['size'] else '',
                    f'{line["spacing_mm"]} mm' if line['spacing_mm'] else '',
                    f'{line["extent_mm"]} mm from right to left, front to back, feet to head' if line['extent_mm'] else
                    '']  # yapf: disable
        name = shortened(line['description'] or line['file'], 60)
        notes = [f'{line["verdict"]}: {shortened(line["why"], 240)}' if line['why'] else line['verdict'],
                 '; '.join(filter(None, counts)), '; '.join(filter(None, measures))]  # yapf: disable
        file = f' <span class="dim">{escaped(shortened(line["file"], 70))}</span>' if name != line['file'] else ''
        words = ''.join(f'<p>{escaped(note)}</p>' for note in notes if note)
        cards.append(f'<article class="card"><h4>{escaped(name)}{file}</h4>{picture}{words}</article>')
    note = f'{_MAX_LINES} of {len(order)} series; ' if len(order) > _MAX_LINES else ''
    return f'<p>{note}all of them, with their measures, are in series.csv.</p><div class="cards">{"".join(cards)}</div>'


def _picture(name: str, paths: Mapping[str, str]) -> str:
    source, sign, fragment = name.partition('#')
    if source not in paths:
        # A file whose own name has a '#'.
        source, sign, fragment = name, '', ''
    return small_picture(f'{paths[source]}{sign}{fragment}', _SIDE)
