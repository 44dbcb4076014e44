"""Reasoning that cites boxes: the cited parts, their order, the form of the answer."""
import argparse
import json
import numpy as np
import pickle
import pytest
from PIL import Image
from support.measures import scores_of

from swift_citrusv.cli.eval import grounding as cli
from swift_citrusv.errors import RowError
from swift_citrusv.scoring.boxes.grounding import GroundingTask
from swift_citrusv.scoring.cases import Pair
from swift_citrusv.scoring.evaluate import EvaluationSettings, evaluate

PARTS = {'rib': [69, 0, 872, 893], 'right_rib': [84, 0, 450, 893], 'lung': [113, 22, 860, 650],
         'heart': [338, 408, 655, 665]}  # yapf: disable


def cite(name, box, form=0):
    text = f'"Part": "{name}", "bbox": "{json.dumps(list(box))}"'
    return [f'<bbox>{{{text}}}</bbox>', f'({text})', f'`<bbox>[{text}</bbox>`'][form]


def answer(parts=PARTS, final='Findings: none. Impression: **Normal.**', form=0):
    """An answer as the paper has it; `parts` is a dict, or pairs."""
    pairs = parts.items() if isinstance(parts, dict) else parts
    steps = ' '.join(f'Step {i} – I look at {cite(name, box, form)}.' for i, (name, box) in enumerate(pairs, 1))
    return f'<think>\nLet me see. {steps}\n</think>\n\n<answer>\n{final}\n</answer>'


def pair(response=None, reference=None, **prediction):
    if response is not None:
        prediction['response'] = response
    if reference is None:
        reference = {'messages': [{'role': 'assistant', 'content': answer()}]}
    return Pair('r:1', reference, prediction or None)


def case(*args, task=GroundingTask(), **kwargs):
    return task.score(pair(*args, **kwargs))[0]


@pytest.mark.parametrize('form', range(3))
def test_perfect(form):
    found = case(answer(form=form))
    assert not found.flags
    assert set(scores_of(GroundingTask(), [found]).values()) == {1} and found.values['f1'] == 1


# parts of the answer: right, cited, found, named, order
ROWS = [
    # a box that is half right
    ({**PARTS, 'heart': [338, 408, 655, 536.5]}, 4, 4, 4, 4, 1),
    # one that is not
    ({**PARTS, 'heart': [338, 408, 655, 530]}, 3, 4, 3, 4, 1),
    # a part too few, a part too many, another name
    ({name: PARTS[name] for name in ('rib', 'lung', 'heart')}, 3, 3, 3, 3, 1),
    ({**PARTS, 'vertebrae': [378, 20, 598, 782]}, 4, 5, 4, 4, 1),
    ([('Rib', PARTS['rib']), ('RIGHT  RIB', PARTS['right_rib']), ('aorta', PARTS['lung'])], 2, 3, 2, 2, 1),
    # two names exchanged: their boxes are wrong, and their order
    ({**PARTS, 'rib': PARTS['heart'], 'heart': PARTS['rib']}, 2, 4, 2, 4, 1),
    (dict(reversed(PARTS.items())), 4, 4, 4, 4, -1),
    ({name: PARTS[name] for name in ('rib', 'lung', 'right_rib', 'heart')}, 4, 4, 4, 4, 2 / 3),
    # cited again, with the same box and with others
    ([*PARTS.items(), ('lung', PARTS['lung'])], 4, 4, 4, 4, 1),
    ([*PARTS.items(), ('lung', [113, 22, 860, 640])], 5, 5, 4, 4, 1),
    ([*PARTS.items(), ('lung', [0, 0, 9, 9])], 4, 5, 4, 4, 1),
    # little
    ([('heart', PARTS['heart'])], 1, 1, 1, 1, np.nan),
    ([], 0, 0, 0, 0, np.nan),
    ([('lung', (860, 650, 113, 22))], 1, 1, 1, 1, np.nan),
    ([('lung', (113, 22, 113, 650))], 0, 1, 0, 1, np.nan),
]  # yapf: disable


