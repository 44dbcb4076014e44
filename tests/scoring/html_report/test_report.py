"""The report of `citrusv eval`: what it says, what it stands, and how it looks in a real browser."""
import base64
import dataclasses
import io
import json
import math
import numpy as np
import pytest
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from PIL import Image
from typing import Any, ClassVar

from swift_citrusv.scoring.cases import Case, Pair, PredictionError
from swift_citrusv.scoring.evaluate import Evaluation, EvaluationSettings, evaluate
from swift_citrusv.scoring.html_report.charts import ForestRow, bar_chart, forest_plot, histogram, make_axis, nice_ticks
from swift_citrusv.scoring.html_report.markup import escaped, shortened, text_block
from swift_citrusv.scoring.html_report.report import PROBLEM_TEXTS, report_html, write_report
from swift_citrusv.scoring.html_report.report_cases import image_data_url, select_cases
from swift_citrusv.scoring.html_report.report_groups import MAX_CHARTED, MAX_LISTED
from swift_citrusv.scoring.task import CaseCard, CorpusMeasure, mean, ratio

BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason='no browser here: apt-get install chromium')
DESKTOP, PHONE = {'width': 1280, 'height': 900}, {'width': 390, 'height': 844}
RULES = {'both empty': 'dice and iou are 1, "by rule" & by <b>reason</b>', 'no answer': 'scored as 0'}
SIZE = 96


def disc(circle: Any) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.hypot(rows - circle[0], columns - circle[1]) <= circle[2]


@dataclass(frozen=True)
class DiscsTask:
    """Discs `[row, column, radius]` against the disc of an answer.

    Attributes:
        per_case: Whether the scores say how good a case is.
        noisy: Whether pictures are as hard to compress as can be.
    """
    per_case: bool = True
    noisy: bool = False

    NAME: ClassVar[str] = 'discs'
    TITLE: ClassVar[str] = 'Discs'

    @property
    def measures(self) -> tuple[Any, ...]:
        every = (mean('dice'), mean('iou'), ratio('ciou', 'intersection', 'union'), mean('hit'),
                 mean('far', percent=False, higher_is_better=False),
                 CorpusMeasure('count', lambda data, weights: float(weights.sum()), percent=False))  # yapf: disable
        if self.per_case:
            return every
        return tuple(
            dataclasses.replace(measure, per_case=None) if not isinstance(measure, CorpusMeasure) else measure
            for measure in every)

    @property
    def rules(self) -> dict[str, str]:
        return RULES

    def score(self, pair: Pair) -> list[Case]:
        given = (pair.prediction or {}).get('disc', 'nothing')
        if given is None:
            raise PredictionError("'disc' is null")
        cases = []
        for disc_of_row in pair.reference['discs']:
            target = disc(disc_of_row)
            drawn = np.zeros_like(target) if given == 'nothing' else disc(given)
            both, either = int((target & drawn).sum()), int((target | drawn).sum())
            values = {'dice': 2 * both / (target.sum() + drawn.sum()), 'iou': both / either}
            if pair.reference.get('undefined'):
                values = dict.fromkeys(values, math.nan)
            far = math.nan if given == 'nothing' else math.dist(given[:2], disc_of_row[:2])
            values |= {'intersection': both, 'union': either, 'hit': float(both > 0), 'far': far}
            cases.append(Case(values, ('no_answer', ) if given == 'nothing' else (), data=1))
        return cases

    def complete(self, table: Any) -> None:
        pass

    def show(self, pair: Pair, index: int) -> CaseCard:
        if (pair.prediction or {}).get('disc', '') is None:
            raise PredictionError("'disc' is null")
        return CaseCard(pair.reference.get('title', f'{pair.name}, disc {index}'), picture_of(pair, index, self.noisy),
                     (('question', pair.reference.get('question', 'Where?')),
                      ('answer', str((pair.prediction or {}).get('response', '')))))  # yapf: disable


def picture_of(pair: Pair, index: int, noisy: bool = False) -> Image.Image | None:
    if pair.reference.get('blind'):
        return None
    if noisy:
        generator = np.random.default_rng(len(pair.name) + index)
        return Image.fromarray(generator.integers(0, 256, (600, 800, 3), np.uint8))
    canvas = np.full((SIZE, SIZE, 3), 40, np.uint8)
    canvas[disc(pair.reference['discs'][index])] = (0, 158, 115)
    return Image.fromarray(canvas)


