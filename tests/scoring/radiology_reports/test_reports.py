"""The task of radiology reports, from files to scores."""
import numpy as np
import pickle
import pytest
from nltk.corpus.reader import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader
from PIL import Image
from support.radiology_reports import FakeWordNet, options_of, report, scored

from swift_citrusv.errors import RowError
from swift_citrusv.scoring.cases import Pair, PredictionError
from swift_citrusv.scoring.radiology_reports.reports import ReportsTask
from swift_citrusv.scoring.radiology_reports.text_metrics import has_wordnet, meteor
from swift_citrusv.settings import SettingError


def rows_of(num=60):
    random = np.random.default_rng(3)
    return [{'id': i, 'answer': f'Findings: {report(random, 4, 10)}\nImpression: {report(random, 2, 3)}'}
            for i in range(num)]  # yapf: disable


@pytest.mark.parametrize('section', ['report', 'findings', 'impression', 'findings+impression'])
def test_perfect_and_shuffled(tmp_path, section):
    rows = rows_of()
    perfect = [{'id': row['id'], 'response': f'<think>Findings: x</think>{row["answer"]}'} for row in rows]
    shuffled = [{'id': row['id'], 'response': other['answer']} for row, other in zip(rows, rows[7:] + rows[:7])]
    evaluation = scored(tmp_path, rows, perfect, section=section, medevalkit=True)
    best = evaluation.scores
    assert best['cider'].value == pytest.approx(10) and best['cider_d'].value == pytest.approx(10)
    for name in ('rouge_l', 'bleu_1', 'bleu_4', 'rouge_l_medevalkit'):
        assert best[name].value == pytest.approx(1, abs=1e-6)
    assert .99 < best['meteor_exact_stem'].value < 1
    assert not evaluation.table.flag_counts() and not evaluation.table.data
    worse = scored(tmp_path, rows, shuffled, section=section, medevalkit=True).scores
    # It counts distinct words, of which these reports have few.
    assert worse.pop('rouge_l_medevalkit').value < .85
    assert all(worse[name].value < .7 * best[name].value for name in worse)
    assert worse['cider_d'].value < 1.5 and worse['bleu_4'].value < .5
    assert all(score.low <= score.value <= score.high for name, score in worse.items() if 'bleu' not in name)


def test_problems_of_predictions(tmp_path):
    rows = rows_of(8)
    predictions = [{'id': row['id'], 'response': row['answer']} for row in rows]
    predictions[1]['response'] = 5
    predictions[2]['response'] = '<think>never ends'
    predictions[3]['error'] = 'out of memory'
    predictions[3]['response'] = None
    found = scored(tmp_path, rows, predictions[:7] + [predictions[0]])
    assert found.problems.counts == {
        'missing': 1,
        'doubled': 1,
        'unknown': 0,
        'malformed': 1,
        'reordered': 0,
        'failed': 1
    }
    assert found.table.flag_counts() == {'empty_prediction': 1}
    assert found.scores['rouge_l'].value == pytest.approx(4 / 8) and found.scores['cider'].count == 8
    assert found.table.columns['cider_d'][[1, 2, 3, 7]].tolist() == [0] * 4


def case(reference, response, **options):
    task = ReportsTask(**options)
    cases = task.score(Pair('r.jsonl:1', reference, {'response': response}))
    assert len(cases) == 1
    return cases[0]


def test_missing_sections_are_flagged():
    reference = {'answer': 'Findings: clear lungs. Impression: normal.'}
    assert not case(reference, 'Findings: clear lungs. Impression: normal.').flags
    assert case(reference, 'Findings: clear lungs.').flags == ('missing_impression', )
    assert case(reference, 'clear lungs').flags == ('no_headings', )
    assert case(reference, '').flags == ('empty_prediction', )
    found = case(reference, 'Findings: normal', section='impression')
    assert found.flags == ('missing_impression', ) and found.values['rouge_l'] == 0
    found = case(reference, 'Normal!', section='impression')
    assert found.flags == ('no_headings', ) and found.values['rouge_l'] == 1
    found = case({'answer': 'Normal'}, 'Impression: normal', section='impression')
    assert found.flags == ('reference_without_headings', ) and found.values['rouge_l'] == 1
    found = case({'answer': 'Findings: clear'}, 'Impression: normal', section='impression')
    assert found.flags == ('not_in_reference', ) and not found.values and found.data is None
    found = case(reference, 'Impression: normal. Findings: clear lungs', section='findings+impression')
    assert not found.flags and found.values['rouge_l'] == 1


@pytest.mark.parametrize('reference', [
    {'findings': 'Clear lungs.', 'impression': 'Normal.', 'response': 'not this'},
    {'section_findings': 'Clear lungs.', 'section_impression': 'Normal.'},
    {'solution': 'Findings: Clear lungs. Impression: Normal.'},
    {'messages': [{'role': 'user', 'content': '?'},
                  {'role': 'assistant', 'content': '## Findings\nClear lungs.\n## Impression\nNormal.'}]},
])  # yapf: disable
def test_references_in_their_forms(reference):
    for section, response in (('findings', 'clear lungs'), ('impression', 'normal'),
                              ('report', 'Findings: clear lungs. Impression: normal')):
        assert case(reference, response, section=section).values['rouge_l'] == 1


