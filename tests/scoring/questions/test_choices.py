"""Options read from answers in many wordings; all expected values are by hand."""
import random
import time

from swift_citrusv.scoring.questions.choices import find_choice
from swift_citrusv.scoring.questions.final_answer import final_answer
from swift_citrusv.scoring.questions.yes_no import yes_or_no

LUNG = {'A': 'Viral pneumonia', 'B': 'Pneumonia', 'C': 'Lung cancer', 'D': 'Asthma', 'E': 'Pulmonary embolism'}
TEN = dict(zip('ABCDEFGHIJ', ('Aspirin', 'Heparin', 'Warfarin', 'E. coli', 'Vitamin C', 'tPA', 'Clopidogrel', 'Insulin',
                              'Metformin', 'None of the above')))  # yapf: disable
CHINESE = {'A': '肺炎', 'B': '肺结核', 'C': '肺癌', 'D': '哮喘'}
# In the lists below '?' is an ambiguous answer, '' is none.
FIVE_ENGLISH = [
    # A letter alone.
    ('A', 'A'), ('(A)', 'A'), ('A.', 'A'), ('b', 'B'), ('b)', 'B'), ('[D]', 'D'), ('E!', 'E'), ('"B"', 'B'),
    ('<C>', 'C'),
    ('**C**', 'C'), (r'\boxed{D}', 'D'), (r'The final answer is $\boxed{\text{E}}$.', 'E'), ('Option D', 'D'),
    ('Ｂ', 'B'),
    ('（Ｃ）', 'C'), (' \n C \n', 'C'),
    # A letter with its text, or with a reason.
    ('A) Viral pneumonia', 'A'), ('(c) Lung cancer', 'C'), ('D Asthma', 'D'), ('E: Pulmonary embolism', 'E'),
    ('C - Lung cancer', 'C'), ('B because the lobe is dense', 'B'), ('A because of fever', 'A'),
    ('A, as it is viral', 'A'),
    # Statements.
    ('The answer is B', 'B'), ('Answer: C', 'C'), ('Answer:\n\nE', 'E'), ('answer is a.', 'A'), ('ANSWER: D', 'D'),
    ('The correct option is (D).', 'D'), ('Correct answer: **B. Pneumonia**', 'B'), ('The answer is asthma', 'D'),
    ('I would choose D', 'D'), ("I'd go with option C.", 'C'), ('I choose (E)', 'E'), ('I think B', 'B'),
    ('The best choice would be C', 'C'), ('Answer: A, because of the virus', 'A'), ('not sure, maybe B', 'B'),
    ('A. Viral pneumonia\nB. Pneumonia\nC. Lung cancer\nThe answer is C', 'C'),
    ('**Answer: D**\n\n**Explanation:** A is wrong', 'D'), ('Based on the findings, C is the most likely answer', 'C'),
    # Denials.
    ('not A but B', 'B'), ('The answer is not A but B.', 'B'), ('Rather than A, I pick C', 'C'),
    ('The answer is (B) and not (C)', 'B'), ('A is incorrect. B is incorrect. C is correct.', 'C'),
    ('A and B are wrong; C fits', 'C'), ('A. Viral pneumonia - incorrect\nB. Pneumonia - correct', 'B'),
    ("I don't think it's A", ''), ('Not asthma, but lung cancer', 'C'), ('The patient has asthma, not pneumonia', 'D'),
    # Texts of options.
    ('viral pneumonia', 'A'), ('The most likely diagnosis is viral pneumonia.', 'A'), ('It is pneumonia.', 'B'),
    ('Asthma or lung cancer', '?'), ('Pneumonia (B)', 'B'),
    # Words that are no letters.
    ('A patient with fever has asthma.', 'D'), ('A patient presents with cough.', ''),
    ('I think the patient has fever', ''),
    ('The answer is A patient with pneumonia', 'B'), ('The answer is a tumor', ''), ('Vitamin C deficiency', ''),
    ('hepatitis B', ''), ('B cell lymphoma', ''), ('A-a gradient is high', ''), ('C-reactive protein', ''),
    ('CT scan', ''),
    ('bad', ''), ('As an AI, I cannot answer', ''), ('I', ''), ('F', ''), ('', ''), ('no idea', ''),
    ('A1c testing', ''),
    # Several.
    ('A, C', '?'), ('A or B', '?'), ('Either A or B', '?'), ('B/C', '?'), ('A. Asthma', '?'), ('Asthma (B)', '?'),
    ('The answer is A. The answer is B.', '?'), ('The answer is A or D', '?'),
    # Longer ones.
    ("Hm.\nA. Viral pneumonia: no.\nB. Pneumonia: maybe.\nC. Lung cancer: fits.\nThe diagnosis is C. Lung cancer.",
     'C'), ('{"answer": "B", "reason": "x"}', 'B'), ('{"answer": "Asthma"}', 'D'),
    ('The most likely diagnosis is C.', 'C'),
    ('Therefore, it would be **C. Lung cancer**, given smoking.', 'C'), ('The answer is B, D dimer is raised', 'B'),
    ('so the correct answer is:\n\n**B) Pneumonia**\n\nbecause A is less specific', 'B'),
    ('It is A 45-year-old man', ''),
    ('The answer is C, A is incorrect', 'C'), ('Neither A nor B; C is right', 'C'), ('A: No. B: Yes.', 'B'),
    ('So B', 'B'),
    ('So the answer is A. Wait, actually the answer is D.', 'D'),
    ('The answer is A... Therefore, the answer is C.', 'C'),
]  # yapf: disable
TEN_ENGLISH = [
    ('The answer is A, I think', 'A'), ('I think it is Heparin', 'B'), ('I', 'I'), ('The answer is I.', 'I'),
    ('I. Metformin', 'I'), ('I would give insulin', 'H'), ('E. coli', 'D'), ('The answer is E. coli', 'D'),
    ('The organism is E. coli.', 'D'), ('D. E. coli', 'D'), ('Vitamin C', 'E'), ('vitamin C is best', 'E'),
    ('none of the above', 'J'), ('(J)', 'J'), ('ACE inhibitors', ''), ('The answer is ACE inhibitor', ''),
    ('Heparin is wrong; the answer is warfarin', 'C'), ('Final answer: F\nReason: A, B and C are wrong', 'F'),
    (r'$\boxed{G}$ because A', 'G'), ('K', ''), ('H1 blockers', ''), ('Options: A, B', '?'),
]  # yapf: disable
FOUR_CHINESE = [
    ('答案是D', 'D'), ('选B', 'B'), ('答案：C', 'C'), ('正确答案为（Ｂ）', 'B'), ('故选A', 'A'), ('应选D。', 'D'), ('B选项正确', 'B'),
    ('选项C是正确的', 'C'), ('不是A，而是B', 'B'), ('答案不是A而是B', 'B'), ('排除A、B，选C', 'C'), ('A项错误，B项正确', 'B'),
    ('肺结核', 'B'), ('该患者最可能是肺癌。', 'C'), ('考虑哮喘，排除肺炎', 'D'), ('D。因为患者喘息', 'D'), ('答案是哮喘', 'D'),
    ('正确选项是:A.肺炎', 'A'), ('我选择D', 'D'), ('综上所述，答案选C', 'C'), ('最佳选项：D', 'D'), ('Ｃ', 'C'),
    ('诊断考虑为C。', 'C'), ('最可能的是B.肺结核', 'B'), ('A选项:肺炎不符合;B选项:符合。答案为B。', 'B'), ('【答案】C【解析】肺炎不符合', 'C'),
    ('A不正确，B不正确，C正确', 'C'), ('答案D，因为A错误', 'D'), ('应选择哮喘', 'D'), ('A 肺炎', 'A'), ('不选A选B', 'B'), ('答：B', 'B'),
    ('A型流感', ''), ('维生素D缺乏', ''), ('B超检查', ''), ('无法判断', ''), ('肺炎或肺癌', '?'), ('A、C', '?'), ('选A或B', '?'),
]  # yapf: disable
SETS = [
    ('ABD', 'ABD'), ('abd', 'ABD'), ('A, C', 'AC'), ('A、C、D', 'ACD'), ('答案：ABD', 'ABD'), ('选ACD', 'ACD'),
    ('The answer is A, B and D.', 'ABD'), ('B', 'B'), ('A and C are correct', 'AC'), ('(A)(C)', 'AC'), ('DCA', 'ACD'),
    ('A. Viral pneumonia\nC. Lung cancer', 'AC'), ('viral pneumonia and asthma', 'AD'), ('Options A and D', 'AD'),
    ('A and C are correct, B is incorrect', 'AC'), ('no idea', ''), ('bad luck', ''),
]  # yapf: disable


