"""What stands in the place of identities: the same for the same key, and of no use without it."""
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from datetime import date, timedelta

from ...settings import SettingError

# UIDs of the standard: classes, transfer syntaxes.
_STANDARD = '1.2.840.10008.'
# Days by which the dates of a patient move back: at most ten years, at least a month.
_MAX_DAYS, _MIN_DAYS = 3650, 30
_DATE = re.compile(r'(\d{4})\.?(\d{2})\.?(\d{2})')


def read_key(path: str) -> bytes:
    """The secret of a file; a new file with a new secret if there is none.

    Raises:
        SettingError: The file is too short for a secret.
    """
    if not path.strip():
        raise SettingError('--key names no file.')
    if not os.path.exists(path):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 'w', encoding='ascii') as file:
            file.write(f'{secrets.token_hex(32)}\n')
        print(f'Wrote a new key to {path}. Who has it can link pseudonyms to patients: keep it apart from the data, or '
              'remove it when all the data are done.')  # yapf: disable
    with open(path, 'rb') as binary:
        key = binary.read().strip()
    if len(key) < 16:
        raise SettingError(f'{path} has {len(key)} bytes, too few for a key. Name a file with 16 or more, or one that '
                           'does not exist yet.')  # yapf: disable
    return key


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms by a keyed hash (HMAC-SHA-256): consistent over files, workers and runs with one key.

    Attributes:
        key: The secret.
    """
    key: bytes

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self.key, f'{kind}\0{value}'.encode('utf-8', 'surrogatepass'), hashlib.sha256).digest()

    def key_id(self) -> str:
        """What tells keys apart without telling the key."""
        return self._digest('key', '').hex()[:16]

    def uid(self, value: str) -> str:
        """The UID in the place of one; those of the standard stay. Source: PS3.5, section B.2 (UUID)."""
        value = value.strip(' \0')
        if not value or value.startswith(_STANDARD):
            return value
        number = bytearray(self._digest('uid', value)[:16])
        number[6], number[8] = number[6] & 0x0f | 0x40, number[8] & 0x3f | 0x80
        return f'2.25.{int.from_bytes(number, "big")}'

    def patient(self, value: str) -> str:
        """The name in the place of a patient's number."""
        return f'P{self._digest("patient", value.strip()).hex()[:12].upper()}' if value.strip() else ''

    def code(self, kind: str, value: str) -> str:
        """The name in the place of another number, e.g. of a study."""
        return f'{kind[0].upper()}{self._digest(kind, value.strip()).hex()[:12].upper()}' if value.strip() else ''

    def days(self, patient: str) -> int:
        """The days by which the dates of a patient move back: whole weeks, so that weekdays stay."""
        number = int.from_bytes(self._digest('days', patient.strip())[:4], 'big')
        return -7 * ((_MIN_DAYS + number % (_MAX_DAYS - _MIN_DAYS)) // 7 + 1)

    def shifted(self, value: str, days: int) -> str:
        """A date or date and time of DICOM, moved; '' if it is no date.

        Args:
            value: 'YYYYMMDD', with anything after it, or with points as before 1993.
            days: How far.
        """
        found = _DATE.match(value.strip())
        if not found:
            return ''
        try:
            moved = date(*map(int, found.groups())) + timedelta(days)
        except (ValueError, OverflowError):
            return ''
        return f'{moved:%Y%m%d}'.rjust(8, '0') + value.strip()[found.end():]
