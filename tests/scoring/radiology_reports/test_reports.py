"""The measures of reports against other implementations and by hand; the task from files to scores."""
import argparse
import json
import math
import numpy as np
import pickle
import pytest
import sys
from functools import lru_cache
from nltk.corpus.reader import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader
from nltk.translate.bleu_score import corpus_bleu
from PIL import Image

from swift_citrusv.cli.eval import reports as _cli_eval_reports
from swift_citrusv.errors import RowError
from swift_citrusv.scoring.cases import Pair, PredictionError
from swift_citrusv.scoring.evaluate import EvaluationSettings, evaluate
from swift_citrusv.scoring.radiology_reports.cider import DocumentFrequencies, cider
from swift_citrusv.scoring.radiology_reports.ratescore import check_ratescore, ratescore
from swift_citrusv.scoring.radiology_reports.reports import ReportsTask
from swift_citrusv.scoring.radiology_reports.text_metrics import (BLEU_COLUMNS, bleu, bleu_counts, has_wordnet, meteor,
                                                                  report_tokens, rouge_l, rouge_l_medevalkit)
from swift_citrusv.settings import SettingError

ORGANS = ('heart', 'left lung', 'right lung', 'mediastinum', 'pleura', 'aorta', 'right upper lobe', 'bones')
STATES = ('is normal', 'is enlarged', 'is clear', 'shows a 3 mm nodule', 'shows patchy opacity', 'is tortuous')


def report(random, fewest=1, most=8):
    parts = [f'The {random.choice(ORGANS)} {random.choice(STATES)}.' for _ in range(random.integers(fewest, most + 1))]
    return ' '.join(parts)


def corpus(seed, num=12):
    """Predictions and references as words, some of them alike, empty, of one word, or Chinese."""
    random = np.random.default_rng(seed)
    references = [report(random) for _ in range(num)]
    predictions = [text if random.random() < 0.3 else report(random) for text in references]
    predictions[0], predictions[1], references[2] = '', 'normal', 'normal'
    predictions[3], references[3] = '双肺纹理清晰，心影不大。', '双肺清晰，心影增大。CT normal'
    return [report_tokens(text) for text in predictions], [report_tokens(text) for text in references]


# ---- words

# What PTBTokenizer of CoreNLP 3.4.1 with pycocoevalcap's list of punctuation says, run once.
PTB = {
    'Findings: The heart size is normal. No effusion, or pneumothorax.':
    'findings the heart size is normal no effusion or pneumothorax',
    'Impression: 1. Stable 3mm nodule in the right lung.': 'impression 1 stable 3mm nodule in the right lung',
    'There is a 2.5cm x 3.4 cm mass; follow-up CT.': 'there is a 2.5 cm x 3.4 cm mass follow-up ct',
    'AP/lateral views. Right-sided PICC line': 'ap/lateral views right-sided picc line',
    "The patient's exam from 01/02/2019 isn't available, can't be compared, and cannot be assessed.":
    "the patient 's exam from 01/02/2019 is n't available ca n't be compared and can not be assessed",
    'NG tube courses below the diaphragm -- tip not seen': 'ng tube courses below the diaphragm tip not seen',
    'Approximately 50% of it. T12-L1 fracture.': 'approximately 50 % of it t12-l1 fracture',
    'Notified at 10:30 a.m. on 5/6': 'notified at 10:30 a.m. on 5/6',
    'Low lung volumes... no consolidation! Is there an effusion? No.':
    'low lung volumes no consolidation is there an effusion no',
    'Ratio > 0.5, 1,200 HU & <5 mm': 'ratio > 0.5 1,200 hu & < 5 mm',
    'Effusion/pneumothorax. 1.2-cm nodule; 10-15 mm; 3–4 mm; the lung’s apex':
    "effusion/pneumothorax 1.2-cm nodule 10-15 mm 3 4 mm the lung 's apex",
}  # yapf: disable


@pytest.mark.parametrize('text', PTB)
def test_english_words_are_those_of_ptbtokenizer(text):
    assert ' '.join(report_tokens(text)) == PTB[text]


@pytest.mark.parametrize('text, words', [
    ('双肺清晰，未见异常。', '双 肺 清 晰 未 见 异 常'),
    ('右肺上叶见3.5cm结节（ＣＴ值约30ＨＵ）', '右 肺 上 叶 见 3.5 cm 结 节 ct 值 约 30hu'),
    ('**Impression:** [normal] (see above) vs. prior', 'impression normal see above vs prior'),
    ('T2WI高信号，50％', 't2wi 高 信 号 50 %'),
    ('', ''),
    (' \n。—- ** __', ''),
])
def test_words_of_other_texts(text, words):
    assert report_tokens(text) == words.split()


# ---- ROUGE-L