def _read(text: str, options: dict[str, str]) -> str:
    choice = find_choice(text, options)
    assert (choice.letters == '') == (choice.problem is not None)
    return '?' if choice.problem == 'ambiguous' else choice.letters


def test_single_choice():
    for answers, options in ((FIVE_ENGLISH, LUNG), (TEN_ENGLISH, TEN), (FOUR_CHINESE, CHINESE)):
        for text, expected in answers:
            assert _read(text, options) == expected, text


def test_sets():
    for text, expected in SETS:
        choice = find_choice(text, LUNG, several=True)
        assert (choice.letters, choice.problem) == (expected, None if expected else 'no_answer'), text


def test_options_without_texts():
    letters = dict.fromkeys('ABCD', '')
    assert [_read(text, letters) for text in ('The answer is C', 'D', 'A patient', '')] == ['C', 'D', '', '']


def test_options_that_contain_each_other():
    options = {'A': 'yes', 'B': 'no', 'C': 'maybe'}
    assert [_read(text, options) for text in ('Yes', 'no.', 'Maybe', 'B', 'The answer is yes.', 'A. yes')] == [
        'A', 'B', 'C', 'B', 'A', 'A']  # yapf: disable
    options = {'A': 'A and B', 'B': 'Left', 'C': 'Left and right', 'D': 'None'}
    assert [_read(text, options) for text in ('A and B', 'Left and right', 'It is left and right', 'left')] == [
        'A', 'C', 'C', 'B']  # yapf: disable
    assert _read('Same', {'A': 'same', 'B': 'Same'}) == '?'


