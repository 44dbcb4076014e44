"""Scores of documents with a judge: which cells it is asked about, and its verdicts in the sums."""
import argparse
import json
import numpy as np
import pytest
from support.lab_reports import BLOOD, markdown, pair
from support.lab_reports import question_content as content
from support.measures import scores_of, scores_of_columns
from support.serving import answering

from swift_citrusv.cli.eval import documents as _cli_eval_documents
from swift_citrusv.errors import RowError
from swift_citrusv.scoring.documents.documents import DocumentsTask
from swift_citrusv.scoring.table import CaseTable


def same_in_any_language(body, number):
    """A judge with a few synonyms."""
    meanings = {'ALT': '丙氨酸氨基转移酶', 'K': '钾', '毫摩': 'mmol/L', '十一点二': '11.2'}
    asked = content(body)
    meant = meanings.get(asked['answer'], asked['answer'])
    return 200, 'YES' if meant == asked['reference'].rstrip(' ↑') else 'NO'


def judged(task, pairs):
    """The table after the judge, and the scores."""
    table = CaseTable()
    for one in pairs:
        table.add_row(one.name, one.name, {}, task.score(one))
    table.close()
    task.complete(table)
    return table, scores_of_columns(task, table.columns, len(table))


GOLD = (('丙氨酸氨基转移酶', '35', '9-50', 'U/L'), ('钾', '4.1', '3.5-5.1', 'mmol/L'), ('甘油三酯', '1.2', '0-1.7', 'mmol/L'),
        BLOOD[0])  # yapf: disable
# Synonyms for the judge; a unit in other words; a wrong number; a misread name; a value in words.
SAID = (('ALT', '35', '9-50', 'U/L'), ('K', '4.1', '3.5-5.1', '毫摩'), ('甘油三脂', '1.3', '0-1.7', 'mmol/L'),
        ('白细胞计数', '十一点二', '3.5-9.5', '10^9/L'))  # yapf: disable


def test_parsing_with_a_judge(tmp_path):
    recording = str(tmp_path / 'recording.jsonl')
    pairs = [pair(markdown(SAID), markdown(GOLD), 'r:1'), pair(markdown(BLOOD), markdown(BLOOD), 'r:2'),
             pair(None, markdown(BLOOD), 'r:3')]  # yapf: disable
    rules = DocumentsTask('parsing')
    table, alone = judged(rules, pairs)
    # Rules: of 甘油三脂 reference and unit, of 白细胞计数 all but the result.
    assert table.columns['tp'].tolist() == [5, 12, 0] and table.flag_counts() == {'not_judged': 1, 'no_answer': 1}
    with answering(same_in_any_language) as (url, seen):
        task = DocumentsTask('parsing', judge=url, judge_model='m', judge_record=recording)
        table, found = judged(task, pairs)
    # ALT: 4 right. K: name, result, reference, and in a second round its unit. 甘油三脂 and its 1.3 stay wrong. 11.2.
    assert table.columns['tp'].tolist() == [5 + 4 + 4 + 1, 12, 0]
    assert {name: table.columns[f'tp_{name}'][0] for name in ('entry_name', 'result', 'reference', 'unit')} == {
        'entry_name': 3, 'result': 3, 'reference': 4, 'unit': 4}  # yapf: disable
    assert table.flag_counts() == {'judged': 1, 'no_answer': 1}
    asked = [(content(body)['reference'], content(body)['answer']) for body in seen]
    assert sorted(asked[:-1]) == sorted([('丙氨酸氨基转移酶', 'ALT'), ('钾', 'K'), ('甘油三酯', '甘油三脂'), ('1.2', '1.3'),
                                         ('11.2 ↑', '十一点二')]) and asked[-1] == ('mmol/L', '毫摩')  # yapf: disable
    assert found['f1'] == pytest.approx(2 * 26 / (28 + 40)) and found['precision'] == pytest.approx(26 / 28)
    assert found['macro_f1'] == pytest.approx((14 / 16 + 1 + 0) / 3)
    assert found['f1_by_rules'] == alone['f1'] == pytest.approx(2 * 17 / (28 + 40)) and 'f1_by_rules' not in rules.rules
    verdicts = [ask['verdict'] for ask in table.data[0]]
    assert sorted(verdicts) == [False, False, True, True, True]
    assert [then['verdict'] for ask in table.data[0] for then in ask.get('then', ())] == [True]
    # For people.
    lines = dict(task.show(pairs[0], 0).lines)['judge']
    assert "unit '毫摩' for 'mmol/L': YES" in lines and "entry_name '甘油三脂' for '甘油三酯': NO" in lines
    # Replayed without a server: the same to the last digit, and other pages, answered alike, need no question either.
    replayed = DocumentsTask('parsing', judge_model='m', judge_replay=recording)
    again, same = judged(replayed, pairs[::-1])
    assert same == found and again.columns['tp'].tolist() == [0, 12, 14]
    assert replayed == DocumentsTask(
        'parsing', judge_model='m', judge='http://h:1') and 'm at temp' in replayed.rules['judge']


