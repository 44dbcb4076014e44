"""Canonical units of lab reports: '×10⁹/L', '10*9/L' and 'X10^9/l' become '10^9/l'."""
import re

# Longest match first: '毫摩尔' is not '摩尔'.
_CHINESE = {
    '毫摩尔': 'mmol', '微摩尔': 'umol', '纳摩尔': 'nmol', '皮摩尔': 'pmol', '摩尔': 'mol', '毫克': 'mg', '微克': 'ug',
    '纳克': 'ng', '皮克': 'pg', '千克': 'kg', '公斤': 'kg', '克': 'g', '毫升': 'ml', '微升': 'ul', '分升': 'dl',
    '飞升': 'fl', '升': 'l', '毫米汞柱': 'mmhg', '千帕': 'kpa', '平方米': 'm2', '毫米': 'mm', '厘米': 'cm', '微米': 'um',
    '小时': 'h', '分钟': 'min', '秒': 's', '国际单位': 'iu', '单位': 'u', '百分比': '%', '每': '/'
}  # yapf: disable
_CHINESE_WORD = re.compile('|'.join(sorted(_CHINESE, key=len, reverse=True)))
_WORDS = {'mcg': 'ug', 'sec': 's', 'secs': 's', 'hr': 'h', 'hrs': 'h', 'hour': 'h', 'percent': '%', 'liter': 'l',
          'litre': 'l', 'mins': 'min'}  # yapf: disable
_WORD = re.compile(r'(?<![a-z])(?:' + '|'.join(sorted(_WORDS, key=len, reverse=True)) + r')(?![a-z])')
_MICRO = re.compile(r'μ(?=[A-Za-z])')
# Mega before a unit of mass, volume or substance; no other prefix depends on case.
_MEGA = re.compile(r'(?<![A-Za-z])M(?=(?:mol|g|l|eq|osm)(?![a-z]))')
_BRACKETED = re.compile(r'[\[(]([^\[\]()]*)[\])]')
_POWER = re.compile(r'(?:[x×*·]?10(?:\^|\*\*?|e\+?)|(?<![\d.a-z])e\+?)0?(\d{1,2})(?!\d)')
# A superscript that was lost: '109/L'. No unit has such a number.
_LOST_POWER = re.compile(r'^[x×*·]?10 ?(12|[369])(?=/)')
_EXPONENT = re.compile(r'(?<=[a-z])\^(?=\d)')
_DIVISOR = re.compile(r'/\(([^()]*)\)')


def fold_case(text: str) -> str:
    """Lower case, except the M of mega in mixed-case text: 'Mmol/L' differs from 'mmol/L', 'MMOL/L' does not."""
    if text.isupper():
        return text.casefold()
    kept = _MEGA.sub('\0', text)
    return kept.casefold().replace('\0', 'M')


def canonical_unit(text: str) -> str:
    """The canonical form of a unit.

    Ignores spaces, case (except as in `fold_case`; 'G/L' is 'g/L'), enclosing brackets, and the multiplication sign
    before a power of ten. 'µ', 'μ', 'u' and 'mc' are equal. Exponents have one form ('m²', 'm^2', 'm2'; '10⁹', '10*9',
    '10E9', '10^9', and '109/L', whose superscript was lost). 'ml/(min·1.73m²)' is 'ml/min/1.73m2'. Chinese words become
    symbols ('毫摩尔/升'). Units are not converted: 'mg/L', 'mg/dL' and 'g/mL' differ, and so do '10^3/uL' and '10^9/L'.

    Args:
        text: Output of `plain_cell`.
    """
    text = _CHINESE_WORD.sub(lambda match: _CHINESE[match[0]], text)
    text = fold_case(_MICRO.sub('u', text))
    text = _LOST_POWER.sub(r'10^\1', text)
    text = ''.join(text.split())
    if match := _BRACKETED.fullmatch(text):
        text = match[1]
    text = _LOST_POWER.sub(r'10^\1', text)
    text = _POWER.sub(r'10^\1', text)
    text = _WORD.sub(lambda match: _WORDS[match[0]], text)
    text = _DIVISOR.sub(lambda match: '/' + re.sub('[·*×]', '/', match[1]), text)
    return _EXPONENT.sub('', text).strip('.,;:')