@pytest.mark.parametrize('parts, right, cited, found, named, order', ROWS)
def test_rows(parts, right, cited, found, named, order):
    values = case(answer(parts)).values
    assert (values['right'], values['cited'], values['found'], values['named']) == (right, cited, found, named)
    assert values['actual'] == values['parts'] == 4 and values['well_formed'] == 1
    assert values['order'] == pytest.approx(order, nan_ok=True)
    precision, recall = right / cited if cited else 0, found / 4
    wanted = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert values['f1'] == pytest.approx(wanted)


def test_sums():
    cases = [case(answer()), case(answer({'rib': PARTS['rib'], 'heart': [0, 0, 9, 9]})), case(answer([])), case()]
    found = scores_of(GroundingTask(), cases)
    assert found['precision_at_0.5'] == pytest.approx(5 / 6)
    assert found['recall_at_0.5'] == found['mean_iou'] == pytest.approx(5 / 16)
    assert found['f1_at_0.5'] == pytest.approx(2 * (5 / 6) * (5 / 16) / (5 / 6 + 5 / 16))
    assert found['parts_named'] == pytest.approx(6 / 16) and found['order'] == 1
    assert found['well_formed'] == pytest.approx(3 / 4)
    assert cases[2].flags == ('no_citation', ) and cases[3].flags == ('no_answer', )
    assert np.isnan(scores_of(GroundingTask(), cases[2:])['precision_at_0.5']) and scores_of(
        GroundingTask(), cases[2:])['f1_at_0.5'] == 0


def test_overlap_by_hand():
    reference = {'steps': [{'Part': 'lung', 'bbox': [0, 0, 10, 10]}]}
    for box, iou in (([0, 0, 10, 5], .5), ([0, 0, 5, 9], .45), ([5, 5, 15, 15], 25 / 175), ([20, 20, 30, 30], 0)):
        found = case(answer({'lung': box}), reference, task=GroundingTask('pixels'))
        assert found.values['iou'] == pytest.approx(iou) and found.values['right'] == (iou >= .5)


# ---- where the parts are


def test_columns_are_in_pixels():
    steps = [{'Part': name, 'bbox': box} for name, box in PARTS.items()]
    nested = {'steps': [steps[:2], steps[2:]], 'size': [1000, 1000]}
    for reference in (nested, {'steps': steps, 'size': [1000, 1000]},
                      {'objects': {'ref': list(PARTS), 'bbox': list(PARTS.values())}, 'size': [1000, 1000]},
                      {'bboxes': list(PARTS.values()), 'structures': list(PARTS),
                       'size': [1000, 1000]}):  # yapf: disable
        assert case(answer(), reference, task=GroundingTask('norm1000')).values['iou'] == pytest.approx(4)
    wide = {'steps': [{'Part': 'lung', 'bbox': [113, 11, 860, 325]}], 'size': [500, 1000]}
    assert case(answer(), wide, task=GroundingTask('norm1000')).values['iou'] == pytest.approx(1)
    # The width of 1000 pixels becomes 1008, the height of 500 becomes 504.
    seen = {'lung': [113 * 1.008, 11 * 1.008, 860 * 1.008, 325 * 1.008]}
    assert case(answer(seen), wide).values['iou'] == pytest.approx(1)


def test_the_answer_with_the_reasoning():
    """A column may hold the answer alone."""
    reference = {'answer': 'Normal.', 'messages': [{'role': 'assistant', 'content': answer()}]}
    assert case(answer(), reference).values['right'] == 4
    assert case(answer(), {'response': answer(), 'labels': answer({'heart': PARTS['heart']})}).values['actual'] == 1
    # The last turn of a result of `swift infer` is the model's.
    own = [{'role': 'assistant', 'content': answer()}]
    result = {'response': answer(), 'labels': 'Normal.', 'messages': own}
    assert case(answer(), result).flags == ('no_reference_parts', )
    assert case(answer(), {**result, 'solution': 'Normal.', 'labels': None}).flags == ('no_reference_parts', )
    assert case(answer(), {'query': 'Report.', 'response': answer()}).values['right'] == 4
    reference = {'solution': 'The lungs are clear.'}
    found = case(answer([]), reference)
    assert found.flags == ('no_reference_parts', ) and np.isnan(found.values['f1'])
    assert case(answer(), reference).values['f1'] == 0 and np.isnan(
        scores_of(GroundingTask(), [found])['precision_at_0.5'])