def slow_lcs(one, two):

    @lru_cache(None)
    def longest(i, j):
        if i == len(one) or j == len(two):
            return 0
        return 1 + longest(i + 1, j + 1) if one[i] == two[j] else max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


@pytest.mark.parametrize('seed', range(8))
def test_rouge_l_is_that_of_a_slow_subsequence(seed):
    for prediction, reference in zip(*corpus(seed)):
        length = slow_lcs(tuple(prediction), tuple(reference))
        wanted = 2 * length / (len(prediction) + len(reference)) if prediction else 0
        assert rouge_l(prediction, reference) == pytest.approx(wanted, abs=1e-12)


def test_rouge_l_is_that_of_rouge_score_on_plain_words():
    from rouge_score.rouge_scorer import RougeScorer
    scorer = RougeScorer(['rougeL'])
    random = np.random.default_rng(8)
    for _ in range(10):
        one, two = report(random), report(random)
        assert rouge_l(report_tokens(one), report_tokens(two)) == scorer.score(two, one)['rougeL'].fmeasure


@pytest.mark.parametrize(
    'prediction, reference, value',
    [
        ('a b c', 'a b c', 1),
        ('A B', 'a b', 1),
        ('a a b', 'a b', 1),  # Distinct words count.
        ('b a', 'a b', 1 / 2),
        ('a b. c d.', 'c d. a b.', 1),  # Sentences may stand in any order.
        ('a b c d', 'a x c y', 2 / 4),
        ('a, b', 'a b', 1 / 2),  # Punctuation stays on the words.
        ('a b', 'a b c d', 2 * 1 * .5 / 1.5),
        ('no effusion.', 'no effusion. no edema.', 2 * 1 * (2 / 3) / (5 / 3)),
        ('x', 'a', 0),
        ('', 'a', 0),
        ('. .', 'a', 0),
    ])
def test_rouge_l_of_medevalkit_by_hand(prediction, reference, value):
    assert rouge_l_medevalkit(prediction, reference) == pytest.approx(value, abs=1e-7)


def test_rouge_l_of_medevalkit_reads_an_answer_without_an_end():
    limit = sys.getrecursionlimit()
    assert rouge_l_medevalkit('the lungs are clear ' * 1000, 'the lungs are clear') == pytest.approx(1, abs=1e-7)
    assert sys.getrecursionlimit() == limit


# ---- METEOR


@pytest.mark.parametrize(
    'prediction, reference, matches, chunks',
    [
        ('the heart is normal', 'the heart is normal', 4, 1),
        ('normal', 'normal', 1, 1),
        ('is normal the heart', 'the heart is normal', 4, 2),
        ('the lungs are clear', 'the heart is normal', 1, 1),
        ('nodules seen', 'nodule seen', 2, 1),  # The same stem.
        ('heart size normal', 'heart is normal', 2, 2),
        ('双肺清晰', '双肺纹理清晰', 4, 2),
        ('CT 示双肺正常', 'CT 双肺正常', 5, 2),
        ('normal heart', 'effusion', 0, 0),
        ('', 'effusion', 0, 0),
    ])
def test_meteor_by_hand(prediction, reference, matches, chunks):
    one, two = report_tokens(prediction), report_tokens(reference)
    value = 0
    if matches:
        precision, recall = matches / len(one), matches / len(two)
        value = precision * recall / (.9 * precision + .1 * recall) * (1 - .5 * (chunks / matches)**3)
    assert meteor(one, two, synonyms=False) == pytest.approx(value, abs=1e-12)


class FakeWordNet:
    """Heart and ticker are synonyms."""

    class Lemma:

        def __init__(self, name):
            self.name = lambda: name

    class Set:

        @staticmethod
        def lemmas():
            return [FakeWordNet.Lemma(name) for name in ('heart', 'ticker')]

    @staticmethod
    def ensure_loaded():
        pass

    @staticmethod
    def synsets(word):
        return [FakeWordNet.Set] if word in ('heart', 'ticker') else []


def test_meteor_uses_synonyms_where_asked(monkeypatch):
    monkeypatch.setattr('nltk.corpus.wordnet', FakeWordNet)
    one, two = report_tokens('the ticker is normal'), report_tokens('the heart is normal')
    assert has_wordnet()
    assert meteor(one, two, synonyms=True) == pytest.approx(1 - .5 / 4**3)
    assert meteor(one, two, synonyms=False) == pytest.approx(.75 * (1 - .5 * (2 / 3)**3))


def options_of(*args):
    parser = argparse.ArgumentParser()
    _cli_eval_reports.add_arguments(parser)
    return _cli_eval_reports.options(parser.parse_args(args))


def test_the_name_says_whether_there_are_synonyms(monkeypatch):
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


# ---- BLEU


