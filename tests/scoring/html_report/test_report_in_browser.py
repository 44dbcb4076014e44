"""How the report looks in a real browser: on a desktop, a phone, in dark mode, and printed."""
import numpy as np
import pytest
from collections.abc import Iterator
from PIL import Image
from support.discs import HOSTILE, SIZE, disc_answers, disc_rows, evaluate_discs
from support.page import in_browser
from typing import Any

from swift_citrusv.scoring.evaluate import Evaluation
from swift_citrusv.scoring.html_report.report import write_report

DESKTOP, PHONE = {'width': 1280, 'height': 900}, {'width': 390, 'height': 844}


@pytest.fixture
def opened(browser, tmp_path) -> Iterator[Any]:
    """Opens a report; finally checks that it made no request and raised no error."""
    contexts, asked, errors = [], [], []

    def new(evaluation: Evaluation, viewport: Any = DESKTOP, scheme: str = 'light') -> Any:
        write_report(evaluation, str(tmp_path / 'report.html'), '1.2.3')
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on('request', lambda request: asked.append(request.url))
        page.on('console', lambda message: errors.append(message.text))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('dialog', lambda dialog: errors.append(dialog.message))
        page.goto(f'file://{tmp_path}/report.html')
        return page

    yield new
    for context in contexts:
        context.close()
    assert not errors
    assert {url.partition(':')[0] for url in asked} <= {'file', 'data'}
    assert {url for url in asked if url.startswith('file:')} == {f'file://{tmp_path}/report.html'}


# Overlapping texts in charts, and elements outside of the page.
OVERLAPS = '''() => {
  const found = [];
  for (const drawing of document.querySelectorAll('.below, .marks')) {
    const boxes = [...drawing.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([two, b]) => {
      if (a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2) found.push([one, two]);
    }));
  }
  return found;
}'''
OUTSIDE = '''() => [...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  return !element.closest('.scroll *') && box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map(element => element.outerHTML.slice(0, 120))'''
# The lowest contrast of text with its background on the page (WCAG 2.2).
CONTRAST = '''() => {
  const light = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
      .map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
    return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2];
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return Math.min(...[...document.querySelectorAll('body *')]
    .filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .filter(element => element.tagName !== 'title')
    .map(element => {
      const style = getComputedStyle(element);
      const both = [light(element.closest('svg') ? style.fill : style.color), light(behind(element))].sort();
      return (Math.max(...both) + .05) / (Math.min(...both) + .05);
    }));
}'''


@pytest.fixture(scope='module')
def evaluation(tmp_path_factory) -> Evaluation:
    rows = disc_rows(60, modality=['CT', 'MR'], question=['Where? ' * 100, 'Where?'])
    return evaluate_discs(tmp_path_factory.mktemp('discs'), rows, disc_answers(rows)[2:])


@in_browser
@pytest.mark.parametrize('viewport, scheme', [(DESKTOP, 'light'), (PHONE, 'dark'), (PHONE, 'light'), (DESKTOP, 'dark'),
                                              ({'width': 820, 'height': 1100}, 'light')])  # yapf: disable
def test_in_a_browser(evaluation, opened, tmp_path, viewport, scheme):
    page = opened(evaluation, viewport, scheme)
    page.screenshot(path=tmp_path / 'report.png', full_page=True)
    assert page.title() == 'Discs: pred.jsonl'
    sizes = page.evaluate('[...document.images].map(image => image.complete && image.naturalWidth)')
    assert sizes == [SIZE] * 18
    for expanded in (False, True):
        # The second time everything is expanded, by keyboard.
        for summary in page.locator('summary').all() if expanded else ():
            summary.press('Enter')
        assert page.evaluate('document.documentElement.scrollWidth') == viewport['width']
        assert page.evaluate(OUTSIDE) == [] and page.evaluate(OVERLAPS) == []
        assert page.evaluate(CONTRAST) >= 4.5
    assert page.locator('details').count() == page.locator('details[open]').count() > 5
    assert page.locator('details.fold table').first.is_visible()
    # Type is large enough to read, and charts are not squeezed.
    small = '[...document.querySelectorAll("svg text, p, dd, td")].map(e => parseFloat(getComputedStyle(e).fontSize))'
    assert min(page.evaluate(small)) >= 12
    assert min(page.evaluate('[...document.querySelectorAll(".track")].map(e => e.clientWidth)')) > 100
    picture = np.array(Image.open(tmp_path / 'report.png').convert('L'), float)
    assert (picture[:, 0].mean() > 250) if scheme == 'light' else (picture[:, 0].mean() < 40)


@in_browser
def test_dots_are_at_their_scores(evaluated, opened):
    """The position of a dot on the screen is its score on the axis."""
    evaluation = evaluated(disc_rows(60))
    page = opened(evaluation)
    found = page.evaluate('''() => [...document.querySelectorAll('.forest:not(.bars)')].map(forest => {
      const middle = element => { const box = element.getBoundingClientRect(); return box.left + box.width / 2; };
      return [[...forest.querySelectorAll('.below text:not(.label)')].map(t => [parseFloat(t.textContent), middle(t)]),
              [...forest.querySelectorAll('.row:not(.last)')].map(row => [row.querySelector('.name bdi').textContent,
                row.querySelector('.value') && middle(row.querySelector('.value'))])];
    })''')
    ticks, rows = found[0]
    (low, start), (high, end) = ticks[0], ticks[-1]
    assert {name for name, _ in rows} == {'dice', 'iou', 'ciou', 'hit'}
    for name, place in rows:
        value = low + (place - start) / (end - start) * (high - low)
        assert value == pytest.approx(100 * evaluation.scores[name].value, abs=.2)
    assert len(found) == 4  # percent, far, count, organ


@in_browser
def test_odd_reports_in_a_browser(evaluated, opened):
    rows = disc_rows(40, title=[*HOSTILE], organ=['x' * 300, '长' * 90, 'a b ' * 50], question=['y' * 5000])
    for evaluation in (evaluated(rows), evaluated(disc_rows(3, undefined=True)), evaluated(disc_rows(1)),
                       evaluated(disc_rows(120, organ=[f'organ with a long name {i}' for i in range(60)]))):
        page = opened(evaluation, PHONE)
        assert page.evaluate('document.documentElement.scrollWidth') == 390
        assert page.evaluate(OUTSIDE) == [] and page.evaluate(OVERLAPS) == []
        assert page.locator('section').count() == 7


@in_browser
def test_printed(evaluated, opened):
    rows = disc_rows(40, question=['word ' * 200])
    page = opened(evaluated(rows), scheme='dark')
    page.emulate_media(media='print', color_scheme='dark')
    assert page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
    assert page.locator('nav').is_hidden()
    # Collapsed content is printed, too.
    assert page.locator('details.fold table').first.is_visible()
    assert page.pdf(format='A4').startswith(b'%PDF')
