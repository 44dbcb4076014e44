"""Answers that go through the options: what they conclude counts, however it is written, or they are ambiguous."""
from swift_citrusv.scoring.questions.choices import find_choice

CHEST = {'A': 'Pneumonia', 'B': 'Heart failure', 'C': 'Pulmonary embolism', 'D': 'Pneumothorax', 'E': 'Asthma'}
THYROID = {'A': 'Papillary carcinoma', 'B': 'Follicular carcinoma', 'C': 'Medullary carcinoma', 'D': 'Lymphoma'}
CHINESE = {'A': '肺炎', 'B': '心力衰竭', 'C': '肺栓塞', 'D': '气胸', 'E': '哮喘'}
WALK = ('A. Pneumonia: fever and sputum would be expected.\nB. Heart failure: edema would be expected.\n'
        'C. Pulmonary embolism: sudden dyspnea, clear lungs.\nD. Pneumothorax: a pleural line is absent.\n')
INLINE = ('A. Pneumonia would present with fever. B. Heart failure would show edema. '
          'C. Pulmonary embolism presents with sudden dyspnea. D. Pneumothorax would show a pleural line. ')
ZH_WALK = 'A. 肺炎：一般有发热咳痰。\nB. 心力衰竭：多有水肿。\nC. 肺栓塞：突发呼吸困难。\nD. 气胸：可见胸膜线。\n'
# After each walk, these choose C. ('?' is ambiguous, '' is none.)
ENDINGS = [
    'The most likely diagnosis is pulmonary embolism.',
    'This is most consistent with pulmonary embolism.',
    'The findings point to pulmonary embolism.',
    'Therefore, pulmonary embolism.',
    'Hence C.',
    'So it has to be C.',
    'That leaves pulmonary embolism.',
    'This leaves C.',
    'I would go with C.',
    'I favor pulmonary embolism.',
    'I favour option C here.',
    'Overall, the picture is that of a pulmonary embolism.',
    'In conclusion: pulmonary embolism.',
    'Pulmonary embolism it is.',
    'Best answered by C.',
    'Best explained by pulmonary embolism.',
    'The best answer is C.',
    'Answer: C',
    'My pick: C',
    'Final verdict: (C).',
    '**Pulmonary embolism** is therefore the diagnosis.',
    'Taken together, the presentation is classic for pulmonary embolism.',
    'Given all this, pulmonary embolism is the leading diagnosis.',
    'Of these, only pulmonary embolism explains the clear lungs.',
    'The diagnosis: pulmonary embolism (C).',
    'Pneumonia was my first thought, but the diagnosis is pulmonary embolism.',
    'At first I considered A, but it must be C.',
    'Rather than pneumonia, I conclude pulmonary embolism.',
    'Not A, B or D; C.',
    '> **C**',
    '\\boxed{C}',
    'C',
    '(c)',
    'C. Pulmonary embolism',
    '### Conclusion\n\nC) Pulmonary embolism',
    '{"answer": "C"}',
    '因此选C',
    '综上，最可能的诊断是 Pulmonary embolism。',
]  # yapf: disable
ZH_ENDINGS = ['综上，最可能的诊断是肺栓塞。', '因此考虑肺栓塞。', '故选C。', '所以是C', '应诊断为肺栓塞。', '最符合的是肺栓塞。', '综合分析，本例为肺栓塞。',
              '因此，该患者首先考虑肺栓塞，而不是肺炎。', '只剩肺栓塞。', '结论：肺栓塞。', '答案：C', '提示肺栓塞。', '起初怀疑肺炎，但最终诊断为肺栓塞。',
              '【答案】C', '由此可见为C项。']  # yapf: disable