def bleu_values(predictions, references):
    counts = [bleu_counts(*pair) for pair in zip(predictions, references)]
    sums = np.array([x for name in BLEU_COLUMNS for x in (sum(c[name] for c in counts), len(counts))], np.float64)
    return [float(bleu(order).formula(sums)) for order in range(1, 5)]


@pytest.mark.parametrize('seed', range(8))
def test_bleu_is_that_of_nltk_and_pycocoevalcap(seed):
    from pycocoevalcap.bleu.bleu import Bleu
    predictions, references = corpus(seed)
    texts = [{i: [' '.join(words)] for i, words in enumerate(part)} for part in (references, predictions)]
    found = bleu_values(predictions, references)
    # It adds 1e-9 to each denominator.
    np.testing.assert_allclose(found, Bleu(4).compute_score(*texts, verbose=0)[0], atol=1e-9)
    # NLTK counts an n-gram too many in each text that has none.
    predictions, references = predictions[3:], references[3:]
    of_nltk = [corpus_bleu([[words] for words in references], predictions, [1 / n] * n) for n in range(1, 5)]
    np.testing.assert_allclose(bleu_values(predictions, references), of_nltk, atol=1e-12)


@pytest.mark.parametrize('predictions, references, values', [
    (['a b c d e'], ['a b c d e'], [1, 1, 1, 1]),
    (['a b c'], ['a b c d e f'], [math.exp(-1)] * 3 + [0]),
    (['a a a a'], ['a b c d'], [1 / 4, 0, 0, 0]),
    ([''], ['a'], [0, 0, 0, 0]),
    (['', 'a b c d'], ['a b c d', 'a b c d'], [math.exp(-1)] * 4),
    (['a'], ['a'], [1, 0, 0, 0]),
    (['a b c d x y z'], ['a b c d'], [4 / 7, (4 / 7 * 3 / 6)**.5, (4 / 7 * 3 / 6 * 2 / 5)**(1 / 3),
                                      (4 / 7 * 3 / 6 * 2 / 5 * 1 / 4)**.25]),
    (['b a'], ['a b'], [1, 0, 0, 0]),
    ([], [], [np.nan] * 4),
])  # yapf: disable
def test_bleu_by_hand(predictions, references, values):
    found = bleu_values([text.split() for text in predictions], [text.split() for text in references])
    np.testing.assert_allclose(found, values, atol=1e-12)


def test_bleu_of_many_resamplings_at_once():
    counts = [bleu_counts(*pair) for pair in zip(*corpus(0))]
    table = np.array([[x for name in BLEU_COLUMNS for x in (c[name], 1)] for c in counts])
    draws = np.random.default_rng(0).integers(0, 3, (5, len(counts)))
    values = bleu(4).formula(draws @ table)
    assert values.tolist() == [float(bleu(4).formula(draw @ table)) for draw in draws]


# ---- CIDEr


@pytest.mark.parametrize('seed', range(8))
def test_cider_d_is_that_of_pycocoevalcap(seed):
    from pycocoevalcap.cider.cider import Cider
    predictions, references = corpus(seed)
    texts = [{i: [' '.join(words)] for i, words in enumerate(part)} for part in (references, predictions)]
    np.testing.assert_allclose(cider(predictions, references)[1], Cider().compute_score(*texts)[1], atol=1e-9)


def slow_cider(predictions, references):
    """The cosines of dense TF-IDF vectors."""
    scores = np.zeros(len(references))
    for n in range(1, 5):
        cut = [[[tuple(words[i:i + n]) for i in range(len(words) - n + 1)] for words in part]
               for part in (predictions, references)]  # yapf: disable
        names = sorted({ngram for part in cut for found in part for ngram in found})
        counts = np.array([[[found.count(name) for name in names] for found in part] for part in cut], np.float64)
        frequency = np.maximum((counts[1] > 0).sum(axis=0), 1)
        one, two = counts * np.log(len(references) / frequency)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        scores += 10 / 4 * (one * two).sum(axis=1) / np.where(norms > 0, norms, 1)
    return scores


@pytest.mark.parametrize('seed', range(8))
def test_cider_is_that_of_dense_vectors(seed):
    predictions, references = corpus(seed)
    np.testing.assert_allclose(cider(predictions, references)[0], slow_cider(predictions, references), atol=1e-9)


