"""The final answer in free text."""
from swift_citrusv.scoring.questions.final_answer import final_answer, last_boxed


def test_final_answers():
    for text, expected in [
        ('The answer is: E. coli. It grows.', 'E. coli'), ('**Answer:** pneumonia', 'pneumonia'), ('答案是：右肺。因为', '右肺'),
        ('Answer: 3.5 cm. ok', '3.5 cm'), (r'so \boxed{\text{Left lung}}', 'Left lung'), ('a mass', 'a mass'),
        ('The answer is A. The answer is B.', 'B'), ('# Findings\n`x`', 'Findings\nx'), ('> 5 cm', '> 5 cm'),
    ]:  # yapf: disable
        assert final_answer(text) == expected, text


def test_boxed():
    assert last_boxed(r'\boxed{a} then \boxed{\frac{1}{2}}') == r'\frac{1}{2}'
    assert last_boxed(r'\boxed{a') is None and last_boxed('none') is None and last_boxed(r'\boxed{a} \boxed{b') == 'a'
