"""RaTEScore (Zhao et al. 2024) from its own package, with local weights. Downloads nothing."""
import functools
import importlib
import importlib.util
import os
from typing import Any

_PACKAGES = ('RaTEScore', 'medspacy')
_REMEDY = ('pip install RaTEScore medspacy, and download Angelakeke/RaTE-NER-Deberta (--rate-ner DIR) and '
           'FremyCompany/BioLORD-2023-C (--rate-embeddings DIR) from Hugging Face.')


def check_ratescore(ner: str, embeddings: str) -> None:
    """Checks before scoring that RaTEScore can be computed.

    Args:
        ner: Folder of the medical named entity recognition model.
        embeddings: Folder of the model that embeds the entities.

    Raises:
        ValueError: A package or a folder is missing.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ValueError(f'RaTEScore needs the package {package}, which is not installed: {_REMEDY}')
    for folder in (ner, embeddings):
        # Any other name would be looked up on the model hub.
        if not os.path.isfile(os.path.join(folder, 'config.json')):
            raise ValueError(
                f'RaTEScore needs its weights, and {folder!r} is not a folder with a config.json: {_REMEDY}')


def ratescore(prediction: str, reference: str, ner: str, embeddings: str) -> float:
    """RaTEScore of an English report.

    Args:
        prediction, reference: Texts.
        ner, embeddings: As in `check_ratescore`.

    Returns:
        0 to 1; 0 for an empty prediction. The package returns 0.5 if it finds no medical entity in one of the texts.

    Raises:
        ValueError: A package or a folder is missing.
    """
    if not prediction.strip():
        return 0.
    # One pair per call: in a list, the package drops texts without a sentence, and mispairs the rest.
    scores = _scorer(ner, embeddings).compute_score([prediction], [reference])
    return float(scores[0]) if scores else 0.


@functools.cache
def _scorer(ner: str, embeddings: str) -> Any:
    import torch
    check_ratescore(ner, embeddings)
    try:
        package = importlib.import_module('RaTEScore')
    except (ImportError, OSError) as e:
        raise ValueError(f'RaTEScore cannot be loaded ({e}): {_REMEDY}') from e
    return package.RaTEScore(bert_model=ner, eval_model=embeddings, use_gpu=torch.cuda.is_available())