def test_cider_by_hand():
    # Each word is in one of the two references: idf log 2. 1-grams: cosine 1/2; clipped the same. 2-grams: nothing.
    plain, defended = cider([['a', 'x'], ['a', 'a', 'a']], [['a', 'b'], ['c', 'd']])
    assert plain.tolist() == pytest.approx([10 / 4 / 2, 0])
    assert defended.tolist() == pytest.approx([10 / 4 / 2, 0])
    # 'a a' against 'a b': cosine 2 / (2 sqrt 2); clipped 1 / (2 sqrt 2). One word too many costs exp(-1 / 72).
    plain, defended = cider([['a', 'a'], ['c', 'd', 'c']], [['a', 'b'], ['c', 'd']])
    assert plain[0] == pytest.approx(2.5 * 2 / 8**.5) and defended[0] == pytest.approx(2.5 / 8**.5)
    assert plain[1] == pytest.approx(2.5 * (3 / 10**.5 + 1 / 2**.5))
    assert defended[1] == pytest.approx(2.5 * (2 / 10**.5 + 1 / 2**.5) * math.exp(-1 / 72))


def test_the_scale_of_cider():
    different = [f'{word} one two three'.split() for word in 'abcd']
    for values in cider(different, different):
        assert values.tolist() == pytest.approx([10] * 4)
    short = [['a', 'b'], ['c'], ['d', 'e', 'f']]
    for values in cider(short, short):
        assert values.tolist() == pytest.approx([5, 2.5, 7.5])
    same = [['no', 'acute', 'findings', 'seen']] * 3
    for values in cider(same, same):
        assert values.tolist() == [0, 0, 0]
    assert np.isnan(cider([['a']], [['a']])).all()
    counts = DocumentFrequencies.of([['a', 'a', 'b'], ['a']]).counts
    assert {
        ' '.join(ngram): count
        for ngram, count in counts.items()
    } == {
        'a': 2,
        'b': 1,
        'a a': 1,
        'a b': 1,
        'a a b': 1
    }


# ---- RaTEScore

PACKAGE = """
class RaTEScore:
    def __init__(self, bert_model, eval_model, use_gpu):
        self.models = bert_model, eval_model

    def compute_score(self, candidates, references):
        assert len(candidates) == len(references) == 1
        return [] if len(candidates[0]) < 3 else [0.25]
"""


@pytest.fixture
def ratescore_package(tmp_path, monkeypatch):
    """Stands where the real one would, in a folder that is also that of the weights."""
    monkeypatch.syspath_prepend(str(tmp_path))
    kept = {name: sys.modules.pop(name, None) for name in ('RaTEScore', 'medspacy')}
    for name in kept:
        (tmp_path / f'{name}.py').write_text(PACKAGE)
    (tmp_path / 'config.json').write_text('{}')
    yield str(tmp_path)
    for name, module in kept.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def test_ratescore(ratescore_package, tmp_path):
    folder = ratescore_package
    options = options_of('--rate-ner', folder, '--rate_embeddings', folder)
    assert ratescore('', 'clear', folder, folder) == 0
    # The package gives nothing for a text without a sentence.
    assert ratescore('ok', 'clear', folder, folder) == 0
    rows = [{'id': i, 'answer': 'Clear lungs.', 'response': text} for i, text in enumerate(['Clear lungs.', ''])]
    evaluation = scored(tmp_path, rows, rows, **options)
    assert evaluation.table.columns['ratescore'].tolist() == [.25, 0]
    assert evaluation.scores['ratescore'].value == .125


def test_ratescore_is_never_downloaded(ratescore_package, monkeypatch):
    with pytest.raises(ValueError, match="'Angelakeke/RaTE-NER-Deberta' is not a folder with a config.json"):
        options_of('--rate-ner', 'Angelakeke/RaTE-NER-Deberta', '--rate-embeddings', ratescore_package)
    monkeypatch.setattr('sys.path', [])
    with pytest.raises(ValueError, match='pip install RaTEScore'):
        check_ratescore(ratescore_package, ratescore_package)


# ---- the task


def scored(folder, references, predictions, **options):
    for name, rows in (('ref', references), ('pred', predictions)):
        (folder / f'{name}.jsonl').write_text('\n'.join(json.dumps(row, ensure_ascii=False) for row in rows))
    return evaluate(
        ReportsTask(**options), str(folder / 'ref.jsonl'), str(folder / 'pred.jsonl'), EvaluationSettings(repeats=50))


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
    # Its distinct words come from a small vocabulary here.
    assert worse.pop('rouge_l_medevalkit').value < .85
    assert all(worse[name].value < .7 * best[name].value for name in worse)
    assert worse['cider_d'].value < 1.5 and worse['bleu_4'].value < .5
    assert all(score.low <= score.value <= score.high for name, score in worse.items() if 'bleu' not in name)


def test_what_is_wrong_with_predictions_is_counted(tmp_path):
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


def test_sections_that_are_missing_are_flagged():
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


@pytest.mark.parametrize('reference', [{'answer': ''}, {'answer': ' **。'}, {'findings': '', 'impression': ' '}])
def test_an_empty_reference_names_its_row(reference):
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


def test_the_texts_stay_out_of_the_scores_and_options_travel(tmp_path):
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
