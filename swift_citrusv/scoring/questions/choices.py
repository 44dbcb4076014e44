"""Which option an answer in free text chooses."""
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .choice_patterns import (DENIALS, DENIALS_ZH, DENIED_LINE, FUNCTION_WORDS, LAST_WORD, LETTER_NAMES_ZH,
                              NAMED_BY_LETTER, NAMED_BY_LETTER_ZH, Patterns)
from .final_answer import boxed, plain
from .open_answers import same, tokens


@dataclass(frozen=True)
class Choice:
    """What an answer chooses.

    Attributes:
        letters: In alphabetical order; several only where several may be chosen. Empty where there is a `problem`.
        how: The rule that found them, in a word.
        problem: 'no_answer', or 'ambiguous' where several options are named and one is asked for; None: there is none.
    """
    letters: str
    how: str
    problem: str | None = None


NO_ANSWER = Choice('', '', 'no_answer')


def choose(text: str, options: Mapping[str, str], several: bool = False) -> Choice:
    r"""Finds the option that an answer chooses.

    What the answer denies is taken out first ('not A but B', 'C is incorrect', '排除A'). Then the first of these rules
    that finds something decides:

    1. the last `\boxed{...}`; 2. the whole answer is a letter, the text of one option, or a list of letters; 3. what
    stands behind 'the answer is', 'I choose', '选' and the like, or before 'is correct'; where several such places
    disagree, the last one if it says 'therefore', 'finally', 'so', 'wait', else none; 4. a letter at the beginning,
    with a mark or its option's text behind it; 5. the text of exactly one option, of three characters or more (Chinese:
    two), somewhere in the answer; 6. letters elsewhere: behind 'option', in parentheses, or alone, but not the article
    'A', the pronoun 'I', nor names ('vitamin C', 'hepatitis B', 'B cell', 'E. coli').

    Args:
        text: Without reasoning.
        options: Text by letter, letters 'A' to at most 'Z'; texts may be empty.
        several: Whether several options may be right: then letters are gathered, and nothing is ambiguous.
    """
    inside = boxed(text)
    if inside is not None:
        choice = _Reader(plain(inside), options, several).choice()
        if choice.problem != 'no_answer':
            return choice
    return _Reader(plain(text), options, several).choice()


