"""Which cells and answers are equal in canonical form, and which are not."""
from swift_citrusv.scoring.documents.canonical import Field, canonical_cell, same_cell, same_short_answer

SAME: list[tuple[Field, str, str]] = [
    # ---- units
    ('unit', '10^9/L', '10*9/L'),
    ('unit', '×10⁹/L', '10^9/L'),
    ('unit', 'X10^9/l', '×10^9 / L'),
    ('unit', '10E9/L', '10**9/L'),
    ('unit', 'x10e9/L', '10^9/L'),
    ('unit', '109/L', '10^9/L'),
    ('unit', '10<sup>12</sup>/L', '10^12/L'),
    ('unit', '$10^{12}/L$', '×10¹²/L'),
    ('unit', r'$\times 10^{9}/\mathrm{L}$', '10*9/L'),
    ('unit', '１０＾９／Ｌ', '10^9/L'),
    ('unit', 'μmol/L', 'umol/L'),
    ('unit', 'µmol/L', 'μmol/L'),
    ('unit', 'mcg/L', 'μg/L'),
    ('unit', 'g/l', 'g/L'),
    ('unit', 'G/L', 'g/L'),
    ('unit', 'MMOL/L', 'mmol/L'),
    ('unit', 'mIU/mL', 'mIU/ml'),
    ('unit', '％', '%'),
    ('unit', 'mmol/L。', 'mmol/L'),
    ('unit', '(mmol/L)', 'mmol／L'),
    ('unit', '毫摩尔/升', 'mmol/L'),
    ('unit', '克/升', 'g/L'),
    ('unit', '微摩尔每升', 'umol/L'),
    ('unit', '秒', 's'),
    ('unit', 'sec', 'S'),
    ('unit', 'mm/hr', 'mm/h'),
    ('unit', 'mL/min/1.73m2', 'ml/min/1.73m²'),
    ('unit', 'mL/(min·1.73m^2)', 'mL/min/1.73m2'),
    ('unit', '-', '/'),
    ('unit', 'N/A', ''),
    # ---- ranges
    ('reference', '3.5-5.5', '3.5~5.5'),
    ('reference', '3.5—5.5', '3.5–5.5'),
    ('reference', '3.5 – 5.5', '3.5～5.5'),
    ('reference', '3.5--5.5', '3.5-5.5'),
    ('reference', '3.50～5.50', '3.5－5.5'),
    ('reference', '3.5至5.5', '3.5到5.5'),
    ('reference', '3.5 to 5.5', '３．５～５．５'),
    ('reference', '(3.5-5.5)', '[3.5, 5.5]'),
    ('reference', '[100,200]', '100-200'),
    ('reference', '-3~-1', '-3--1'),
    ('reference', '-3.0～3.0', '−3 - 3'),
    ('reference', '20%-40%', '20-40%'),
    ('reference', r'$3.5 \sim 5.5$', '3.5-5.5'),
    ('reference', '3.5-9.5×10^9/L', '3.5~9.5 (10*9/L)'),
    ('reference', '男:4.3-5.8;女:3.8-5.1', '男：4.3～5.8；女：3.8～5.1'),
    ('reference', '1,000-2,000', '1000~2000'),
    ('reference', '≤5', '<=5.0'),
    ('reference', '不大于5', '≤ 5'),
    ('reference', '小于5', '＜5'),
    ('reference', '&lt;5', '< 5'),
    ('reference', '大于等于60', '≥60'),
    ('reference', 'less than 5', '<5'),
    ('reference', '阴性', '阴性(-)'),
    ('reference', 'Negative', '阴性'),
    ('reference', '-', '—'),
    # ---- results
    ('result', '5.0', '5.00'),
    ('result', '5', '5.0'),
    ('result', '.5', '0.5'),
    ('result', '５．２', '5.2'),
    ('result', '5.2↑', '5.2'),
    ('result', '5.2 (H)', '5.2 ↑'),
    ('result', '↑5.2', '5.2 偏高'),
    ('result', '5.2 HH', '5.20'),
    ('result', r'5.2$\downarrow$', '5.2 L'),
    ('result', '5.2*', '**5.2**'),
    ('result', '1.2E+03', '1,200'),
    ('result', '1.2×10^3', '1.2*10^3'),
    ('result', '<0.5', '＜0.50'),
    ('result', '阳性(+)', 'positive'),
    ('result', '(-)', '阴性'),
    ('result', '-', 'neg'),
    ('result', '++', '2+'),
    ('result', '+++', '(３＋)'),
    ('result', '+-', '±'),
    ('result', '淡黄色', ' 淡黄色 '),
    ('result', 'Not detected', '未检出'),
    ('result', '--', '—'),
    # ---- names
    ('entry_name', '白细胞计数（WBC）', '白细胞计数(WBC)'),
    ('entry_name', '★白细胞', '白细胞'),
    ('entry_name', '*ALT', 'alt'),
    ('entry_name', '1.血红蛋白', '血红蛋白'),
    ('entry_name', 'γ-谷氨酰转移酶', 'γ谷氨酰转移酶'),
    ('entry_name', 'White blood cell', 'WHITE  BLOOD CELL'),
    ('entry_name', 'CA19-9', 'CA 19—9'),
    ('entry_name', 'HBs-Ag', 'HBsAg'),
    ('entry_name', 'β2微球蛋白', 'ß2-微球蛋白'),
    ('entry_name', '白细胞<br>计数', '白细胞计数'),
    ('entry_name', '载脂蛋白Ａ１', '载脂蛋白A1'),
    # ---- abnormality
    ('abnormality', '高', '偏高'),
    ('abnormality', '↑', 'H'),
    ('abnormality', 'High', '升高'),
    ('abnormality', '异常（偏高）', '↑↑'),
    ('abnormality', '高于参考范围', 'above reference range'),
    ('abnormality', '低', 'L'),
    ('abnormality', '偏低↓', 'decreased'),
    ('abnormality', '正常', 'normal'),
    ('abnormality', '-', 'Normal'),
    ('abnormality', '未见异常', '否'),
    ('abnormality', '在正常范围内', 'N'),
    ('abnormality', '异常', 'abnormal'),
]  # yapf: disable
DIFFERENT: list[tuple[Field, str, str]] = [
    ('unit', 'mg/L', 'mg/dL'),
    ('unit', 'mmol/L', 'Mmol/L'),
    ('unit', 'mmol/L', 'umol/L'),
    ('unit', 'mg/dL', 'Mg/dL'),
    ('unit', '10^9/L', '10^12/L'),
    ('unit', '10^3/uL', '10^9/L'),
    ('unit', 'U/L', 'IU/L'),
    ('unit', 'U/L', 'ug/L'),
    ('unit', 'g/L', 'g/dL'),
    ('unit', 'fL', 'pL'),
    ('unit', 'ng/mL', 'pg/mL'),
    ('unit', '%', ''),
    ('unit', '克/升', '毫克/升'),
    ('unit', 's', 'min'),
    ('reference', '3.5-5.5', '3.5-5.6'),
    ('reference', '3.5-5.5', '35-55'),
    ('reference', '3-1', '-3-1'),
    ('reference', '-3~3', '-3~-3'),
    ('reference', '-3~1', '-3~-1'),
    ('reference', '<5', '>5'),
    ('reference', '<5', '≤5'),
    ('reference', '<5', '0-5'),
    ('reference', '100,200', '[100,200]'),
    ('reference', '男:4.3-5.8', '女:4.3-5.8'),
    ('reference', '阴性', '阳性'),
    ('reference', '5.5-3.5', '3.5-5.5'),
    ('result', '5.0', '50'),
    ('result', '5.0', '0.5'),
    ('result', '5.2', '5.20001'),
    ('result', '5', '-5'),
    ('result', '5.2↑', '5.2↓'),
    ('result', '5.2 H', '5.2(L)'),
    ('result', '>5.2', '5.2'),
    ('result', '1.2E3', '1.2E4'),
    ('result', '+', '-'),
    ('result', '+', '++'),
    ('result', '±', '+'),
    ('result', '阴性', '弱阳性'),
    ('result', '1 2', '12'),
    ('result', '5.2 mmol/L', '5.2 mg/L'),
    ('result', '1:100', '1:10'),
    ('result', '无', ''),
    ('entry_name', '总胆红素', '直接胆红素'),
    ('entry_name', 'IgG', 'IgG4'),
    ('entry_name', '中性粒细胞%', '中性粒细胞#'),
    ('entry_name', '白细胞', '红细胞'),
    ('entry_name', '白细胞(WBC)', '白细胞'),
    ('entry_name', '25-羟维生素D', '羟维生素D'),
    ('entry_name', 'Na', 'K'),
    ('abnormality', '↑', '↓'),
    ('abnormality', '高', '正常'),
    ('abnormality', '不高', '高'),
    ('abnormality', '异常', '正常'),
    ('abnormality', '偏高或正常', '偏高'),
    ('abnormality', '阴性', '正常'),
]  # yapf: disable


