"""Random reports, evaluations of reports, and a WordNet of two words, for the tests of `citrusv eval reports`."""
import argparse
import numpy as np
from pathlib import Path
from support.rows import write_jsonl
from typing import Any

from swift_citrusv.cli.eval import reports as _cli_eval_reports
from swift_citrusv.scoring.evaluate import EvaluationSettings, evaluate
from swift_citrusv.scoring.radiology_reports.reports import ReportsTask
from swift_citrusv.scoring.radiology_reports.text_metrics import report_tokens

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


def options_of(*args):
    parser = argparse.ArgumentParser()
    _cli_eval_reports.add_arguments(parser)
    return _cli_eval_reports.options(parser.parse_args(args))


def scored(folder: Path, references: list[dict[str, Any]], predictions: list[dict[str, Any]], **options: Any):
    """Evaluates predictions with the options of `ReportsTask`."""
    files = write_jsonl(folder / 'ref.jsonl', references), write_jsonl(folder / 'pred.jsonl', predictions)
    return evaluate(ReportsTask(**options), *files, EvaluationSettings(repeats=50))


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