class _Reader:
    """One answer with its options."""

    def __init__(self, text: str, options: Mapping[str, str], several: bool) -> None:
        self.letters = ''.join(sorted(options))
        self.options = {letter: plain(text) for letter, text in options.items()}
        self.several = several
        self.patterns = Patterns(self.letters)
        self.text = text

    def choice(self) -> Choice:
        choice = self._whole()
        if choice is not None:
            return choice
        self.text = self._without_denied(self.text)
        for rule in (self._whole, self._by_cue, self._leading, self._elsewhere):
            choice = rule()
            if choice is not None:
                return choice
        return NO_ANSWER

    def _found(self, letters: str, how: str) -> Choice:
        letters = ''.join(sorted(set(letters.upper())))
        return Choice(letters, how) if len(letters) == 1 or self.several else Choice('', how, 'ambiguous')

    # ---- rule 2

    def _whole(self) -> Choice | None:
        text = self.text.strip(' \n\t"\'<>“”‘’「」【】')
        bare = self.patterns.bare.fullmatch(text)
        if bare:
            return self._found(bare[1], 'letter')
        # 'A. Asthma' is a letter and a text; the 'A' is no article.
        lettered = self.patterns.line.match(text)
        named = [
            letter for letter, option in self.options.items()
            if option and same(text, option) and not (lettered and not self.patterns.line.match(option))
        ]
        if named:
            return self._found(''.join(named), 'text')
        # 'abd' is a list where one is asked for, else it may be a word.
        several = self.patterns.bare_list.fullmatch(text.upper() if self.several else text)
        letters = _letters_in(several[1], self.letters) if several else ''
        return self._found(letters, 'letters') if letters else None

    # ---- what is denied

    def _without_denied(self, text: str) -> str:
        lines = []
        for line in text.split('\n'):
            own = self.patterns.line.match(line)
            if own is None or not DENIED_LINE.search(own[2]):
                lines.append(line)
        text = self.patterns.wrong.sub(self._unless_article, '\n'.join(lines))
        return self.patterns.denied.sub(self._unless_article, text)

    def _unless_article(self, match: re.Match[str]) -> str:
        # In 'not A patient' and 'A is not' without a letter meant, the text stays.
        start, end = match.span('letters')
        if re.match(r'\s*(?:is|was|seems)\b', match.string[end:]):
            # 'The answer is C, A is wrong' denies the A alone.
            comma = re.match(r'(.*),\s*[(\[]?[A-Za-z][)\]]?$', match['letters'])
            if comma:
                return match.string[match.start():start] + comma[1] + ' '
        return ' ' if self._stands(match.string, end, match['letters']) or len(match['letters']) > 1 else match[0]

    # ---- rule 3

    def _by_cue(self) -> Choice | None:
        found: list[tuple[int, str]] = []
        for match in self.patterns.cue.finditer(self.text):
            letters = self._at(match.end())
            if letters:
                found.append((match.start(), letters))
        for match in self.patterns.right.finditer(self.text):
            if not self._names(match.start(1), match.end(1)):
                found.append((match.start(), _letters_in(match[1], self.letters)))
        found = found or self._weak_statements()
        if not found:
            return None
        found.sort()
        if len({letters for _, letters in found}) == 1:
            return self._found(found[-1][1], 'statement')
        place, letters = found[-1]
        sentence = max(self.text.rfind(end, 0, place) for end in ('. ', '\n', '。', '! '))
        if LAST_WORD.search(self.text, sentence + 1, place + 12):
            return self._found(letters, 'last statement')
        return self._found(''.join(letters for _, letters in found), 'statements')

    def _weak_statements(self) -> list[tuple[int, str]]:
        found = []
        for match in self.patterns.weak.finditer(self.text):
            rest = re.sub(r'^[\s.:)、,\]-]+', '', self.text[match.end(1):])
            if not self._names(*match.span(1)) and (match['end'] is not None or self._option_at(rest) == match[1]):
                found.append((match.start(), match[1]))
        return found

    def _at(self, place: int) -> str:
        """The letters that stand at a place, or the letter of the option whose text does."""
        rest = self.text[place:]
        by_text = self._option_at(rest)
        if by_text:
            return by_text
        letters, _ = self._list_at(rest)
        if letters:
            return letters
        match = self.patterns.lower_at.match(rest)
        return match[1].upper() if match else ''

    def _list_at(self, text: str) -> tuple[str, int]:
        """The letters that a text begins with, and where they end; no letter where they are something else."""
        match = self.patterns.at.match(text)
        if match is None:
            return '', 0
        start, end = match.span(1)
        words = list(re.finditer('[A-Za-z]+', match[1]))
        # 'A, I think': the last one may be a word of the sentence.
        while words and not self._stands(text, end, text[start + words[-1].start():end]):
            words.pop()
            end = start + words[-1].end() if words else start
        return _letters_in(text[start:end], self.letters), end

    def _option_at(self, rest: str) -> str:
        """The letter of the longest option text that a text begins with."""
        words = _words(rest[:400])
        longest, letters = 0, ''
        for letter, text in self.options.items():
            own = _words(text)
            if len(text) > 1 and own and words[:len(own)] == own and len(own) >= longest:
                letters = letters + letter if len(own) == longest else letter
                longest = len(own)
        return letters

    def _stands(self, text: str, end: int, letters: str) -> bool:
        """Whether a letter that ends at a place is an option, not the first word of something else."""
        rest = text[end:]
        if not rest.strip() or rest[0] in '\n)]' or letters[-1] in ')]':
            return True
        if re.match(r'\s*[^\x00-\x7f]', rest):
            return not re.match(LETTER_NAMES_ZH, rest)
        if re.match(r'\s*[.,:;)\]!?/=("\'-]', rest):
            return not (rest[0] == '.' and re.match(r'\.\s?[a-z]', rest) and self._is_name(letters + rest))
        if re.match(r'\s+(?:is|because|since)\b' if letters == 'I' else rf'\s+(?:{FUNCTION_WORDS})\b', rest):
            return True
        own = _words(self.options.get(letters, ''))
        return bool(own) and _words(rest[:400])[:len(own)] == own

    def _is_name(self, text: str) -> bool:
        """'E. coli': a letter with a full stop that begins another option's text, or the name of a genus."""
        words = _words(text[:100])[:2]
        return any(_words(option)[:2] == words for option in self.options.values())

    # ---- rule 4

    def _leading(self) -> Choice | None:
        lines = list(dict.fromkeys(match[1] for match in self.patterns.line.finditer(self.text)))
        if len(lines) > 1:
            # The options are written again; only where several may be chosen is that an answer.
            return self._found(''.join(lines), 'lines') if self.several else None
        if self._option_at(self.text) and self._is_name(self.text):
            return None
        letters, end = self._list_at(self.text)
        if not letters:
            small = re.match(rf'\s*(?:\(([{self.letters.lower()}])\)|([{self.letters.lower()}])[).])\s', self.text)
            if small:
                letters, end = (small[1] or small[2]).upper(), small.end()
        rest = re.sub(r'^[\s.:)、,\]-]+', '', self.text[end:])
        if not letters or re.match(r'(?:no|not|incorrect|wrong|false)\b|不|错', rest, re.IGNORECASE):
            return None
        other = self._option_at(rest) if len(letters) == 1 else ''
        if other and letters not in other:
            return Choice('', 'letter and text', 'ambiguous')
        return self._found(letters, 'first letter')

    # ---- rules 5 and 6

    def _elsewhere(self) -> Choice | None:
        texts = self._texts()
        strong = ''.join(_letters_in(first or second, self.letters)
                         for first, second in self.patterns.option.findall(self.text))  # yapf: disable
        strong += ''.join(self.patterns.parenthesised.findall(self.text))
        if len(texts) == 1 or (texts and self.several):
            if strong and not self.several and set(strong) != {texts}:
                return Choice('', 'letter and text', 'ambiguous')
            return self._found(texts, 'text within')
        letters = strong or self._alone()
        if letters or texts:
            return self._found(letters or texts, 'letter within' if letters else 'texts within')
        return None

    def _texts(self) -> str:
        """The letters of the options whose text is in the answer, the longest texts first, each word used once."""
        words = tokens(self.text)
        found = ''
        for letter, text in sorted(self.options.items(), key=lambda item: -len(tokens(item[1]))):
            own = tokens(text)
            if len(''.join(own)) < (3 if text.isascii() else 2):
                continue
            places = [i for i in range(len(words) - len(own) + 1) if words[i:i + len(own)] == own]
            for place in places:
                before = words[max(place - 4, 0):place]
                if not DENIALS & set(before[-2:]) and not DENIALS_ZH.search(''.join(before)):
                    found += letter
                words[place:place + len(own)] = ['\0'] * len(own)
        return ''.join(sorted(set(found)))

    def _alone(self) -> str:
        found = ''
        for match in self.patterns.alone.finditer(self.text):
            after = self.text[match.end():]
            genus = re.match(r'\.\s?[a-z]', after) and not self.text[:match.start()].endswith('\n')
            if not genus and not self._names(*match.span()) and self._stands(self.text, match.end(), match[1]):
                found += match[1]
        return found

    def _names(self, start: int, end: int) -> bool:
        """Whether the letter at a place is part of a name: 'vitamin C', 'A型流感'."""
        before, after = self.text[max(start - 40, 0):start], self.text[end:end + 10]
        return bool(
            re.search(rf'\b{NAMED_BY_LETTER}\s*$', before, re.IGNORECASE)
            or re.search(f'(?:{NAMED_BY_LETTER_ZH})$', before) or re.match(LETTER_NAMES_ZH, after))


def _words(text: str) -> list[str]:
    """`tokens`, without an article in front: in 'A. Asthma' and 'Answer: A' the letter is none."""
    return tokens(re.sub(r'^\s*(?:an?|the|An|The)\s+', '', text), articles=True)


def _letters_in(text: str, letters: str) -> str:
    """'B' and 'D' of '(B) and D'."""
    words = re.findall(r'[A-Za-z]+', text)
    kept = [word for word in words if word.upper() == word or len(word) == 1]
    return ''.join(sorted({letter for word in kept for letter in word.upper() if letter in letters}))
