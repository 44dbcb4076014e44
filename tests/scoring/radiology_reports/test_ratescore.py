"""RaTEScore, with a stand-in for its package."""
import pytest
import sys
from support.radiology_reports import options_of, scored

from swift_citrusv.scoring.radiology_reports.ratescore import check_ratescore, ratescore

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
    """A stand-in for the package, in a folder that also serves as that of the weights."""
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
    # The package returns no score for a text without a sentence.
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
