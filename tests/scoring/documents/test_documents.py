"""The task `documents`: scores worked out by hand, perfect and shuffled answers, options, report."""
import json
import numpy as np
import pickle
import pytest
from PIL import Image
from support.lab_reports import BLOOD, HEADING, markdown, pair
from support.measures import scores_of
from typing import Any

from swift_citrusv.cli.eval import command
from swift_citrusv.errors import RowError
from swift_citrusv.scoring.cases import PredictionError
from swift_citrusv.scoring.documents.documents import TASK, DocumentsTask
from swift_citrusv.scoring.table import CaseTable


def score(task, pairs):
    return scores_of(task, [case for one in pairs for case in task.score(one)])


# ---- scores by hand
# Each: gold rows, predicted rows (None: no answer), number of right, predicted and gold fields.
CHINESE = BLOOD
ENGLISH = (('Potassium', '4.1', '3.5-5.1', 'mmol/L'), ('Sodium', '140', '136-145', 'mmol/L'))
BY_HAND: list[tuple[Any, Any, int, int, int]] = [
    # As printed, in another notation: 3 entries of 4 fields.
    (CHINESE, [('白细胞计数', '11.20', '3.5～9.5', '×10⁹/L'), ('红细胞计数', '4.50', '4.3—5.8', '10*12/L'),
               ('血红蛋白', '135.0', '130 - 175', 'G/L')], 12, 12, 12),
    # One result wrong, one unit wrong.
    (CHINESE, [CHINESE[0], ('红细胞计数', '4.6', '4.3-5.8', '10^12/L'), ('血红蛋白', '135', '130-175', 'g/dL')], 10, 12, 12),
    # One entry missing, one cell empty.
    (CHINESE, [CHINESE[2], ('白细胞计数', '11.2', '', '10^9/L')], 7, 7, 12),
    # One entry too many.
    (ENGLISH, [*ENGLISH, ('Chloride', '101', '98-107', 'mmol/L')], 8, 12, 8),
    # A name misread by one sign is matched, and wrong: 3 of 4 fields.
    ((('甘油三酯', '1.2', '0-1.7', 'mmol/L'), ), [('甘油三脂', '1.2', '0-1.7', 'mmol/L')], 3, 4, 4),
    # Another name altogether: nothing is matched.
    ((('丙氨酸氨基转移酶', '35', '9-50', 'U/L'), ), [('ALT', '35', '9-50', 'U/L')], 0, 4, 4),
    # Cells that are empty in both count nowhere; one that the reference does not have is one too many.
    ((('尿蛋白', '阴性', '阴性', ''), ('尿糖', '-', '-', '')), [('尿蛋白', 'neg', '(-)', '-'), ('尿糖', '阴性', '阴性', '')], 5, 6, 5),
    # Nothing said.
    (ENGLISH, None, 0, 0, 8),
    # Results and references exchanged between two entries.
    (ENGLISH, [('Potassium', '140', '136-145', 'mmol/L'), ('Sodium', '4.1', '3.5-5.1', 'mmol/L')], 4, 8, 8),
    # The flag contradicts, in the other entry it is left out.
    ((('钾', '5.9 ↑', '3.5-5.1', ''), ('钠', '130 ↓', '', '')),
     [('钾', '5.9 ↓', '3.5-5.1', ''), ('钠', '130', '', '')], 4, 5, 5),
]  # yapf: disable


@pytest.mark.parametrize('gold, predicted, right, num_predicted, num_gold', BY_HAND, ids=range(len(BY_HAND)))
def test_documents_by_hand(gold, predicted, right, num_predicted, num_gold):
    answer = None if predicted is None else markdown(predicted)
    case, = DocumentsTask('parsing').score(pair(answer, markdown(gold)))
    assert [case.values[name] for name in ('tp', 'predicted', 'gold')] == [right, num_predicted, num_gold]
    assert case.values['document_precision'] == pytest.approx(right / num_predicted if num_predicted else 0)
    assert case.values['document_recall'] == pytest.approx(right / num_gold)
    assert case.values['document_f1'] == pytest.approx(2 * right / (num_predicted + num_gold))
    assert ('no_answer' in case.flags) == (predicted is None)
    # Whatever is wrong on either side is told.
    counted = TASK('parsing')._count_fields(pair(answer, markdown(gold)), 'parsing')[0]
    assert bool(counted.wrong) == (not right == num_predicted == num_gold)