@pytest.mark.parametrize('reference', [
    {}, {'steps': 'rib'}, {'steps': [{'Part': 'rib', 'bbox': [1, 2, 3]}]}, {'steps': [{'bbox': [1, 2, 3, 4]}]},
    {'steps': [{'Part': 'rib', 'bbox': [1, 2, 1, 4]}]}, {'answer': '<think><bbox>here</bbox></think>'},
    {'bboxes': [[1, 2, 3, 4]]}, {'objects': {'bbox': [[1, 2, 3, 4]] * 2, 'ref': ['rib'], 'image_id': [0, 1]}},
])  # yapf: disable
def test_invalid_parts(reference):
    with pytest.raises(RowError, match='^r:1: '):
        case(answer(), reference)


def test_unreadable_and_unnamed_boxes():
    text = answer().replace(cite('heart', PARTS['heart']), '<bbox>{"Part": "heart", "bbox": "[338, 408"}</bbox>')
    found = case(text)
    assert found.flags == ('unparsable', ) and found.values['right'] == found.values['cited'] == 3
    assert case(answer().replace('"Part": "heart", ', '')).flags == ('unnamed_part', )
    assert case(answer({'lung': [113, 22, 113, 650]})).flags == ('degenerate', )


# ---- form


@pytest.mark.parametrize('text, is_well_formed', [
    ('<think>a</think><answer>b</answer>', 1),
    (' <think>a\n</think>\n\n<answer>\nb</answer>\n', 1),
    ('<think>a</think>b', 0),
    ('a</think><answer>b</answer>', 0),
    ('<think>a<answer>b</answer>', 0),
    ('<think>a</think><answer>b', 0),
    ('<think>a</think> so <answer>b</answer>', 0),
    ('Well. <think>a</think><answer>b</answer>', 0),
    ('<think>a</think><answer>b</answer> Done.', 0),
    ('<think>a</think><think>a</think><answer>b</answer>', 0),
    ('<think>a</think><answer>b</answer><answer>b</answer>', 0),
    ('<think>a<think>b</think></think><answer>b</answer>', 0),
    ('<answer>b</answer><think>a</think>', 0),
    ('<think> </think><answer>b</answer>', 0),
    ('<think>a</think><answer></answer>', 0),
    ('<think>a<answer>b</answer></think>', 0),
    ('', 0),
])
def test_well_formed(text, is_well_formed):
    found = case(text)
    assert found.values['well_formed'] == is_well_formed and ('malformed_tags' in found.flags) != is_well_formed


@pytest.mark.parametrize('text, is_well_formed', [('a</think><answer>b</answer>', 1), ('a<answer>b</answer>', 0),
                                                  ('<think>a</think><answer>b</answer>', 0), ('', 0)])
def test_a_tag_in_the_prompt(text, is_well_formed):
    assert case(text, task=GroundingTask(think_in_prompt=True)).values['well_formed'] == is_well_formed


def test_boxes_outside_the_reasoning_are_not_cited():
    parts = ' '.join(cite(*part) for part in PARTS.items())
    assert case(f'<think>nothing</think><answer>{parts}</answer>').values['cited'] == 0
    assert case(parts).values['cited'] == 4


def test_chinese_names():
    parts = {'右肺': [113, 22, 860, 650], '心脏': [338, 408, 655, 665]}
    reference = {'answer': answer(parts)}
    assert case(answer({'右肺': parts['右肺'], '心脏 ': parts['心脏']}), reference).values['right'] == 2
    assert case(answer({'左肺': parts['右肺']}), reference).values['right'] == 0