def test_verdicts_that_say_nothing():
    gold = markdown([('钾', '4.1', '3.5-5.1', 'mmol/L'), ('钠', '140', '136-145', 'mmol/L')])
    said = markdown([('钾', '4.2', '3.5-5.1', 'mmol/L'), ('钠', '141', '136-145', '毫摩')])

    def answer(body, number):
        reference = content(body)['reference']
        return {'4.1': (200, 'It depends.'), '140': (422, {'error': 'no'}), 'mmol/L': (200, 'YES')}[reference]

    with answering(answer) as (url, _):
        table, found = judged(DocumentsTask('parsing', judge=url, judge_model='m'), [pair(said, gold)])
    # The rules stand for what has no verdict.
    assert table.columns['tp'].tolist() == [6] and table.columns['tp_by_rules'].tolist() == [5]
    assert table.flag_counts() == {'judged': 1, 'judge_unparsable': 1, 'judge_refused': 1}


def test_questions_with_a_judge():
    simple = [pair('白细胞是11.2', '11.2', 'r:1'), pair('11.3', '11.2', 'r:2'), pair('11.20', '11.2', 'r:3'),
              pair(None, '11.2', 'r:4')]  # yapf: disable

    def answer(body, number):
        asked = content(body)
        assert asked['question'] == '读一读。'
        return 200, 'YES' if asked['reference'] in asked['answer'] else 'NO'

    with answering(answer) as (url, seen):
        table, found = judged(DocumentsTask('simple_qa', judge=url, judge_model='m'), simple)
        assert table.columns['correct'].tolist() == [1, 0, 1, 0] and len(seen) == 2
        assert found == {'accuracy': .5, 'accuracy_by_rules': .25}
    gold = {'name': '丙氨酸氨基转移酶', 'result': '11.2', 'reference': '9-50', 'abnormality': '正常'}
    said = json.dumps({'name': 'ALT', 'result': '十一点二', 'reference': '9~50', 'abnormality': '偏高'})
    with answering(same_in_any_language) as (url, seen):
        # One entry on either side, but with two names.
        table, found = judged(DocumentsTask('complex_qa', judge=url, judge_model='m'), [pair(said, gold)])
        assert table.columns['tp'].tolist() == [2] and table.columns['tp_by_rules'].tolist() == [0] and len(seen) == 3
        assert table.columns['document_f1'].tolist() == [pytest.approx(2 / 3)]