def test_every_wording_with_every_letter():
    forms = ('{0}', '({0})', '{0}.', '{0}) {1}', '{0}. {1}', 'The answer is {0}', 'Answer: {0}', '答案是{0}', '选{0}',
             '**{0}**', '\\boxed{{{0}}}', 'The correct answer is **{0}. {1}**.', '{1}', 'Option {0} is correct.',
             'So I choose {0}', 'the answer is ({0}) {1}', '{0}: {1}', '正确答案：{0}。', '{0}\n\nExplanation: see it.',
             'The image shows a lesion. Therefore, the answer is {0}.')  # yapf: disable
    for letter in LUNG:
        for form in forms:
            assert _read(form.format(letter, LUNG[letter]), LUNG) == letter, (form, letter)


def test_no_text_raises():
    """Random texts give a valid choice and a valid yes or no."""
    random.seed(0)
    pieces = ['A', 'B', ' ', '(', ')', '.', ',', 'not', ' is ', 'answer', '答案', '选', '不是', '\\boxed{', '}', '\n', '*',
              'x',
              ':', 'or', '或', 'correct', 'I', "'", '{', '-', 'Pneumonia', '肺', '\0', '😀', '\ud800']  # yapf: disable
    for _ in range(400):
        text = ''.join(random.choices(pieces, k=random.randrange(12)))
        for several in (False, True):
            choice = find_choice(text, LUNG, several)
            assert set(choice.letters) <= set(LUNG) and (several or len(choice.letters) < 2)
        assert yes_or_no(text) in (None, 'yes', 'no', 'ambiguous')


def test_long_degenerate_answers_are_fast():
    """Repeated lists, cues and boxes, as in degenerate generations."""
    start = time.process_time()
    for piece in ('A, ', 'A and ', 'answer is ', '\\boxed{', '选', 'A. x\n', 'not A '):
        find_choice(piece * 3000 + 'x', LUNG)
        yes_or_no(piece * 3000)
        final_answer(piece * 3000)
    assert time.process_time() - start < 10