# ---- final answers


def test_answers():
    task = GroundingTask(answers=True)
    texts = {answer(): 1, answer(final='findings: none.  Impression: normal'): 1, answer(final='Pneumonia.'): 0,
             '<think>a</think> Findings: none. Impression: Normal.': 1, '': 0}  # yapf: disable
    for text, wanted in texts.items():
        assert case(text, task=task).values['answer_match'] == wanted, text
    assert case(task=task).values['answer_match'] == 0 and 'answer_match' not in case(answer()).values
    assert task.measures[-1].name == 'answer_match' and 'answer_match' in task.rules


# ---- options, files, pictures


def test_options_of_the_command_line():
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert GroundingTask(**cli.options(parser.parse_args([]))) == GroundingTask()
    args = parser.parse_args('--coordinates pixels --min-pixels 3136 --ref-parts steps --think-in-prompt '
                             '--answers'.split())  # yapf: disable
    task = GroundingTask(**cli.options(args))
    assert task == GroundingTask('pixels', 3136, None, 'steps', True, True)
    assert pickle.loads(pickle.dumps(task)) == task and json.dumps(task.rules)
    with pytest.raises(ValueError, match='ref_parts'):
        GroundingTask(ref_parts='masks')


def test_perfect_and_shuffled(tmp_path):
    generator = np.random.default_rng(0)
    answers = []
    for _ in range(60):
        corners = generator.integers(0, 900, (5, 2))
        boxes = np.concatenate([corners, corners + generator.integers(20, 80, (5, 2))], axis=1).tolist()
        answers.append(answer(list(zip(generator.permutation(list('abcde')), boxes))))
    rows = [{'id': i, 'answer': text} for i, text in enumerate(answers)]
    (tmp_path / 'ref.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))

    def run(texts):
        lines = [json.dumps({'id': i, 'response': text}) + '\n' for i, text in enumerate(texts)]
        (tmp_path / 'pred.jsonl').write_text(''.join(lines))
        found = evaluate(GroundingTask(answers=True), str(tmp_path / 'ref.jsonl'), str(tmp_path / 'pred.jsonl'),
                         EvaluationSettings(repeats=20))  # yapf: disable
        return {name: score.value for name, score in found.scores.items()}

    perfect = run(answers)
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1)) and perfect['f1_at_0.5'] == 1
    shuffled = run(answers[7:] + answers[:7])
    for name in ('precision_at_0.5', 'recall_at_0.5', 'f1_at_0.5', 'mean_iou'):
        assert shuffled[name] < 0.05, name
    assert abs(shuffled['order']) < 0.2 and shuffled['parts_named'] == 1


def test_pictures(tmp_path):
    Image.new('L', (500, 448), 80).save(tmp_path / 'a.png')
    reference = {'answer': answer(), 'images': [str(tmp_path / 'a.png')], 'question': 'Report, please.'}
    task = GroundingTask('norm1000')
    shown = task.show(pair(answer({**PARTS, 'heart': [0, 0, 90, 90]}), reference), 0)
    lines = dict(shown.lines)
    assert shown.picture is not None and shown.title == 'r:1: 3 of 4 cited parts right, 4 in the reference'
    assert lines['reference parts'].startswith('R1 rib [34, 0, 436, 400]; R2 right_rib')
    assert lines['cited parts'].startswith('P1 rib [34, 0, 436, 400] IoU 1.00 with R1')
    assert lines['scores'] == 'f1 0.750 order 1.000'
    # Without an image its size is not known, and the boxes are shown as they stand.
    shown = GroundingTask().show(pair(answer()), 0)
    assert shown.picture is None and 'size' in dict(shown.lines)['picture']
    assert 'response' in dict(task.show(Pair('r:1', reference, {'response': 3}), 0).lines)['problem']
