"""Lab results in the tables and the JSON of answers."""
import csv
import io
import json
import pytest
from support.lab_reports import BLOOD, HEADING, markdown

from swift_citrusv.scoring.documents.lab_counts import count_fields
from swift_citrusv.scoring.documents.lab_result_parser import (UnreadableAnswer, heading_field, lab_results_from_json,
                                                               lab_results_from_tables, lab_results_from_value)
from swift_citrusv.scoring.documents.lab_results import LabResult

# Each has the lab results of BLOOD.
TABLES = [
    markdown(BLOOD),
    markdown(BLOOD, delimiter=False),
    f'```markdown\n{markdown(BLOOD)}\n```',
    f'好的，以下是结果：\n\n{markdown(BLOOD)}\n\n以上。',
    markdown(BLOOD, ('项目', '结果', '参考范围', '单位')),
    markdown(BLOOD, ('检验项目', '检测结果', '参考区间', '单位(Unit)')),
    markdown(BLOOD, ('**Test name**', 'Result', 'Reference range', 'Units')),
    markdown(BLOOD, ('项目/名称', '结果（Result）', '参考范围/参考值', '单位')),
    markdown([(c, a, d, b) for a, b, c, d in BLOOD], ('参考值', '名称', '单位', '结果')),
    markdown([(str(i), *row, '备注') for i, row in enumerate(BLOOD)], ('序号', *HEADING, '方法')),
    '\n'.join(line.strip('| ') for line in markdown(BLOOD).splitlines()),
    markdown(BLOOD).replace('\n', '\n\n'),
    '\n'.join(f'> {line}' for line in markdown(BLOOD).splitlines()),
    f'{markdown(BLOOD[:1])}\n\n第二页\n\n{markdown(BLOOD[1:])}',
    f'{markdown(BLOOD[:1])}\n{markdown(BLOOD[1:])}',
    f'{markdown(BLOOD[:1])}\n\n第二页\n\n' + '\n'.join(markdown(BLOOD[1:]).splitlines()[2:]),
    markdown([BLOOD[0] + BLOOD[1], BLOOD[2] + ('', '', '', '')], HEADING + HEADING),
    markdown([*BLOOD, ('', '', '', ''), ('-', '--', '-', '/')]),
    '<table>' + ''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>' for row in [HEADING, *BLOOD])
    + '</table>',
    '<table><thead><tr><th>项目<th>结果<th>参考值<th>单位</thead>'
    + ''.join('<tr>' + ''.join(f'<td>{cell}' for cell in row) for row in BLOOD),
]  # yapf: disable


def results(text):
    return [(result.entry_name, result.result, result.reference, result.unit)
            for result in lab_results_from_tables(text)[0]]


def test_tables_in_many_forms():
    for i, text in enumerate(TABLES):
        assert sorted(results(text)) == sorted(BLOOD), f'TABLES[{i}]: {text}'


def test_cells_with_line_breaks_and_escapes():
    assert results(markdown([('白细胞<br>(WBC)', r'5.2 \| 5.3', '', '-')])) == [
        ('白细胞<br>(WBC)', '5.2 | 5.3', '', '-')]  # yapf: disable


def test_spans_of_html():
    rows = ('<tr><th rowspan="2">项目</th><th colspan="2">结果</th><th rowspan=2>单位</th></tr><tr><th>值<th>备注'
            '<tr><td>钾</td><td>4.1</td><td>x</td><td rowspan=3>mmol/L</td></tr>'
            '<tr><td>钠</td><td>140</td><td>x</td></tr>'
            '<tr><td>氯</td><td>&lt;100</td><td>x</td></tr>')  # yapf: disable
    found, flags = lab_results_from_tables(f'a<table>{rows}</table>b')
    assert [(result.entry_name, result.result, result.unit) for result in found] == [
        ('钾', '4.1', 'mmol/L'), ('钠', '140', 'mmol/L'), ('氯', '<100', 'mmol/L')]  # yapf: disable
    assert flags == {'html_table'}


