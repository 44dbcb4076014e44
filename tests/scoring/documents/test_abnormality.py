"""Abnormality labels, and flags beside results."""
from swift_citrusv.scoring.documents.abnormality import canonical_abnormality, split_flag


def test_flags_beside_results():
    for text, value, flag in [
        ('5.2 ↑', '5.2', 'high'), ('↓ 5.2', '5.2', 'low'), ('5.2(H)', '5.2', 'high'), ('5.2 mmol/L', '5.2 mmol/L', ''),
        ('5.2 mmol/L ↑', '5.2 mmol/L', 'high'), ('24h', '24h', ''), ('H1N1', 'H1N1', ''), ('H 5.2', '5.2', 'high'),
        ('5.2 L', '5.2', 'low'), ('阳性 ↑', '阳性', 'high'), ('AB', 'AB', ''), ('5.2 *', '5.2', 'abnormal'),
        ('5.2 * ↑', '5.2', 'high'), ('↑', '', 'high'), ('5.2 [LL]', '5.2', 'low'), ('高密度', '高密度', ''), ('', '', ''),
    ]:  # yapf: disable
        assert split_flag(text) == (value, flag), text


def test_labels():
    for label, canonical in [
        ('slightly elevated', 'high'), ('low', 'low'), ('within normal limits', 'normal'), ('yes', 'abnormal'),
        ('', ''), ('true', 'abnormal'), ('False', 'normal'), ('HIGH (H)', 'high'), ('轻度升高', 'high'), ('阳性', '阳性'),
        ('not elevated', 'notelevated'), ('high or low', 'highorlow'), ('异常', 'abnormal'), ('结果偏低', 'low'),
    ]:  # yapf: disable
        assert canonical_abnormality(label) == canonical, label
