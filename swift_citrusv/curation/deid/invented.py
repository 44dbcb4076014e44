"""Identities of nobody, for proofs and tests."""
import random
from collections.abc import Callable, Sequence
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

    def digits(self, count: int) -> str:
        """So many digits."""
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
        return self._random.choice((self.digits(8), f'A{self.digits(7)}', f'MR-{self.digits(6)}'))

    def card(self) -> str:
        """A Chinese identity card whose check digit fits."""
        year, month, day = self.day()
        digits = f'{self._random.randint(110101, 659001)}{year}{month:02d}{day:02d}{self.digits(3)}'
        return digits + check_digit(digits)

    def planted(self) -> list[Planted]:
        """One sentence of each kind, in English and in Chinese."""
        found = []
        for kind, invent, sentence in _SENTENCES:
            identity = invent(self)
            rest = sentence.partition('{}')[2].lstrip(' ,.;\n，')
            found.append(Planted(kind, sentence.format(identity), identity, rest))
        return found

    def email(self) -> str:
        """An address of a domain that nobody has."""
        first, last = self.name().lower().split()
        return f'{first}.{last}@example.org'

    def date(self) -> str:
        """A date in one of four forms."""
        year, month, day = self.day()
        name = _MONTHS[month - 1]
        return self._random.choice((f'{month:02d}/{day:02d}/{year}', f'{year}-{month:02d}-{day:02d}',
                                    f'{day} {name} {year}', f'{name} {day}, {year}'))  # yapf: disable

    def chinese_date(self) -> str:
        """'2023年5月6日'."""
        year, month, day = self.day()
        return f'{year}年{month}月{day}日'

    def address(self) -> str:
        """A street and a town."""
        return f'{self._random.randint(1, 999)} {self._one(_STREETS)} Street, {self._one(_TOWNS)}'

    def chinese_address(self) -> str:
        """A city and a street."""
        return f'{self._one(_CHINESE_CITIES)}{self._one(_CHINESE_ROADS)}路{self._random.randint(1, 300)}号'

    def burned(self) -> list[str]:
        """Lines as devices burn them into images."""
        name, (year, month, day) = self.name(), self.day()
        first, last = name.upper().split()
        return [f'{last}, {first}', f'ID: {self.digits(8)}', f'DOB {month:02d}/{day:02d}/{year}',
                f'{year}-{month:02d}-{day:02d} {self._random.randint(0, 23):02d}:{self._random.randint(0, 59):02d}',
                f'Acc# {self.digits(7)}', f'DR. {self._one(_FAMILY).upper()}']  # yapf: disable


_MONTHS = ('January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November',
           'December')
# Kind, identity, and the sentence around it.
_SENTENCES: Sequence[tuple[str, Callable[[Inventor], str], str]] = (
    ('phone', lambda inventor: f'({inventor.digits(2)}5) 555-{inventor.digits(4)}',
     'Call the family at {} about the 12 mm nodule.'),
    ('phone', lambda inventor: f'13{inventor.digits(9)}', '联系电话{}，右肺上叶结节12mm。'),
    ('email', Inventor.email, 'Results were sent to {}; dose 5 mg twice a day.'),
    ('identity-card', Inventor.card, '身份证号{}，血红蛋白120 g/L。'),
    ('record-number', Inventor.record, 'MRN: {}. Blood pressure 120/80.'),
    ('record-number', lambda inventor: inventor.digits(8), '住院号：{}，白细胞12.5×10^9/L。'),
    ('date', Inventor.date, 'Compared with {}, the mass grew by 4 mm.'),
    ('date', Inventor.chinese_date, '{}复查，病灶缩小3mm。'),
    ('address', Inventor.address, 'Lives at {}. Ejection fraction 55 %.'),
    ('address', Inventor.chinese_address, '住址：{}，射血分数55%。'),
    ('name', Inventor.name, 'Dr. {} saw a fracture of the left femur.'),
    ('name', Inventor.name, 'Patient name: {}\nFindings: clear lungs.'),
    ('name', Inventor.chinese_name, '姓名：{}，男，54岁，左肺下叶磨玻璃影。'),
)  # yapf: disable
