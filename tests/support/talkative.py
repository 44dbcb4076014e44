"""A random model with answers of many lengths, with none, one or many `[SEG]` tokens, and masks that differ."""
import torch
from support.weights import spread
from transformers import AutoTokenizer

from swift_citrusv.model.config import CitrusVConfig
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration

WORDS = (' cell', ' nucleus', '。', '.', ' image', '1', '2', ' the', '\n', ' and')


def build_talkative(source: str, folder: str, seed: int = 1) -> str:
    """Writes a checkpoint like `source` that speaks a dozen words, `[SEG]` and the end token among them.

    Args:
        source: A tiny Citrus-V directory.
        folder: Where the new one goes.
        seed: Of its weights.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    config = CitrusVConfig.from_pretrained(source)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    model = CitrusVForConditionalGeneration.from_pretrained(source, config=config, dtype=torch.float32)
    spread(model, seed)
    generator = torch.Generator().manual_seed(seed)
    spoken = [tokenizer.encode(word, add_special_tokens=False)[-1] for word in WORDS]
    # The more often a token stands here, the more often it is said.
    spoken += [config.seg_token_id, tokenizer.eos_token_id]
    with torch.no_grad():
        model.lm_head.weight.zero_()
        for token in spoken:
            row = torch.randn(model.lm_head.weight.shape[1], generator=generator)
            model.lm_head.weight[token] += row * (1.5 if token == config.seg_token_id else 1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    from transformers import AutoProcessor
    AutoProcessor.from_pretrained(source).save_pretrained(folder)
    return folder
