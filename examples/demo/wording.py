"""The questions and answers of the demo rows, in English and Chinese.

Questions have several wordings; answers have one wording per kind, so that a language model of two layers can learn it.
A structure's name always follows its `[SEG]`: to predict the name, the hidden state at `[SEG]` must encode which
structure is meant. A pretrained MLLM does that anyway; one that starts from noise learns it from these texts.
"""
from structures import Structure

LANGUAGES = ('en', 'zh')

MODALITIES = {
    'ihc': {
        'en': 'Immunohistochemistry',
        'zh': '免疫组化'
    },
    'fundus': {
        'en': 'Fundus photography',
        'zh': '眼底照相'
    },
    'ct': {
        'en': 'Computed tomography',
        'zh': '计算机断层扫描'
    },
    'microscopy': {
        'en': 'Phase microscopy',
        'zh': '相位显微成像'
    },
}

# `{verb}` is `is` or `are`.
SEGMENT_QUESTIONS = {
    'en': ('Segment the {name}.', 'Where {verb} the {name}?', 'Outline the {name}.', 'Please mark the {name}.'),
    'zh': ('请分割{name}。', '{name}在哪里？', '请勾画{name}。', '请标出图中的{name}。'),
}
TOKEN_QUESTIONS = {
    'en': ('Mark the {name} with [SEG].', 'Answer with [SEG]: where {verb} the {name}?'),
    'zh': ('请用[SEG]标出{name}。', '请用[SEG]回答：{name}在哪里？'),
}
PAIR_QUESTIONS = {
    'en': ('Segment the {first} and the {second}.', 'Outline the {first} and the {second}.'),
    'zh': ('请分割{first}和{second}。', '请勾画{first}和{second}。'),
}
SECOND_IMAGE_QUESTIONS = {
    'en': ('Segment the {name} in the second image.', 'Where {verb} the {name} in the second image?'),
    'zh': ('请分割第二张图中的{name}。', '第二张图中的{name}在哪里？'),
}
BOTH_IMAGES_QUESTIONS = {
    'en': ('Segment the {first} in the first image and the {second} in the second image.', ),
    'zh': ('请分割第一张图中的{first}和第二张图中的{second}。', ),
}
MODALITY_QUESTIONS = {
    'en': ('What imaging modality is this?', 'Which modality is shown?', 'How was this image made?'),
    'zh': ('这是什么成像方式？', '图中是哪种成像方式？', '这张图是怎么得到的？'),
}
DESCRIBE_QUESTIONS = {
    'en': ('Describe the image.', 'What does the image show?', 'Give a short description.'),
    'zh': ('请描述这张图。', '图中有什么？', '请简短描述。'),
}
# Only structures that the image certainly does not show: a tissue section shows cells, a CT shows a large vessel.
ABSENT = {
    'ihc': ('lung', 'bone', 'retinal_background'),
    'retina': ('lung', 'bone', 'stromal_nuclei', 'dab_tissue'),
    'ct': ('retinal_background', 'stromal_nuclei', 'dab_tissue'),
    'cell': ('lung', 'bone', 'retinal_background', 'dab_tissue'),
}
PRESENCE_QUESTIONS = {
    'en': ('Does the image show the {name}?', 'Can you see the {name} here?'),
    'zh': ('图中有{name}吗？', '能看到{name}吗？'),
}

DEFINITIONS = {
    'en': (
        ('What is DAB?', 'DAB is a brown stain.'),
        ('What is haematoxylin?', 'Haematoxylin is a blue stain for nuclei.'),
        ('What is immunohistochemistry?', 'It marks a protein in tissue with an antibody and a stain.'),
        ('What is the stroma?', 'The stroma is the tissue that supports an organ.'),
        ('What is a nucleus?', 'The nucleus is the part of a cell that holds the DNA.'),
        ('What is a lumen?', 'A lumen is the space inside a gland or a vessel.'),
        ('What is the retina?', 'The retina is the layer of the eye that senses light.'),
        ('What is fundus photography?', 'It is a photograph of the back of the eye.'),
        ('What is a vessel?', 'A vessel is a tube that carries blood.'),
        ('What is computed tomography?', 'It computes slices of the body from X-rays.'),
        ('What is a Hounsfield unit?', 'It measures X-ray density. Water is 0.'),
        ('What is the lung?', 'The lung is the organ of breathing.'),
        ('What is bone?', 'Bone is hard tissue. It is bright in computed tomography.'),
        ('What is soft tissue?', 'Soft tissue is muscle, fat and organs.'),
        ('What is a segmentation?', 'A segmentation says which pixels belong to a structure.'),
        ('What does [SEG] mean?', 'It stands for a mask.'),
    ),
    'zh': (
        ('什么是DAB？', 'DAB是一种棕色染料。'),
        ('什么是苏木精？', '苏木精是染细胞核的蓝色染料。'),
        ('什么是间质？', '间质是支持器官的组织。'),
        ('什么是视网膜？', '视网膜是眼睛的感光层。'),
        ('什么是计算机断层扫描？', '它用X射线计算身体的断层图像。'),
        ('什么是软组织？', '软组织是肌肉、脂肪和器官。'),
        ('什么是分割？', '分割指出哪些像素属于一个结构。'),
        ('[SEG]是什么意思？', '它代表一个掩膜。'),
    ),
}


def name_of(structure: Structure, language: str) -> str:
    return structure.english if language == 'en' else structure.chinese


def ask(question: str, structure: Structure, language: str) -> str:
    """Fills a question about one structure."""
    return question.format(name=name_of(structure, language), verb='are' if structure.plural else 'is')


def answer_masks(structures: list[Structure], language: str) -> str:
    """One `[SEG]` for each structure, in their order, on one image."""
    if language == 'en':
        return ' '.join(f'[SEG] {structure.english}.' for structure in structures)
    return ''.join(f'[SEG]{structure.chinese}。' for structure in structures)


def answer_images(parts: list[tuple[int, Structure]], language: str) -> str:
    """One `[SEG]` for each pair of image index (0 or 1) and structure."""
    if language == 'en':
        return ' '.join(f'{("First", "Second")[image]} image: [SEG] {s.english}.' for image, s in parts)
    return ''.join(f'第{"一二"[image]}张图：[SEG]{s.chinese}。' for image, s in parts)


def answer_modality(modality: str, language: str) -> str:
    return MODALITIES[modality][language] + ('.' if language == 'en' else '。')


def describe(covers: list[tuple[Structure, float]], language: str) -> str:
    """Describes a tile, the largest structure first, with its share of the tile rounded to 10 %.

    Args:
        covers: structures with their share of the tile, in 0..1.
        language: `en` or `zh`.
    """
    (largest, cover), *others = sorted(covers, key=lambda pair: -pair[1])
    percent = 10 * round(10 * cover)
    names = [name_of(structure, language) for structure, _ in others]
    if language == 'zh':
        return f'{largest.chinese}约占{percent}%。' + (f'还有{"和".join(names)}。' if names else '')
    verb = 'cover' if largest.plural else 'covers'
    first = f'The {largest.english} {verb} about {percent}% of the image.'
    return first + (f' It also shows the {" and the ".join(names)}.' if names else '')


def answer_presence(structure: Structure, present: bool, language: str) -> str:
    if language == 'zh':
        return f'{"有" if present else "没有"}{structure.chinese}。'
    return f'{"Yes, it shows" if present else "No, it does not show"} the {structure.english}.'