def test_scores_of_all_documents_by_hand():
    pairs = [pair(None if predicted is None else markdown(predicted), markdown(gold), f'r:{i}')
             for i, (gold, predicted, *_) in enumerate(BY_HAND)]  # yapf: disable
    found = score(DocumentsTask('parsing'), pairs)
    assert [sum(counts) for counts in zip(*(line[2:] for line in BY_HAND))] == [53, 70, 78]
    assert found['precision'] == pytest.approx(53 / 70) and found['recall'] == pytest.approx(53 / 78)
    assert found['f1'] == pytest.approx(106 / 148)
    precisions = [1, 10 / 12, 1, 8 / 12, 3 / 4, 0, 5 / 6, 0, 1 / 2, 4 / 5]
    recalls = [1, 10 / 12, 7 / 12, 1, 3 / 4, 0, 1, 0, 1 / 2, 4 / 5]
    f1s = [1, 20 / 24, 14 / 19, 16 / 20, 6 / 8, 0, 10 / 11, 0, 8 / 16, 8 / 10]
    assert found['macro_precision'] == pytest.approx(np.mean(precisions))
    assert found['macro_recall'] == pytest.approx(np.mean(recalls))
    assert found['macro_f1'] == pytest.approx(np.mean(f1s))
    # By field: names 3, 3, 2, 2, 0, 0, 2, 0, 2, 2 right of 3, 3, 2, 3, 1, 1, 2, 0, 2, 2 and
    # 3, 3, 3, 2, 1, 1, 2, 2, 2, 2.
    assert found['entry_name_f1'] == pytest.approx(2 * 16 / (19 + 21))
    # Results: 3, 2, 2, 2, 1, 0, 2, 0, 0, 1 of as many.
    assert found['result_f1'] == pytest.approx(2 * 13 / (19 + 21))
    # References: 3, 3, 1, 2, 1, 0, 1, 0, 0, 1 of 3, 3, 1, 3, 1, 1, 2, 0, 2, 1 and 3, 3, 3, 2, 1, 1, 1, 2, 2, 1.
    assert found['reference_f1'] == pytest.approx(2 * 12 / (17 + 19))
    # Units: 3, 2, 2, 2, 1, 0, 0, 0, 2, 0 of 3, 3, 2, 3, 1, 1, 0, 0, 2, 0 and 3, 3, 3, 2, 1, 1, 0, 2, 2, 0.
    assert found['unit_f1'] == pytest.approx(2 * 12 / (15 + 17))


def test_complex_questions_by_hand():
    task = DocumentsTask('complex_qa')
    gold = {'白细胞': {'result': '11.2', 'reference': '3.5-9.5', 'abnormality': '偏高'},
            '血红蛋白': {'result': '90', 'reference': '130-175', 'abnormality': '偏低'}}  # yapf: disable
    answers = [
        ('[{"name": "白细胞", "result": "11.2 ↑", "reference": "3.5~9.5", "abnormality": "H"}, {"name": "血红蛋白", "result": '
         '"90", "reference": "130-175", "abnormality": "low"}]', 6, 6),
        ('{"白细胞": {"result": "11.2", "reference": "3.5-9.5", "abnormality": "偏低"}}', 2, 3),
        ('{"白细胞": {"result": "11.2↑", "reference": ""}}', 2, 2),
        ('{"红细胞": {"result": "4.5", "reference": "4.3-5.8", "abnormality": "正常"}}', 0, 3),
        ('[]', 0, 0),
        (None, 0, 0),
    ]  # yapf: disable
    pairs = [pair(answer, reference) for answer, *_ in answers
             for reference in (gold, json.dumps(gold, ensure_ascii=False))]  # yapf: disable
    for one, (_, right, predicted) in zip(pairs, [line for line in answers for _ in range(2)]):
        case, = task.score(one)
        assert [case.values[name] for name in ('tp', 'predicted', 'gold')] == [right, predicted, 6]
    found = score(task, pairs)
    assert found['f1'] == pytest.approx(2 * 10 / (14 + 36)) and found['precision'] == pytest.approx(10 / 14)
    assert found['macro_f1'] == pytest.approx(np.mean([1, 4 / 9, 4 / 8, 0, 0, 0]))
    # Of 6 answers 2, 1, 1, 1 state one, the third by its arrow; 2, 0, 1 are right.
    assert found['abnormality_f1'] == pytest.approx(2 * 3 / (5 + 12))