def test_flags_of_tables():
    assert lab_results_from_tables(markdown(BLOOD))[1] == set()
    found, flags = lab_results_from_tables(markdown(BLOOD, ('A', 'B', 'C', 'D')))
    assert flags == {'assumed_columns'} and [result.entry_name for result in found] == [row[0] for row in BLOOD]
    found, flags = lab_results_from_tables(markdown(BLOOD)[len(markdown([], HEADING)) + 1:])
    assert flags == {'assumed_columns'} and len(found) == 3
    found, flags = lab_results_from_tables(markdown([('钾', '4.1'), ('钠', '140', '137-147', 'mmol/L', 'x')]))
    assert flags == {'ragged_table'} and [result.unit for result in found] == ['', 'mmol/L']


def test_answers_without_a_table():
    for text in [
            '', '没有表格', '| a |', 'a | b', markdown(BLOOD, ('x', 'y', 'z', 'u'))[:14], '{"result": 5}',
            '<table></table>', markdown([('5.2', '3-5')], ('结果', '参考值')), '<table>' * 50, '|' * 50,
    ]:  # yapf: disable
        with pytest.raises(UnreadableAnswer, match='no table'):
            pytest.fail(f'{text!r}: {lab_results_from_tables(text)}')


def test_headings():
    assert [heading_field(text) for text in ('Entry Name', 'ref. range', '是否异常', '计量单位', '医院', 'Result (x)')] == [
        'entry_name', 'reference', 'abnormality', 'unit', None, 'result']  # yapf: disable
    assert heading_field('参考范围[Reference]') == 'reference' and heading_field('') is None


# Each has the same lab result.
JSON = [
    '[{"entry_name": "WBC", "result": "11.2", "reference": "3.5-9.5", "abnormality": "high"}]',
    '{"项目": "WBC", "结果": 11.2, "参考范围": "3.5-9.5", "异常": "偏高"}',
    '{"WBC": {"result": 11.2, "reference": [3.5, 9.5], "abnormality": "↑"}}',
    '结果：\n```json\n{"results": [{"name": "WBC", "value": "11.2", "ref": "3.5~9.5", "flag": "H"}]}\n```\n完。',
    "{'name': 'WBC', 'result': '11.2', 'reference': '3.5-9.5', 'abnormality': '高',}",
    '[1] {"x": 1} then [{"name": "WBC", "result": "11.2", "reference": {"low": 3.5, "high": 9.5}, "status": "H"},]',
    '{"异常项目": {"WBC": {"结果": "11.2↑", "参考值": "3.5-9.5"}}}',
    '{"data": {"items": [{"项目名称": "WBC", "检验结果": "11.2", "参考区间": "3.5-9.5", "提示": "异常（高）"}]}}',
]  # yapf: disable


def test_json_in_many_forms():
    gold = [LabResult('wbc', '11.2', '3.5-9.5', '', 'high')]
    for text in JSON:
        counted = count_fields(gold, lab_results_from_json(text), ('result', 'reference', 'abnormality'), .6)
        assert sum(counted.right.values()) == 3 and sum(counted.predicted.values()) == 3, text


def test_json_values():
    assert lab_results_from_json('[]') == [] and lab_results_from_value([{'a': 1}]) is None
    found, = lab_results_from_json('{"result": 5.20, "reference": null, "abnormality": false}')
    assert (found.result, found.reference, found.abnormality) == ('5.20', '', 'false')
    assert found.has('abnormality') and not found.has('reference')
    # The flag beside a result replaces a missing label.
    assert LabResult(result='5.2 ↓').cell('abnormality') == 'low' and LabResult(result='5.2 ↓', abnormality='高').cell(
        'abnormality') == '高'  # yapf: disable


def test_answers_without_json():
    for text in [
            '', 'WBC 11.2', '{"a": 1}', '{"result": ', '[1, 2]', '{' * 5000, '[' * 5000 + ']',
            "{'result': __import__('os')}", '{"a": {"b": 1}}'
    ]:
        with pytest.raises(UnreadableAnswer, match='no JSON'):
            pytest.fail(f'{text!r}: {lab_results_from_json(text)}')


def latex(rows, environment='tabular', head=r'\begin{tabular}{|l|c|c|l|}'):
    escaped = [[cell.replace('%', r'\%').replace('&', r'\&').replace('_', r'\_').replace('^', r'\textasciicircum ')
                if cell else cell for cell in row] for row in rows]  # yapf: disable
    lines = ' \\\\ \\hline\n'.join(' & '.join(row) for row in escaped)
    return f'{head}\n\\hline\n{lines} \\\\ \\hline\n\\end{{{environment}}}'