def rows_of(number: int, **columns: Any) -> list[dict[str, Any]]:
    generator = np.random.default_rng(number)
    return [{
        'id': f'r{i}',
        'discs': [[*generator.uniform(30, 60, 2).round(1).tolist(), 15.] for _ in range(1 + (i % 10 == 9))],
        'patient': f'p{i // 2}',
        'organ': ('liver', 'left kidney', 'spleen')[i % 3],
        **{name: value[i % len(value)] if isinstance(value, list) else value for name, value in columns.items()}
    } for i in range(number)]  # yapf: disable


def answers_to(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [{
        'id': row['id'],
        'disc': [*(np.array(row['discs'][0][:2]) + generator.normal(0, 6, 2)).round(1).tolist(), 15.],
        'response': 'There.'
    } for row in rows]  # yapf: disable


@pytest.fixture
def evaluated(tmp_path):

    def run(rows: Any, answers: Any = None, task: Any = DiscsTask(), **settings: Any) -> Evaluation:
        folder = tmp_path / f'{len([*tmp_path.iterdir()])}'
        folder.mkdir()
        files = [folder / 'ref.jsonl', folder / 'pred.jsonl']
        for file, lines in zip(files, (rows, answers_to(rows) if answers is None else answers)):
            file.write_text(''.join(f'{json.dumps(line)}\n' for line in lines), encoding='utf-8')
        return evaluate(task, str(files[0]), str(files[1]), EvaluationSettings(**{'repeats': 100, **settings}))

    return run


class Page(HTMLParser):
    """What is in a report: tags with their attributes, and the text of all."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.parts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {name: value or '' for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != [('style', {})]:
            self.parts.append(data)

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return ' '.join(''.join(self.parts).split())


def page_of(evaluation: Evaluation) -> Page:
    return Page(report_html(evaluation, '1.2.3'))


# ---- what it says


def test_everything_is_there(evaluated):
    rows = rows_of(40)
    answers = answers_to(rows)
    del answers[7]
    answers[3]['disc'] = None
    answers[5], answers[20] = answers[20], answers[5]
    answers += [answers[0], {'id': 'nobody', 'disc': [1, 1, 1]}]
    evaluation = evaluated(rows, answers)
    page = page_of(evaluation)
    for text in ('Discs', 'pred.jsonl', 'ref.jsonl', *RULES, *RULES.values(), '1.2.3', 'option noisy', 'seed 0',
                 "joined by 'id'", 'patient: 20', 'Macro means', 'Best cases by dice', 'Worst cases by dice',
                 'Random cases', 'no_answer', 'None are failed.'):
        assert text in page.text, text
    for kind, count in evaluation.problems.counts.items():
        assert not count or f'{kind} {count}' in re.sub(r'(?<=[a-z])(?=\d)', ' ', page.text), kind
        for example in evaluation.problems.examples.get(kind, ()):
            assert example in page.text
    for measure in evaluation.task.measures:
        score = evaluation.scores[measure.name]
        scale = 100 if measure.percent else 1
        assert f'{scale * score.value:.2f}{scale * score.low:.2f} to {scale * score.high:.2f}' in page.text
    for name, scores in evaluation.groups['organ'].items():
        found = scores['dice']
        assert f'{name} n = {found.count}' in page.text
        assert f'{100 * found.value:.2f} [{100 * found.low:.2f} to {100 * found.high:.2f}]' in page.text
        assert f'{100 * evaluation.macros["organ"]["dice"].value:.2f}' in page.text


def test_it_says_when_nothing_is_wrong(evaluated):
    evaluation = evaluated(rows_of(10))
    page = page_of(evaluation)
    assert set(PROBLEM_TEXTS) == set(evaluation.problems.counts)
    assert 'No problems: 10 of 10 rows have one valid prediction' in page.text
    assert 'None are missing, doubled, unknown, malformed, reordered, failed.' in page.text
    assert 'No case has a flag.' in page.text and 'each row has its prediction' in page.text


def test_it_is_whole_and_asks_for_nothing(evaluated):
    html = report_html(evaluated(rows_of(20)), '1')
    page = Page(html)
    policy, = (meta['content'] for meta in page.named('meta') if meta.get('http-equiv'))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not page.named('script') and 'url(' not in html and '@import' not in html
    for name in ('src', 'href'):
        assert all(attributes[name].startswith(('data:', '#')) for _, attributes in page.tags if name in attributes)
    # All that opens is closed, in order.
    open_tags: list[str] = []
    for close, tag, alone in re.findall(r'<(/?)([a-z][a-z0-9]*)(?:[^<>"]|"[^"]*")*?(/?)>', html):
        if close:
            assert open_tags.pop() == tag
        elif not alone and tag not in ('meta', 'link', 'img', 'br'):
            open_tags.append(tag)
    assert not open_tags
    ids = [attributes['id'] for _, attributes in page.tags if 'id' in attributes]
    assert len(ids) == len(set(ids)) and {a['href'][1:] for a in page.named('a')} <= {*ids}
    assert all(image['alt'] for image in page.named('img')) and len(page.named('img')) == 18
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch('h[1-6]', tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) == 1
    assert all(cell['scope'] in ('col', 'row') for cell in page.named('th'))


def test_the_same_input_gives_the_same_bytes(evaluated, tmp_path):
    rows = rows_of(30)
    for name, workers in (('one', 1), ('two', 2)):
        write_report(evaluated(rows, workers=workers), str(tmp_path / name), '1')
    assert (tmp_path / 'one').read_bytes() == (tmp_path / 'two').read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / 'one').read_bytes()
    other = report_html(evaluated(rows, seed=1), '1')
    assert other.encode() != (tmp_path / 'one').read_bytes()


# ---- cases that are shown


@pytest.mark.parametrize('values, higher, best, worst, num_others', [
    ([.1 * i for i in range(20)], True, [19, 18, 17, 16, 15, 14], [0, 1, 2, 3, 4, 5], 6),
    ([.1 * i for i in range(20)], False, [0, 1, 2, 3, 4, 5], [19, 18, 17, 16, 15, 14], 6),
    ([3, 1, 2], True, [0, 2], [1], 0),
    ([math.nan, 1, 2, math.inf], True, [2], [1], 2),
    ([5], True, [], [], 1),
    ([1] * 9, True, [], [], 6),
    ([math.nan] * 3, True, [], [], 3),
    (None, True, [], [], 6),
])
def test_choice_of_cases(values, higher, best, worst, num_others):
    size = 8 if values is None else len(values)
    chosen = select_cases(None if values is None else np.array(values, float), higher, size, seed=3)
    assert [*chosen.best] == best and [*chosen.worst] == worst and len(chosen.others) == num_others
    everything = [*chosen.best, *chosen.worst, *chosen.others]
    assert len(set(everything)) == len(everything) and all(0 <= case < size for case in everything)
    assert select_cases(None if values is None else np.array(values, float), higher, size, seed=3) == chosen


def test_cases_that_are_alike_are_drawn():
    values = np.array([1.] * 100 + [0.] * 3)
    chosen = select_cases(values, True, 103, 0)
    assert set(chosen.worst) >= {100, 101, 102} and [*chosen.best] != [0, 1, 2, 3, 4, 5]
    assert select_cases(values, True, 103, 1).best != chosen.best


def test_pictures_are_those_of_the_cases(evaluated):
    rows = rows_of(30)
    evaluation = evaluated(rows)
    page = page_of(evaluation)
    dice, cases = evaluation.table.columns['dice'], evaluation.table
    order = np.argsort(dice)
    images = page.named('img')
    for image, case in zip(images, [*order[::-1][:6], *order[:6]]):
        content = image['src'].removeprefix('data:image/png;base64,')
        found = np.array(Image.open(io.BytesIO(base64.b64decode(content))))
        row, index = int(cases.rows[case]), int(cases.indices[case])
        expected = picture_of(evaluation.pairs.pair(row), index)
        np.testing.assert_array_equal(found, np.array(expected))
        assert f'ref.jsonl:{row + 1}, disc {index}' in image['alt']
    assert [image['alt'].split()[0] for image in images] == ['best'] * 6 + ['worst'] * 6 + ['random'] * 6


@pytest.mark.parametrize('size', [(1, 1), (64, 48), (3000, 20), (20, 3000), (2000, 1500), (800, 412)])
def test_any_picture_fits(size):
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), np.uint8))
    head, _, content = image_data_url(noise).partition(';base64,')
    found = Image.open(io.BytesIO(base64.b64decode(content)))
    assert len(content) <= 140_000 and head == f'data:image/{str(found.format).lower()}' and max(found.size) <= 800
    # A narrow picture keeps at least a pixel.
    if min(size) > 40:
        assert found.width / found.height == pytest.approx(size[0] / size[1], rel=.02)
    plain = image_data_url(Image.new('L', size, 7))
    assert plain.startswith('data:image/png') and len(plain) < 6000


def test_size_of_the_file(evaluated, tmp_path):
    """Also with pictures of noise, 200 groups, and answers without end."""
    rows = rows_of(250, organ=[f'organ {i}' for i in range(200)])
    answers = [{**answer, 'response': '<&>' * 100_000} for answer in answers_to(rows)]
    write_report(evaluated(rows, answers, DiscsTask(noisy=True)), str(tmp_path / 'report.html'), '1')
    assert 500_000 < (tmp_path / 'report.html').stat().st_size < 3_000_000


def test_malformed_predictions_are_shown_all_the_same(evaluated):
    rows = rows_of(8)
    answers = [{**answer, 'disc': None} for answer in answers_to(rows)]
    page = page_of(evaluated(rows, answers))
    assert "problem'disc' is null" in page.text and 'There is no best and no worst case: all have the same' in page.text


# ---- odd evaluations


def test_no_score_is_defined(evaluated):
    page = page_of(evaluated(rows_of(12, undefined=True)))
    assert 'Not defined for these cases: dice, iou.' in page.text and 'nan' not in page.text.lower()
    assert 'No case has a value of dice, iou.' in page.text and 'Random cases' in page.text
    # The groups are shown by the first score that there is.
    assert re.search(r'By organ.*ciou in %', page.text)


def test_one_case(evaluated):
    page = page_of(evaluated(rows_of(1)))
    assert 'nan' not in page.text.lower()
    assert 'There are no other cases.' in page.text
    assert 'Macro means' not in page.text and len(page.named('img')) == 1


def test_no_groups_and_no_intervals(evaluated):
    rows = [{key: value for key, value in row.items() if key != 'organ'} for row in rows_of(12)]
    page = page_of(evaluated(rows, repeats=0))
    assert 'The rows have no columns that define groups.' in page.text and 'none (--repeats 0)' in page.text
    assert 'interval' not in page.text.partition('both empty')[0]


def test_many_groups(evaluated):
    rows = rows_of(300, organ=[f'organ {i}' for i in range(200)])
    html = report_html(evaluated(rows), '1')
    assert f'The {MAX_CHARTED} largest of 200 groups' in Page(html).text
    chart, listed = html.split('All scores by organ (groups: 200)')
    assert chart.split('By <bdi>organ')[1].count('class="row boxed"') == MAX_CHARTED
    for i in range(200):
        assert f'<bdi>organ {i}</bdi>' in listed
    names = [f'organ {i}' for i in range(MAX_LISTED + 1)]
    html = report_html(evaluated(rows_of(MAX_LISTED + 50, organ=names), repeats=2), '1')
    assert f'The {MAX_LISTED} largest of {MAX_LISTED + 1} groups; scores.json has the others.' in Page(html).text


def test_groups_stand_by_their_score(evaluated):
    rows = rows_of(60)
    evaluation = evaluated(rows)
    text = page_of(evaluation).text.split('By organ')[1]
    scores = {name: found['dice'].value for name, found in evaluation.groups['organ'].items()}
    places = [text.index(f'{name} n =') for name in sorted(scores, key=lambda name: -scores[name])]
    assert places == sorted(places)


def test_without_scores_of_single_cases(evaluated):
    page = page_of(evaluated(rows_of(20), task=DiscsTask(per_case=False)))
    assert 'these are random ones' in page.text and 'Best cases' not in page.text and len(page.named('img')) == 6
    assert 'No score of this evaluation is defined for single cases.' in page.text


def test_rows_without_a_picture(evaluated):
    page = page_of(evaluated(rows_of(9, blind=True)))
    assert not page.named('img') and 'Where?' in page.text


HOSTILE = ('<script>alert(1)</script><img src=x onerror=alert(2)>', 'lone \ud83d surrogate and \0 and \x1b[31m',
           '\u202eright to left', 'مرحبا بالعالم', '所有的肿瘤', '"><svg onload=alert(3)>', "' onclick='alert(4)",
           '</title></style></details></section>', '&lt;b&gt; &amp;')  # yapf: disable


def test_texts_stay_text(evaluated):
    rows = rows_of(18, title=[*HOSTILE], question=[*HOSTILE][::-1], organ=[*HOSTILE], **{'<i>x"': [*HOSTILE]})
    answers = [{**answer, 'response': HOSTILE[i % 9] * (1 + i % 2 * 300)} for i, answer in enumerate(answers_to(rows))]
    answers.append({'id': HOSTILE[0]})
    html = report_html(evaluated(rows, answers, by=('organ', '<i>x"')), '1')
    html.encode('utf-8')
    page = Page(html)
    assert not page.named('script') and not page.named('i') and len(page.named('img')) == 18
    assert not any(name.startswith('on') for _, attributes in page.tags for name in attributes)
    for text in (HOSTILE[0], 'lone \\ud83d surrogate and \\x00 and \\x1b[31m', *HOSTILE[3:]):
        assert text in page.text, text
    # Direction is each text's own.
    assert all(attributes.get('dir') == 'auto' for _, attributes in page.tags
               if attributes.get('class', '').split()[:1] == ['text'])  # yapf: disable


@pytest.mark.parametrize('text, expected', [
    ('a<b>&"\'', 'a&lt;b&gt;&amp;&quot;&#x27;'),
    ('\ud800x\udfff', '\\ud800x\\udfff'),
    ('a\r\nb\rc\nd\te', 'a\nb\nc\nd\te'),
    ('\x00\x7f\x9f\ufffe', '\\x00\\x7f\\x9f\\ufffe'),
    ('é 肝 😀', 'é 肝 😀'),
])
def test_escaped(text, expected):
    assert escaped(text) == expected


def test_long_texts_are_folded():
    for text, is_folded in (('word ' * 50, False), ('word ' * 80, True), ('\n' * 9, True), ('', False)):
        assert ('<details' in text_block(text)) == is_folded
    found = text_block('x' * 1_000_000)
    assert len(found) < 5000 and 'all 1,000,000 characters' in found and '997,000 more characters are cut off' in found
    assert shortened('a  b\nc', 10) == 'a b c' and shortened('abcdef', 4) == 'abc…'
    assert len(shortened('é' * 10**6, 9)) == 9


# ---- charts


@pytest.mark.parametrize('low, high', [(0, 1), (0, .3), (-.2, .7), (0, 97.3), (0, 1e6), (3, 3), (0, 0), (-1e-5, 2e-5),
                                       (0, 271.5), (1e3, 1.001e3)])
def test_ticks(low, high):
    ticks = nice_ticks(low, high)
    steps = np.diff(ticks)
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high * (1 - 1e-9) and 3 <= len(ticks) <= 8
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    mantissa = steps[0] / 10**math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - step) for step in (1, 2, 2.5, 5)) < 1e-6
    assert all(tick == int(tick) for tick in nice_ticks(low, high, whole=True))


def test_axis():
    axis = make_axis([math.nan, 3, math.inf, 100 + 1e-12], 'x', True)
    assert (axis.low, axis.high) == (0, 100) and axis.at(25) == '25%' and axis.at(math.inf) == '100%'
    assert make_axis([], 'x', False).high == 1 and make_axis([-40, 20], 'x', True).low == -50
    assert make_axis([-40, 20], 'x', True).at(-50) == '0%' and axis.width(25, 1000) == '75%'


def test_bars_of_a_histogram_are_the_counts():
    values = np.random.default_rng(0).uniform(0, 100, 200).round(1)
    values[:3] = 0, 100, 50
    found = {}
    axis = make_axis(values, 'x', True)
    html = histogram(values, axis)
    for low, high, count, x, height in re.findall(
            r'<title>([\d.]+) to ([\d.]+): (\d+)</title><rect class="bar" x="([\d.]+)%" y="[\d.]+" width="5%" '
            r'height="([\d.]+)"', html):
        assert float(x) == pytest.approx(float(low)) and float(high) == float(low) + 5
        found[float(low)] = int(count)
        # The tallest bar has its tick above it.
        assert 0 < float(height) <= 150
    slow: dict[float, int] = {}
    for value in values:
        start = min(5. * int(value // 5), 95.)
        slow[start] = slow.get(start, 0) + 1
    assert found == slow and sum(found.values()) == 200
    median, = re.findall(r'class="median" x1="([\d.]+)%"', html)
    assert float(median) == pytest.approx(np.median(values), abs=1e-3)
    few = bar_chart(np.array([0, 100, 100, 100.]), axis)
    assert '1 (25.0 %)' in few and '3 (75.0 %)' in few and 'width="75%"' in few


def test_marks_of_a_forest_plot():
    axis = make_axis([0], 'x', True)
    cases = np.arange(101.)
    html = forest_plot([ForestRow('a', 'n = 101', 50, 40, 60, '50', cases), ForestRow('b', '', math.nan, math.nan, math.nan, '–'),
                   ForestRow('c', '', 10, math.nan, math.nan, '10', np.array([1., 2.]))], axis)  # yapf: disable
    assert [float(x) for x in re.findall(r'class="value" cx="([\d.]+)%"', html)] == [50, 10]
    assert re.findall(r'class="interval" x1="([\d.]+)%" x2="([\d.]+)%"', html)[0] == ('40', '60')
    assert re.findall(r'class="whisker" x1="([\d.]+)%" x2="([\d.]+)%"', html) == [('5', '95')]
    assert re.findall(r'class="box" x="([\d.]+)%" y="-15" width="([\d.]+)%"', html) == [('25', '50')]
    assert re.findall(r'class="case" cx="([\d.]+)%"', html) == ['1', '2']


# ---- in a browser


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        # CI is root in a container.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path) -> Iterator[Any]:
    """Opens a report; in the end nothing was asked for, and nothing went wrong."""
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


# Texts of drawings that lie over each other, and what sticks out of the page.
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
# Contrast of text with what is behind it, the lowest of the page (WCAG 2.2).
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


@in_browser
@pytest.mark.parametrize('viewport, scheme', [(DESKTOP, 'light'), (PHONE, 'dark'), (PHONE, 'light'), (DESKTOP, 'dark'),
                                              ({'width': 820, 'height': 1100}, 'light')])  # yapf: disable
def test_in_a_browser(evaluated, opened, tmp_path, viewport, scheme):
    rows = rows_of(60, modality=['CT', 'MR'], question=['Where? ' * 100, 'Where?'])
    page = opened(evaluated(rows, answers_to(rows)[2:]), viewport, scheme)
    page.screenshot(path=tmp_path / 'report.png', full_page=True)
    assert page.title() == 'Discs: pred.jsonl'
    sizes = page.evaluate('[...document.images].map(image => image.complete && image.naturalWidth)')
    assert sizes == [SIZE] * 18
    for unfolded in (False, True):
        # The second time with everything unfolded, by keyboard.
        for summary in page.locator('summary').all() if unfolded else ():
            summary.press('Enter')
        assert page.evaluate('document.documentElement.scrollWidth') == viewport['width']
        assert page.evaluate(OUTSIDE) == [] and page.evaluate(OVERLAPS) == []
        assert page.evaluate(CONTRAST) >= 4.5
    assert page.locator('details').count() == page.locator('details[open]').count() > 5
    assert page.locator('details.fold table').first.is_visible()
    # No type is too small to read, and drawings are not squeezed.
    small = '[...document.querySelectorAll("svg text, p, dd, td")].map(e => parseFloat(getComputedStyle(e).fontSize))'
    assert min(page.evaluate(small)) >= 12
    assert min(page.evaluate('[...document.querySelectorAll(".track")].map(e => e.clientWidth)')) > 100
    picture = np.array(Image.open(tmp_path / 'report.png').convert('L'), float)
    assert (picture[:, 0].mean() > 250) if scheme == 'light' else (picture[:, 0].mean() < 40)


@in_browser
def test_marks_stand_where_the_numbers_are(evaluated, opened):
    """On the screen: the dot of a score over the axis of its chart."""
    evaluation = evaluated(rows_of(60))
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
    rows = rows_of(40, title=[*HOSTILE], organ=['x' * 300, '长' * 90, 'a b ' * 50], question=['y' * 5000])
    for evaluation in (evaluated(rows), evaluated(rows_of(3, undefined=True)), evaluated(rows_of(1)),
                       evaluated(rows_of(120, organ=[f'organ with a long name {i}' for i in range(60)]))):
        page = opened(evaluation, PHONE)
        assert page.evaluate('document.documentElement.scrollWidth') == 390
        assert page.evaluate(OUTSIDE) == [] and page.evaluate(OVERLAPS) == []
        assert page.locator('section').count() == 7


@in_browser
def test_printed(evaluated, opened):
    rows = rows_of(40, question=['word ' * 200])
    page = opened(evaluated(rows), scheme='dark')
    page.emulate_media(media='print', color_scheme='dark')
    assert page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
    assert page.locator('nav').is_hidden()
    # What is folded is printed, too.
    assert page.locator('details.fold table').first.is_visible()
    assert page.pdf(format='A4').startswith(b'%PDF')