def test_simple_questions():
    task = DocumentsTask('simple_qa')
    answers = [('5.20', '5.2'), ('<think>6.1?</think>5.2', '5.2'), ('6.1', '5.2'), (None, '5.2')]
    answers += [('3.5～9.5', '3.5-9.5'), ('mmol/l', 'mmol/L'), ('<answer>偏高</answer>', '↑'), ('白细胞的结果是5.2', '5.2')]
    right = [1, 1, 0, 0, 1, 1, 1, 0]
    cases = [task.score(pair(*answer))[0] for answer in answers]
    assert [case.values['correct'] for case in cases] == right
    assert scores_of(task, cases)['accuracy'] == pytest.approx(5 / 8)
    case, = task.score(pair('<think>5.2', '5.2'))
    assert case.values['correct'] == 0 and case.flags == ('empty_answer', ) and not case.data
    # A judge would be asked about what was said and is wrong.
    assert [bool(case.data) for case in cases] == [False, False, True, False, False, False, False, True]


def test_both_without_entries():
    empty = markdown([])
    task = DocumentsTask('parsing')
    case, = task.score(pair(empty, empty))
    assert case.values['document_f1'] == case.values['document_precision'] == 1 and case.values['gold'] == 0
    case, = task.score(pair(markdown(BLOOD), empty))
    assert case.values['document_f1'] == case.values['document_recall'] == 0 and case.values['predicted'] == 12


# ---- perfect and shuffled


def reports(number, seed=0):
    """Reports of random tests and values, each with names of its own choice."""
    generator = np.random.default_rng(seed)
    tests = [(f'{first}{second}', unit) for first, unit in (
        ('血清', 'mmol/L'), ('尿', 'mg/L'), ('游离', 'pmol/L'), ('总', 'U/L'), ('高敏', 'ng/mL'), ('Plasma ', 'g/L'))
        for second in ('甲状腺素', '肌酐', '皮质醇', '转铁蛋白', '胰岛素', 'ferritin', 'renin', 'lactate')]  # yapf: disable
    documents = []
    for _ in range(number):
        rows = []
        for i in generator.permutation(len(tests))[:generator.integers(4, 9)]:
            low, high, value = np.sort(generator.integers(1, 900, 3)) / 10
            rows.append((tests[i][0], str(value), f'{low}-{high}', tests[i][1]))
        documents.append(rows)
    return documents


def test_perfect_and_shuffled():
    documents = reports(60)
    task = DocumentsTask('parsing')
    perfect = score(task, [pair(f'```\n{markdown(rows)}\n```', markdown(rows)) for rows in documents])
    assert all(value == 1 for value in perfect.values())
    shuffled = score(task, [pair(markdown(documents[i - 1]), markdown(documents[i])) for i in range(60)])
    # Some names and their units are in both by chance; their values are not.
    assert shuffled['result_f1'] < .03 and shuffled['reference_f1'] < .03
    assert shuffled['f1'] < .2 and shuffled['macro_f1'] < .2
    # In one document: names stay, and cells go to other rows.
    mixed = [[(row[0], *other[1:]) for row, other in zip(rows, rows[1:] + rows[:1])] for rows in documents]
    found = score(task, [pair(markdown(one), markdown(rows)) for one, rows in zip(mixed, documents)])
    assert found['entry_name_f1'] == 1 and found['result_f1'] < .03


def test_perfect_and_shuffled_questions():
    documents = reports(40)
    task = DocumentsTask('complex_qa')
    lists = [[{'name': name, 'result': value, 'reference': limits, 'abnormality': '正常'}
              for name, value, limits, _ in rows] for rows in documents]  # yapf: disable
    golds = [json.dumps(one, ensure_ascii=False) for one in lists]
    assert all(value == 1 for value in score(task, [pair(gold, gold) for gold in golds]).values())
    shuffled = score(task, [pair(golds[i - 1], golds[i]) for i in range(40)])
    assert shuffled['result_f1'] < .03 and shuffled['reference_f1'] < .03
    simple = DocumentsTask('simple_qa')
    values = [rows[0][1] for rows in documents]
    assert score(simple, [pair(value, value) for value in values])['accuracy'] == 1
    assert score(simple, [pair(values[i - 1], values[i]) for i in range(40)])['accuracy'] < .05


