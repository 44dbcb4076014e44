"""A tiny random Qwen2.5-VL with a newly trained tokenizer, for tests, demos and laptops.

It has the layout of the real model: the same classes, files and special tokens.
"""
import torch
from collections.abc import Iterable
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration,
                          Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor)

SPECIAL_TOKENS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|object_ref_start|>', '<|object_ref_end|>',
                  '<|box_start|>', '<|box_end|>', '<|quad_start|>', '<|quad_end|>', '<|vision_start|>',
                  '<|vision_end|>', '<|vision_pad|>', '<|image_pad|>', '<|video_pad|>')
CORPUS = (
    'system You are a helpful assistant. user assistant',
    'Segment the nuclei. The nuclei: . Where are the vessels? Please outline the cell, the bone and the soft tissue.',
    'What imaging modality is this? A computed tomography slice. Describe the image in one sentence.',
    '请分割细胞核。血管：。这是什么成像方式？免疫组化。请描述这张图像。',
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    '<|vision_start|><|image_pad|><|vision_end|>{% elif part["type"] == "video" %}'
    '<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part["text"] }}{% endif %}{% endfor %}{% endif %}'
    '<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}')


def train_tokenizer(corpus: Iterable[str] = CORPUS, vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer with Qwen2.5-VL's special tokens; it can encode any text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token='<|im_end|>',
        pad_token='<|endoftext|>',
        additional_special_tokens=list(SPECIAL_TOKENS[1:]))


def build_tiny_mllm(output_dir: str,
                    corpus: Iterable[str] = CORPUS,
                    seed: int = 0,
                    hidden_size: int = 128,
                    max_pixels: int | None = None) -> None:
    """Writes a random Qwen2.5-VL of about 1 M parameters, with its processor, to `output_dir`.

    Args:
        output_dir: Created if it does not exist.
        corpus: Texts to train the tokenizer on.
        seed: Seed of the random weights.
        hidden_size: Width of the language model, a multiple of 32.
        max_pixels: Larger images are shrunk to about this number of pixels for the vision encoder (default: 28 * 28 *
            1280).
    """
    tokenizer = train_tokenizer(corpus)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    temporal, height = hidden_size // 32, hidden_size * 3 // 64
    config = Qwen2_5_VLConfig(
        text_config={
            'vocab_size': -(-(len(tokenizer) + 1) // 128) * 128,
            'hidden_size': hidden_size,
            'intermediate_size': 2 * hidden_size,
            'num_hidden_layers': 2,
            'num_attention_heads': 4,
            'num_key_value_heads': 2,
            'max_position_embeddings': 4096,
            'rope_parameters': {
                'rope_type': 'default',
                'rope_theta': 10000.0,
                # Temporal, height and width channels of half a head, as in the real model (16, 24, 24 of 64).
                'mrope_section': [temporal, height, hidden_size // 8 - temporal - height],
            },
            'bos_token_id': ids['<|endoftext|>'],
            'eos_token_id': ids['<|im_end|>'],
            'pad_token_id': ids['<|endoftext|>'],
        },
        vision_config={
            'depth': 2,
            'hidden_size': 64,
            'intermediate_size': 128,
            'num_heads': 4,
            'out_hidden_size': hidden_size,
            'fullatt_block_indexes': [1],
            'window_size': 112,
        },
        image_token_id=ids['<|image_pad|>'],
        video_token_id=ids['<|video_pad|>'],
        vision_start_token_id=ids['<|vision_start|>'],
        vision_end_token_id=ids['<|vision_end|>'],
        bos_token_id=ids['<|endoftext|>'],
        eos_token_id=ids['<|im_end|>'],
        pad_token_id=ids['<|endoftext|>'],
        tie_word_embeddings=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    pixels = {'shortest_edge': 56 * 56, 'longest_edge': max_pixels or 28 * 28 * 1280}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE)
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