def test_columns_without_a_section():
    reference = {'findings': None, 'impression': 'Normal.'}
    assert case(reference, 'Impression: normal').values['rouge_l'] == pytest.approx(4 / 5)
    assert case(reference, 'Findings: clear', section='findings').flags == ('not_in_reference', )


def test_left_out_cases_are_counted(tmp_path):
    rows = rows_of(6)
    predictions = [{'id': row['id'], 'response': row['answer']} for row in rows]
    rows[0]['answer'] = 'Findings: clear lungs'
    found = scored(tmp_path, rows, predictions, section='impression')
    assert found.table.flag_counts() == {'not_in_reference': 1} and len(found.table) == 6
    assert {score.count for score in found.scores.values()} == {5}


def test_empty_references_are_errors():
    for reference in ({'answer': ''}, {'answer': ' **。'}, {'findings': '', 'impression': ' '}):
        for section in ('report', 'findings'):
            with pytest.raises(RowError, match='r.jsonl:1.*empty'):
                case(reference, 'a', section=section)


def test_errors():
    with pytest.raises(RowError, match='no answer'):
        case({'id': 1}, 'a')
    with pytest.raises(PredictionError, match='not a string'):
        case({'answer': 'a'}, ['a'])
    with pytest.raises(SettingError, match="'findngs'"):
        ReportsTask(section='findngs')
    with pytest.raises(SettingError, match='--rate-embeddings'):
        ReportsTask(rate_ner='x')


def test_one_word_mixed_and_chinese():
    found = case({'answer': 'Normal'}, 'normal.').values
    assert found['rouge_l'] == found['bleu_matches_1'] == 1 and found['meteor_exact_stem'] == .5
    assert case({'answer': '双肺清晰'}, '双肺不清晰').values['rouge_l'] == pytest.approx(8 / 9)
    assert case({'answer': 'CT示双肺clear'}, '双肺clear').values['rouge_l'] == pytest.approx(6 / 8)


def test_options_measures_and_rules():
    task = ReportsTask(**options_of('--section', 'findings', '--medevalkit', '--synonyms', 'no'))
    assert task == ReportsTask('findings', medevalkit=True) == pickle.loads(pickle.dumps(task))
    names = {measure.name for measure in task.measures}
    assert {'rouge_l', 'cider', 'cider_d', 'bleu_1', 'bleu_4', 'meteor_exact_stem', 'rouge_l_medevalkit'} <= names
    assert {'text', 'reference', 'rouge_l', 'cider', 'cider_d', 'bleu', 'meteor_exact_stem'} <= task.rules.keys()


def test_show(tmp_path):
    Image.new('RGB', (1000, 500), 'red').save(tmp_path / 'a.png')
    reference = {'images': [str(tmp_path / 'a.png'), 'b.png'], 'answer': 'Findings: a. Impression: b.',
                 'messages': [{'role': 'user', 'content': '<image>Write a report.'}]}  # yapf: disable
    task = ReportsTask(section='impression')
    shown = task.show(Pair('r:1', reference, {'response': '<think>x</think>Findings: c. Impression: d.'}), 0)
    assert shown.picture is not None and shown.picture.size == (512, 256)
    assert dict(shown.lines) == {
        'question': 'Write a report.',
        'reference': 'b.',
        'prediction': 'd.',
        'whole response': '<think>x</think>Findings: c. Impression: d.',
        'image': 'the first of 2'
    }
    shown = task.show(Pair('r:1', {'answer': 'a', 'image': {'path': 'no.png'}}, None), 0)
    assert shown.picture is None and 'no.png' in dict(shown.lines)['image']
    assert dict(task.show(Pair('r:1', {'answer': 'a'}, None), 0).lines) == {'reference': 'a', 'prediction': ''}


def test_name_of_meteor_with_and_without_synonyms(monkeypatch):
    monkeypatch.setattr('nltk.data.path', [])
    monkeypatch.setattr('nltk.corpus.wordnet', LazyCorpusLoader('wordnet', WordNetCorpusReader, None))
    assert not has_wordnet()
    task = ReportsTask(**options_of())
    assert task == ReportsTask() and 'meteor_exact_stem' in [measure.name for measure in task.measures]
    with pytest.raises(ValueError, match='nltk.downloader wordnet'):
        options_of('--synonyms', 'yes')
    with pytest.raises(ValueError, match='--synonyms no'):
        meteor(['a'], ['a'], synonyms=True)
    monkeypatch.setattr('nltk.corpus.wordnet', FakeWordNet)
    task = ReportsTask(**options_of())
    assert task.synonyms and 'WordNet' in task.rules['meteor']
    assert not ReportsTask(**options_of('--synonyms', 'no')).synonyms