def test_order_and_notation_do_not_matter():
    generator = np.random.default_rng(4)
    task = DocumentsTask('parsing')
    variants = [
        lambda text: text, lambda text: text.replace('-', '～'), lambda text: f' {text} '.upper(),
        lambda text: text.replace('(', '（').translate({c: c + 0xfee0
                                                       for c in range(ord('0'),
                                                                      ord('9') + 1)})
    ]
    for gold in reports(30, seed=9):
        said = [gold[i] for i in generator.permutation(len(gold))[1:]] + [('另一项', '1', '2-3', 'g/L')]
        plain, = task.score(pair(markdown(said), markdown(gold)))
        columns = generator.permutation(4)
        written = [[variants[generator.integers(4)](cell) for cell in row] for row in said]
        answer = markdown([[row[i] for i in columns] for row in written], [HEADING[i] for i in columns])
        other, = task.score(pair(answer, markdown(gold[::-1])))
        assert other.values == plain.values and plain.values['tp'] == 4 * (len(gold) - 1)


# ---- the task


@pytest.mark.parametrize('subtask, answer', [('parsing', '没有'), ('complex_qa', '偏高'), ('parsing', '| a |')])
def test_malformed_answers(subtask, answer):
    task = DocumentsTask(subtask)
    reference = markdown(BLOOD) if subtask == 'parsing' else {'result': '5'}
    with pytest.raises(PredictionError, match='there is no'):
        task.score(pair(answer, reference))
    shown = task.show(pair(answer, reference), 0)
    assert dict(shown.lines)['problem'].startswith('there is no') and dict(shown.lines)['answer'] == answer


@pytest.mark.parametrize('subtask, reference, message', [
    ('parsing', 'no table', 'headings entry_name'), ('complex_qa', 'no json', 'Write JSON'),
    ('complex_qa', {'x': 1}, 'Write JSON'), ('simple_qa', None, 'no answer'),
])  # yapf: disable
def test_references_that_cannot_be_read(subtask, reference, message):
    with pytest.raises(RowError, match=message) as error:
        DocumentsTask(subtask).score(pair('x', reference, 'test.jsonl:7'))
    assert error.value.row == 'test.jsonl:7'


@pytest.mark.parametrize('options, message', [
    ({'subtask': 'tables'}, '--subtask'), ({'name_threshold': 0.}, '--name-threshold'),
    ({'subtask': 'gmd'}, 'only a judge'), ({'judge': 'http://x'}, '--judge-model'),
    ({'judge_model': 'm'}, '--judge URL'),
    ({'judge_record': 'f'}, '--judge URL'), ({'judge_replay': 'f'}, '--judge-model'),
    ({'judge_concurrency': 0}, '1 or more'),
])  # yapf: disable
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        DocumentsTask(**options)


def test_rows_say_their_subtask():
    task = DocumentsTask()
    pairs = [
        pair(markdown(BLOOD), markdown(BLOOD), subtask='LTR full parsing'),
        pair('5.2', '5.2', subtask='simple_qa'),
        pair('5.3', '5.2', subtask='LTR Simple-QA'),
        pair('{"result": "5", "abnormality": "H"}', {
            'result': '5',
            'abnormality': '正常'
        }, subtask='complex_qa')
    ]
    cases = [task.score(one)[0] for one in pairs]
    assert [case.groups['subtask'] for case in cases] == ['parsing', 'simple_qa', 'simple_qa', 'complex_qa']
    found = scores_of(task, cases)
    assert found['parsing_f1'] == 1 and found['simple_qa_accuracy'] == .5 and found['complex_qa_f1'] == .5
    assert found['average'] == pytest.approx((1 + .5 + .5) / 3)
    assert task.measures[0].columns[0] == 'rows' and all(case.values['rows'] == 1 for case in cases)
    assert list(found)[0] == 'average' and not any('gmd' in name for name in found)
    for said, message in ((None, 'None'), ('ocr', "'ocr'"), ('gmd', 'only a judge')):
        with pytest.raises(RowError, match=message):
            task.score(pair('x', 'y', subtask=said))