def test_equal_cells():
    for field, first, second in SAME:
        assert same_cell(field, first, second), (field, canonical_cell(first, field), canonical_cell(second, field))
        assert same_cell(field, second, first), (field, first, second)
        if field != 'entry_name':
            assert same_cell(field, f' {first} ', f'{second}　'), (field, first, second, 'spaces around')


def test_different_cells():
    for field, first, second in DIFFERENT:
        assert not same_cell(field, first, second), (field, first, second, canonical_cell(first, field))
        assert not same_cell(field, second, first), (field, first, second)


def test_the_lists_have_no_repetitions():
    assert len(SAME) >= 60 and len(DIFFERENT) >= 30
    assert len({*SAME}) == len(SAME) and len({*DIFFERENT}) == len(DIFFERENT)


def test_canonical_form_is_a_fixed_point():
    for field, text in sorted({(field, text) for field, *texts in SAME + DIFFERENT for text in texts}):
        form = canonical_cell(text, field)
        again = canonical_cell(form, field)
        assert again == form, (field, text, form, again)
        assert same_cell(field, text, text), (field, text)


def test_canonical_references():
    for text, form in [
        ('3.5 - 5.5', '3.5..5.5'), ('-3--1', '-3..-1'), ('＜5.0', '<5'), ('阴性', 'negative'),
        ('2020-01-02', '2020-01-02'), ('0.5～1.0 mg/L', '0.5..1 mg/l'), ('00123', '00123'), ('5.2E3', '5200'),
        ('120/80', '120 /80'),
    ]:  # yapf: disable
        assert canonical_cell(text, 'reference') == form, text


