"""The report of `citrusv eval`: its content, its size, odd evaluations and hostile texts."""
import numpy as np
import re
from support.discs import HOSTILE, RULES, DiscsTask, Page, disc_answers, disc_rows, page_of

from swift_citrusv.scoring.html_report.report import PROBLEM_TEXTS, report_html, write_report


def test_everything_is_there(evaluated):
    rows = disc_rows(40)
    answers = disc_answers(rows)
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


def test_no_problems(evaluated):
    evaluation = evaluated(disc_rows(10))
    page = page_of(evaluation)
    assert set(PROBLEM_TEXTS) == set(evaluation.problems.counts)
    assert 'No problems: 10 of 10 rows have one valid prediction' in page.text
    assert 'None are missing, doubled, unknown, malformed, reordered, failed.' in page.text
    assert 'No case has a flag.' in page.text and 'each row has its prediction' in page.text


def test_self_contained_and_valid(evaluated):
    html = report_html(evaluated(disc_rows(20)), '1')
    page = Page(html)
    policy, = (meta['content'] for meta in page.named('meta') if meta.get('http-equiv'))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not page.named('script') and 'url(' not in html and '@import' not in html
    for name in ('src', 'href'):
        assert all(attributes[name].startswith(('data:', '#')) for _, attributes in page.tags if name in attributes)
    # Tags are closed in order.
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
    rows = disc_rows(30)
    for name, workers in (('one', 1), ('two', 2)):
        write_report(evaluated(rows, workers=workers), str(tmp_path / name), '1')
    assert (tmp_path / 'one').read_bytes() == (tmp_path / 'two').read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / 'one').read_bytes()
    other = report_html(evaluated(rows, seed=1), '1')
    assert other.encode() != (tmp_path / 'one').read_bytes()


def test_size_of_the_file(evaluated, tmp_path):
    """Also with pictures of noise, 200 groups, and very long answers."""
    rows = disc_rows(250, organ=[f'organ {i}' for i in range(200)])
    answers = [{**answer, 'response': '<&>' * 20_000} for answer in disc_answers(rows)]
    write_report(evaluated(rows, answers, DiscsTask(noisy=True)), str(tmp_path / 'report.html'), '1')
    assert 500_000 < (tmp_path / 'report.html').stat().st_size < 3_000_000


def test_malformed_predictions_are_shown(evaluated):
    rows = disc_rows(8)
    answers = [{**answer, 'disc': None} for answer in disc_answers(rows)]
    page = page_of(evaluated(rows, answers))
    assert "problem'disc' is null" in page.text and 'There is no best and no worst case: all have the same' in page.text


def test_no_score_is_defined(evaluated):
    page = page_of(evaluated(disc_rows(12, undefined=True)))
    assert 'Not defined for these cases: dice, iou.' in page.text and 'nan' not in page.text.lower()
    assert 'No case has a value of dice, iou.' in page.text and 'Random cases' in page.text
    # Groups show the first score that is defined.
    assert re.search(r'By organ.*ciou in %', page.text)


def test_one_case(evaluated):
    page = page_of(evaluated(disc_rows(1)))
    assert 'nan' not in page.text.lower()
    assert 'There are no other cases.' in page.text
    assert 'Macro means' not in page.text and len(page.named('img')) == 1


def test_without_scores_of_single_cases(evaluated):
    page = page_of(evaluated(disc_rows(20), task=DiscsTask(per_case=False)))
    assert 'these are random ones' in page.text and 'Best cases' not in page.text and len(page.named('img')) == 6
    assert 'No score of this evaluation is defined for single cases.' in page.text


def test_rows_without_a_picture(evaluated):
    page = page_of(evaluated(disc_rows(9, blind=True)))
    assert not page.named('img') and 'Where?' in page.text


def test_texts_stay_text(evaluated):
    rows = disc_rows(18, title=[*HOSTILE], question=[*HOSTILE][::-1], organ=[*HOSTILE], **{'<i>x"': [*HOSTILE]})
    answers = [{
        **answer, 'response': HOSTILE[i % 9] * (1 + i % 2 * 300)
    } for i, answer in enumerate(disc_answers(rows))]
    answers.append({'id': HOSTILE[0]})
    html = report_html(evaluated(rows, answers, by=('organ', '<i>x"')), '1')
    html.encode('utf-8')
    page = Page(html)
    assert not page.named('script') and not page.named('i') and len(page.named('img')) == 18
    assert not any(name.startswith('on') for _, attributes in page.tags for name in attributes)
    for text in (HOSTILE[0], 'lone \\ud83d surrogate and \\x00 and \\x1b[31m', *HOSTILE[3:]):
        assert text in page.text, text
    # Each text has its own direction.
    assert all(attributes.get('dir') == 'auto' for _, attributes in page.tags
               if attributes.get('class', '').split()[:1] == ['text'])  # yapf: disable