def delimited(rows, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator='\n').writerows(rows)
    return out.getvalue()


def test_other_notations_than_markdown_and_html():
    """LaTeX, delimited text (written by Python's csv), JSON and lines of keys have the same lab results."""
    rows = [HEADING, *BLOOD]
    records = [dict(zip(HEADING, row)) for row in BLOOD]
    by_column = {name: [row[i] for row in BLOOD] for i, name in enumerate(HEADING)}
    keys = '\n\n'.join('\n'.join(f'{key}: {value}' for key, value in record.items()) for record in records)
    found = {
        'comma': delimited(rows, ','),
        'tab': delimited(rows, '\t'),
        'semicolon': delimited(rows, ';'),
        'fenced csv': f'Here it is:\n```csv\n{delimited(rows, ",")}```\nDone, as asked.',
        'csv in prose': f'The report reads\n\n{delimited(rows, ",")}\nNo more',
        'another order': delimited([[row[i] for i in (3, 0, 2, 1)] for row in rows], ','),
        'Chinese heads': delimited([('项目', '结果', '参考范围', '单位'), *BLOOD], ','),
        'tabular': latex(rows),
        'longtable': latex(rows, 'longtable', r'\begin{longtable}{p{3cm} l l l}'),
        'tabularx': latex(rows, 'tabularx', r'\begin{tabularx}{\textwidth}{|X|l|p{2cm}|l|}'),
        'booktabs': latex(rows).replace(r'\hline', r'\midrule'),
        'fenced latex': f'```latex\n\\begin{{table}}[h]\n{latex(rows)}\n\\caption{{Blood}}\n\\end{{table}}\n```',
        'bold heads': latex([[rf'\textbf{{{name}}}' for name in HEADING],
                             *BLOOD]).replace(r'entry\\_name', 'entry_name'),
        'list': json.dumps(records, ensure_ascii=False),
        'fenced json': f'```json\n{json.dumps(records, ensure_ascii=False)}\n```',
        'under a key': json.dumps({'report': {
            'results': records
        }}, ensure_ascii=False),
        'by column': json.dumps(by_column, ensure_ascii=False),
        'columns and rows': json.dumps({
            'columns': HEADING,
            'rows': BLOOD
        }, ensure_ascii=False),
        'list of lists': json.dumps(rows, ensure_ascii=False),
        'keys': keys,
        'listed keys': keys.replace('entry_name:', '- entry_name:'),
    }
    flags = {'comma': 'csv_table', 'tabular': 'latex_table', 'list': 'json_table', 'keys': 'key_value_text'}
    for name, text in found.items():
        assert sorted(results(text)) == sorted(BLOOD), f'{name}: {text}'
        assert name not in flags or lab_results_from_tables(text)[1] == {flags[name]}, name
        # Where JSON is asked for.
        assert len(lab_results_from_json(text)) == len(BLOOD), name
    assert 'json_table' not in lab_results_from_tables(markdown(BLOOD))[1]


def test_cells_of_latex():
    text = (r'\begin{tabular}{llll} Item & Result & Reference & Unit \\ \multirow{2}{*}{WBC} & 5.2 $\uparrow$ & '
            r'$3.5 \sim 9.5$ & $\times 10^{9}/\mathrm{L}$ \\ & 6 & \textless 9 & \textmu mol/L \\ '
            r'\multicolumn{4}{c}{Page 2} \\ Protein & 12\,\% & 10--20 & \% \\[2pt] \end{tabular}')
    found = [(r.entry_name, r.result, r.reference, r.unit) for r in lab_results_from_tables(text)[0]]
    assert found[0] == ('WBC', '5.2 ↑', '3.5 ~9.5', '×10^9/L') and found[1] == ('WBC', '6', '<9', 'μmol/L')
    assert found[-1] == ('Protein', '12 %', '10-20', '%')


def test_text_that_is_no_table():
    for text in ('The result is 5.2, the unit is mmol/L.', 'name, and so on', '{"a": [1, 2]}', r'\begin{tabular}{l} x',
                 'Note: see below', 'a,b,c\n1,2,3', '[[1, 2], [3, 4]]'):
        with pytest.raises(UnreadableAnswer):
            lab_results_from_tables(text)