def test_own_unit_in_a_result_or_a_reference():
    assert same_cell('result', '5.2 mmol/L', '5.2', 'mmol/l', 'mmol/l')
    assert same_cell('reference', '3.5-5.5mmol/L', '3.5～5.5', 'mmol/l', 'mmol/l')
    # A different unit is not a repetition; without a unit column it is additional information.
    assert not same_cell('result', '5.2 mg/dL', '5.2', 'mmol/l', 'mmol/l')
    assert not same_cell('result', '5.2 mmol/L', '5.2')
    assert same_cell('result', '3.2 L', '3.2', 'l', 'l')


def test_equal_short_answers():
    for first, second in [
        ('5.2', '5.20'), ('答案：5.2', '5.2'), ('Answer: 5.2 mmol/L', '5.2mmol/l'), ('2024年3月5日', '2024-03-05'),
        ('2024/3/5', '2024.03.05'), ('偏高', '↑'), ('5.2 ↑', '5.2'), ('白细胞。', '白细胞'), ('O型', 'o型'), ('阴性（-）', '阴性'),
        ('3.5～5.5', '3.5-5.5'), ('"血红蛋白"', '血红蛋白'), ('×10⁹/L', '10*9/L'), ('张三', ' 张三 '), ('γ-GT', 'γGT'), ('', ''),
    ]:  # yapf: disable
        assert same_short_answer(first, second) and same_short_answer(second, first), (first, second)


def test_different_short_answers():
    for first, second in [
        ('5.2', '52'), ('>5', '5'), ('5.2 ↑', '5.2 ↓'), ('2024-03-05', '2024-05-03'), ('00123', '123'), ('白细胞', '红细胞'),
        ('偏高', '偏低'), ('是', '异常'), ('阴性', '阳性'), ('5.2 mg/L', '5.2 mg/dL'), ('', '5'), ('1-2', '12'), ('-5', '5'),
        ('白细胞的结果是5.2', '5.2'), ('5.2, 6.1', '5.26.1'), ('Mmol/L', 'mmol/L'),
    ]:  # yapf: disable
        assert not same_short_answer(first, second) and not same_short_answer(second, first), (first, second)