def test_without_a_judge_it_is_counted():
    task = DocumentsTask('simple_qa')
    table = CaseTable()
    for answer in ('5.2', '6', None, '七'):
        table.add_row('r', 'r', {}, task.score(pair(answer, '5.2')))
    table.close()
    task.complete(table)
    assert table.flag_counts() == {'not_judged': 2, 'no_answer': 1}
    assert 'none' in task.rules['judge'] and 'not_judged' in task.rules['judge']


def test_task_travels():
    task = DocumentsTask('parsing', name_threshold=.7)
    assert task._replies == {} and pickle.loads(pickle.dumps(task)) == task
    assert len(task.rules) > 10 and all(isinstance(text, str) and text for text in task.rules.values())


def test_show(tmp_path):
    page = tmp_path / 'page.png'
    Image.new('L', (1200, 600), 200).save(page)
    task = DocumentsTask('parsing')
    shown = task.show(
        pair(
            markdown([('白细胞计数', '11.3', '3.5-9.5', ''), ('血小板', '200', '', '')]),
            markdown(BLOOD),
            images=[str(page), 'b']), 0)
    lines = dict(shown.lines)
    assert shown.picture is not None and shown.picture.size == (512, 256)
    assert shown.picture.mode == 'RGB' and lines['picture'] == 'the first of 2'
    assert lines['question'] == '读一读。' and lines['reference'] == markdown(BLOOD)
    assert lines['wrong by the rules'].splitlines() == [
        "白细胞计数: result '11.3', not '11.2 ↑'", "白细胞计数: unit empty, not '10^9/L'", '红细胞计数: missing', '血红蛋白: missing',
        '血小板: not in the reference']  # yapf: disable
    assert '0.235' in shown.title
    lines = dict(task.show(pair(None, markdown(BLOOD), images=['missing.png']), 0).lines)
    assert 'missing.png' in lines['picture'] and lines['wrong by the rules'].count('missing') == 3
    assert DocumentsTask('simple_qa').show(pair('5', '5'), 0).title.endswith('right by the rules')
    many = [(f'项目{i}号', '1', '2', '') for i in range(60)]
    assert 'and 20 more' in dict(task.show(pair(None, markdown(many)), 0).lines)['wrong by the rules']


def test_command(tmp_path, capsys):
    """Through the whole command, with what is missing, doubled and malformed."""
    from swift_citrusv.cli.main import main
    documents = reports(20, seed=3)
    rows = [{'id': i, 'answer': markdown(one), 'messages': [{'role': 'user', 'content': '?'}], 'hospital': 'ab'[i % 2]}
            for i, one in enumerate(documents)]  # yapf: disable
    answers = [{'id': i, 'response': markdown(one)} for i, one in enumerate(documents)]
    answers[4]['response'] = 'sorry'
    answers = answers[:18] + answers[:1]
    for name, lines in (('ref', rows), ('pred', answers)):
        (tmp_path / f'{name}.jsonl').write_text(
            ''.join(f'{json.dumps(line, ensure_ascii=False)}\n' for line in lines), encoding='utf-8')
    code = main(['eval', 'documents', '--subtask', 'parsing', '--pred', str(tmp_path / 'pred.jsonl'), '--ref',
                 str(tmp_path / 'ref.jsonl'), '--output', str(tmp_path / 'out'), '--by', 'hospital', '--repeats', '50',
                 '--no-report'])  # yapf: disable
    assert not code, capsys.readouterr()
    found = json.loads((tmp_path / 'out' / 'scores.json').read_text(encoding='utf-8'))
    counts = {name: count for name, count in found['found'].items() if count}
    assert counts == {'missing': 2, 'doubled': 1, 'malformed': 1}
    assert found['flags'] == {'no_answer': 3} and found['cases'] == 20
    gold = [4 * len(one) for one in documents]
    lost = gold[4] + gold[18] + gold[19]
    assert found['scores']['recall']['value'] == pytest.approx(1 - lost / sum(gold))
    assert found['scores']['precision']['value'] == 1 and found['scores']['macro_f1']['value'] == pytest.approx(.85)
    assert set(found['groups']['hospital']) == {'a', 'b'} and found['options']['subtask'] == 'parsing'
    assert 'documents' in {task.NAME for task in command._TASKS}
