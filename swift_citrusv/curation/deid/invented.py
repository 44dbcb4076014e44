"""Identities of nobody, for proofs and tests."""
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .text import check_digit

_GIVEN = ('Alaric', 'Benedikta', 'Corvin', 'Delphia', 'Eamonn', 'Fenella', 'Giselle', 'Hartmut', 'Isolde', 'Jorunn',
          'Kasimir', 'Leocadia', 'Merrick', 'Nerissa', 'Oswin', 'Philippa', 'Quentin', 'Rosamund', 'Sigrid', 'Thaddeus')
_FAMILY = ('Abernethy', 'Bramblewood', 'Cholmondeley', 'Drinkwater', 'Eskildsen', 'Featherstone', 'Grimshaw',
           'Hawthornden', 'Ingleby', 'Jankowiak', 'Kettlewell', 'Lockridge', 'Mossbacher', 'Nightingale', 'Ollerenshaw',
           'Penhaligon', 'Quigley', 'Ravenscroft', 'Silverthorne', 'Thistlethwaite')
_CHINESE_FAMILY, _CHINESE_GIVEN = '王李张刘陈杨黄赵周吴', '建国秀英志强丽华文博雨桐嘉怡浩然'
_STREETS = ('Willowmere', 'Larkfield', 'Stonebridge', 'Ashcombe', 'Fernhill')
_TOWNS = ('Easterbrook', 'Northvale', 'Kingsmere')
_CHINESE_ROADS, _CHINESE_CITIES = ('清泉', '松柏', '和平', '长春'), ('江州市', '临海市', '南川市')


class Planted(NamedTuple):
    """An identity in a sentence.

    Attributes:
        kind: What it is.
        text: The sentence.
        identity: The part that must go.
        rest: Words of the sentence that must stay.
    """
    kind: str
    text: str
    identity: str
    rest: str


class Inventor:
    """Invents identities; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def _one(self, words: tuple[str, ...] | str) -> str:
        return self._random.choice(words)

    def _digits(self, count: int) -> str:
        return ''.join(self._random.choices('0123456789', k=count))

    def name(self) -> str:
        """'Alaric Bramblewood'."""
        return f'{self._one(_GIVEN)} {self._one(_FAMILY)}'

    def chinese_name(self) -> str:
        """'王秀英'."""
        return self._one(_CHINESE_FAMILY) + ''.join(self._random.choices(_CHINESE_GIVEN, k=2))

    def day(self) -> tuple[int, int, int]:
        """A year, a month and a day."""
        return self._random.randint(1940, 2024), self._random.randint(1, 12), self._random.randint(1, 28)

    def record(self) -> str:
        """A record number."""
        return self._random.choice((self._digits(8), f'A{self._digits(7)}', f'MR-{self._digits(6)}'))

    def card(self) -> str:
        """A Chinese identity card whose check digit fits."""
        year, month, day = self.day()
        digits = f'{self._random.randint(110101, 659001)}{year}{month:02d}{day:02d}{self._digits(3)}'
        return digits + check_digit(digits)

    def planted(self) -> list[Planted]:
        """One sentence of each kind, in English and in Chinese."""
        return [make(self) for make in _SENTENCES.values()]

    def burned(self) -> list[str]:
        """Lines as devices burn them into images."""
        name, (year, month, day) = self.name(), self.day()
        first, last = name.upper().split()
        return [f'{last}, {first}', f'ID: {self._digits(8)}', f'DOB {month:02d}/{day:02d}/{year}',
                f'{year}-{month:02d}-{day:02d} {self._random.randint(0, 23):02d}:{self._random.randint(0, 59):02d}',
                f'Acc# {self._digits(7)}', f'DR. {self._one(_FAMILY).upper()}']  # yapf: disable


def _phone(inventor: Inventor) -> Planted:
    number = f'({inventor._digits(2)}5) 555-{inventor._digits(4)}'
    return Planted('phone', f'Call the family at {number} about the 12 mm nodule.', number, 'about the 12 mm nodule.')


def _chinese_phone(inventor: Inventor) -> Planted:
    number = f'13{inventor._digits(9)}'
    return Planted('phone', f'联系电话{number}，右肺上叶结节12mm。', number, '右肺上叶结节12mm。')


def _email(inventor: Inventor) -> Planted:
    first, last = inventor.name().lower().split()
    address = f'{first}.{last}@example.org'
    return Planted('email', f'Results were sent to {address}; dose 5 mg twice a day.', address,
                   'dose 5 mg twice a day.')


def _card(inventor: Inventor) -> Planted:
    card = inventor.card()
    return Planted('identity-card', f'身份证号{card}，血红蛋白120 g/L。', card, '血红蛋白120 g/L。')


def _record(inventor: Inventor) -> Planted:
    number = inventor.record()
    return Planted('record-number', f'MRN: {number}. Blood pressure 120/80.', number, 'Blood pressure 120/80.')


def _chinese_record(inventor: Inventor) -> Planted:
    number = inventor._digits(8)
    return Planted('record-number', f'住院号：{number}，白细胞12.5×10^9/L。', number, '白细胞12.5×10^9/L。')


def _date(inventor: Inventor) -> Planted:
    year, month, day = inventor.day()
    text = inventor._random.choice((f'{month:02d}/{day:02d}/{year}', f'{year}-{month:02d}-{day:02d}',
                                    f'{day} {_MONTHS[month - 1]} {year}', f'{_MONTHS[month - 1]} {day}, {year}'))
    return Planted('date', f'Compared with {text}, the mass grew by 4 mm.', text, 'the mass grew by 4 mm.')


def _chinese_date(inventor: Inventor) -> Planted:
    year, month, day = inventor.day()
    text = f'{year}年{month}月{day}日'
    return Planted('date', f'{text}复查，病灶缩小3mm。', text, '复查，病灶缩小3mm。')


def _address(inventor: Inventor) -> Planted:
    text = f'{inventor._random.randint(1, 999)} {inventor._one(_STREETS)} Street, {inventor._one(_TOWNS)}'
    return Planted('address', f'Lives at {text}. Ejection fraction 55 %.', text, 'Ejection fraction 55 %.')


def _chinese_address(inventor: Inventor) -> Planted:
    text = f'{inventor._one(_CHINESE_CITIES)}{inventor._one(_CHINESE_ROADS)}路{inventor._random.randint(1, 300)}号'
    return Planted('address', f'住址：{text}，射血分数55%。', text, '射血分数55%。')


def _name(inventor: Inventor) -> Planted:
    name = inventor.name()
    return Planted('name', f'Dr. {name} saw a fracture of the left femur.', name, 'saw a fracture of the left femur.')


def _field_name(inventor: Inventor) -> Planted:
    name = inventor.name()
    return Planted('name', f'Patient name: {name}\nFindings: clear lungs.', name, 'Findings: clear lungs.')


def _chinese_name(inventor: Inventor) -> Planted:
    name = inventor.chinese_name()
    return Planted('name', f'姓名：{name}，男，54岁，左肺下叶磨玻璃影。', name, '左肺下叶磨玻璃影。')


_MONTHS = ('January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November',
           'December')
_SENTENCES: Mapping[str, Callable[[Inventor], Planted]] = {
    make.__name__: make for make in (
        _phone, _chinese_phone, _email, _card, _record, _chinese_record, _date, _chinese_date, _address,
        _chinese_address, _name, _field_name, _chinese_name)}  # yapf: disable