def test_documents_of_any_kind():
    """GMD: a score from 0 to 1 of each answer, and their mean."""
    pairs = [pair('患者发热三天', '发热3天，咳嗽', 'r:1'), pair('发热3天， 咳嗽', '发热3天，咳嗽。', 'r:2'), pair(None, 'x', 'r:3'),
             pair('y', 'x', 'r:4'), pair('z', 'x', 'r:5')]  # yapf: disable
    replies = {'患者发热三天': '0.5', 'y': '0', 'z': 'eight'}
    with answering(lambda body, number: (200, replies[content(body)['answer']])) as (url, seen):
        task = DocumentsTask('gmd', judge=url, judge_model='m')
        table, found = judged(task, pairs)
        # Neither the same text nor a missing one is put to it; a reply that is no number leaves the mean.
        assert len(seen) == 3 and table.columns['score'][:4].tolist() == [.5, 1, 0, 0] and np.isnan(
            table.columns['score'][4])
        assert found == {
            'score': 1.5 / 4
        } and table.flag_counts() == {
            'judged': 3,
            'no_answer': 1,
            'judge_unparsable': 1
        }
        assert dict(task.show(pairs[0], 0).lines)['judge'] == '0.5'
        mixed = DocumentsTask(judge=url, judge_model='m')
        rows = [pair('y', 'x', 'r:1', subtask='gmd_simple_qa'), pair('患者发热三天', '发热', 'r:2', subtask='GMD complex QA'),
                pair('5', '5.0', 'r:3', subtask='simple_qa')]  # yapf: disable
        table, found = judged(mixed, rows)
        assert found['gmd_simple_qa_score'] == 0 and found['gmd_complex_qa_score'] == .5 and found['average'] == .5
        assert np.isnan(found['gmd_score']) and found['simple_qa_accuracy'] == 1
    with pytest.raises(RowError, match='only a judge can score.*--judge-replay'):
        DocumentsTask().score(rows[0])


def test_perfect_answers_need_no_judge():
    task = DocumentsTask('parsing', judge='http://127.0.0.1:9', judge_model='m')
    table, found = judged(task, [pair(markdown(BLOOD), markdown(BLOOD))])
    assert all(value == 1 for value in found.values()) and not table.flag_counts()


def test_sums_follow_from_columns():
    with answering(same_in_any_language) as (url, _):
        task = DocumentsTask('parsing', judge=url, judge_model='m')
        table, found = judged(task, [pair(markdown(SAID), markdown(GOLD), f'r:{i}') for i in range(4)])
    fields = ('entry_name', 'result', 'reference', 'unit')
    assert np.array_equal(sum(table.columns[f'tp_{name}'] for name in fields), table.columns['tp'])
    # The same page four times: each question once, and every score that of one page.
    alone = scores_of(DocumentsTask('parsing'), DocumentsTask('parsing').score(pair(markdown(SAID), markdown(GOLD))))
    assert found['f1'] == 14 / 16 and found['f1_by_rules'] == alone['f1']


def test_arguments(tmp_path, monkeypatch):
    parser = argparse.ArgumentParser()
    _cli_eval_documents.add_arguments(parser)
    task = DocumentsTask(**_cli_eval_documents.options(parser.parse_args([])))
    assert task == DocumentsTask()
    recording = tmp_path / 'recording.jsonl'
    arguments = ['--judge', 'http://h:1', '--judge-model', 'm', '--judge_api_key_env', 'JUDGE_KEY', '--subtask', 'gmd',
                 '--judge-replay', str(recording), '--judge-concurrency', '2']  # yapf: disable
    with pytest.raises(ValueError, match='JUDGE_KEY: the environment has no such variable'):
        _cli_eval_documents.options(parser.parse_args(arguments))
    monkeypatch.setenv('JUDGE_KEY', 'secret')
    with pytest.raises(FileNotFoundError, match='no such file'):
        _cli_eval_documents.options(parser.parse_args(arguments))
    recording.write_text('')
    task = DocumentsTask(**_cli_eval_documents.options(parser.parse_args(arguments)))
    assert task.judge_concurrency == 2 and 'secret' not in str(task)
    with answering(lambda body, number: (200, '1')) as (url, seen):
        task = DocumentsTask('gmd', judge=url, judge_model='m', judge_api_key_env='JUDGE_KEY')
        judged(task, [pair('a', 'b')])
        assert seen[0]['authorization'] == 'Bearer secret'