# Whole answers.
OTHERS = [
    # Marked in the list.
    ('A. Pneumonia - no fever\nB. Heart failure - no edema\nC. Pulmonary embolism - fits best\nD. Air - no',
     'C'),
    ('A: ✗\nB: ✗\nC: ✓\nD: ✗', 'C'), ('A. Pneumonia ❌\nC. Pulmonary embolism ✅', 'C'),
    ('A. Pneumonia: incorrect. B. Heart failure: incorrect. C. Pulmonary embolism: correct.', 'C'),
    ('| A | no |\n| B | no |\n| C | yes |', 'C'),
    ('- A) Pneumonia: unlikely, no fever\n- C) Pulmonary embolism: most likely\n- D) Pneumothorax: unlikely', 'C'),
    # Before the list.
    ('The most likely diagnosis is pulmonary embolism.\nA. Pneumonia: would need fever.\nB. Heart failure: would need '
     'edema.', 'C'),
    ('C. Pulmonary embolism. Pneumonia would present with fever, and heart failure with edema.', 'C'),
    ('C\n\nPneumonia would present with fever. Heart failure would present with edema.', 'C'),
    ('The answer is C. A. Pneumonia has fever. B. Heart failure has edema. D. Pneumothorax has a pleural line.', 'C'),
    # Prose.
    ('Pneumonia would cause fever. Heart failure would cause edema. The most likely diagnosis is pulmonary embolism.',
     'C'),
    ('Pneumonia and asthma are possible, but pulmonary embolism is the most likely diagnosis.', 'C'),
    ('I considered pneumonia and heart failure; the sudden onset makes me favor pulmonary embolism.', 'C'),
    # Elimination.
    ('A, B, D and E are wrong.', 'C'), ('A is incorrect. B is incorrect. D is incorrect. E is incorrect.', 'C'),
    ('A. Pneumonia: ruled out\nB. Heart failure: ruled out\nD. Pneumothorax: ruled out\nE. Asthma: ruled out', 'C'),
    # No conclusion, or two.
    (WALK, '?'), (INLINE, '?'), (f'{WALK}It could be A or C.', '?'),
    (f'{WALK}Pneumonia and pulmonary embolism are both likely.', '?'), ('A or C, hard to tell.', '?'),
    (f'{WALK}More tests are needed.', '?'),
    ('Option A is possible. Option C is possible.', '?'), ('Either pneumonia or pulmonary embolism.', '?'),
]  # yapf: disable


def read(text: str, options: dict[str, str], several: bool = False) -> str:
    choice = find_choice(text, options, several)
    return '?' if choice.problem == 'ambiguous' else choice.letters


def test_what_follows_the_list_decides():
    wrong = {}
    for walk, options, endings in ((WALK, CHEST, ENDINGS), (INLINE, CHEST, ENDINGS), (ZH_WALK, CHINESE, ZH_ENDINGS)):
        for ending in endings:
            found = read(walk + ending, options)
            if found != 'C':
                wrong[walk[:12], ending] = found
    assert not wrong, wrong


def test_whole_answers():
    wrong = {text: (found, expected) for text, expected in OTHERS if (found := read(text, CHEST)) != expected}
    assert not wrong, wrong


def test_every_option_can_be_concluded():
    """The last item of a list is not taken for the conclusion, nor the first."""
    for options, language in ((CHEST, 'en'), (THYROID, 'en'), (CHINESE, 'zh')):
        walk = '\n'.join(f'{letter}. {text}: see the {"findings" if language == "en" else "检查"}.'
                         for letter, text in options.items())
        for letter, text in options.items():
            for ending in ((f'The most likely diagnosis is {text.lower()}.',
                            f'Hence {letter}.') if language == 'en' else (f'综上，最可能的诊断是{text}。', f'故选{letter}')):
                assert read(f'{walk}\n\n{ending}', options) == letter, (letter, ending)
        assert read(walk, options) == '?'


def test_sets_keep_their_lists():
    assert read('A. Pneumonia\nC. Pulmonary embolism', CHEST, True) == 'AC'
    assert read(f'{WALK}The correct answers are A and C.', CHEST, True) == 'AC'
