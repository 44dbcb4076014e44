"""Groups in the report: their charts and tables, and their order."""
from support.discs import Page, disc_rows, page_of

from swift_citrusv.scoring.html_report.report import report_html
from swift_citrusv.scoring.html_report.report_groups import MAX_CHARTED, MAX_LISTED


def test_no_groups_and_no_intervals(evaluated):
    rows = [{key: value for key, value in row.items() if key != 'organ'} for row in disc_rows(12)]
    page = page_of(evaluated(rows, repeats=0))
    assert 'The rows have no columns that define groups.' in page.text and 'none (--repeats 0)' in page.text
    assert 'interval' not in page.text.partition('both empty')[0]


def test_many_groups(evaluated):
    rows = disc_rows(300, organ=[f'organ {i}' for i in range(200)])
    html = report_html(evaluated(rows), '1')
    assert f'The {MAX_CHARTED} largest of 200 groups' in Page(html).text
    chart, listed = html.split('All scores by organ (groups: 200)')
    assert chart.split('By <bdi>organ')[1].count('class="row boxed"') == MAX_CHARTED
    for i in range(200):
        assert f'<bdi>organ {i}</bdi>' in listed
    names = [f'organ {i}' for i in range(MAX_LISTED + 1)]
    html = report_html(evaluated(disc_rows(MAX_LISTED + 50, organ=names), repeats=2), '1')
    assert f'The {MAX_LISTED} largest of {MAX_LISTED + 1} groups; scores.json has the others.' in Page(html).text


def test_groups_are_sorted_by_score(evaluated):
    rows = disc_rows(60)
    evaluation = evaluated(rows)
    text = page_of(evaluation).text.split('By organ')[1]
    scores = {name: found['dice'].value for name, found in evaluation.groups['organ'].items()}
    places = [text.index(f'{name} n =') for name in sorted(scores, key=lambda name: -scores[name])]
    assert places == sorted(places)
