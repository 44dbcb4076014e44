"""Finds the option that a free-text answer chooses."""
import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

from .choice_patterns import (DENIALS, DENIALS_ZH, DENIED_LINE, FUNCTION_WORDS, LAST_WORD, LETTER_NAMES_ZH,
                              NAMED_BY_LETTER, NAMED_BY_LETTER_ZH, ChoicePatterns)
from .conclusion import concluded, list_items
from .final_answer import last_boxed, strip_markup
from .open_answers import answer_tokens, same_words


@dataclass(frozen=True)
class ChosenOption:
    """The option or options that an answer chooses.

    Attributes:
        letters: In alphabetical order; several only if several may be right, empty if there is a `problem`.
        rule: The name of the rule that found them.
        problem: 'no_answer', 'ambiguous' (several options for a single-choice question), or None.
    """
    letters: str
    rule: str
    problem: str | None = None


NO_ANSWER = ChosenOption('', '', 'no_answer')


def find_choice(text: str, options: Mapping[str, str], several: bool = False) -> ChosenOption:
    r"""Finds the option that an answer chooses.

    Negated options are removed first ('not A but B', 'C is incorrect', '排除A'). Then the first rule with a result
    decides:

    1. The last `\boxed{...}`.
    2. The whole answer is a letter, the text of one option, or a list of letters.
    3. The option after 'the answer is', 'I choose', '选' and the like, or before 'is correct'. If several statements
       disagree, the last one wins if it has 'therefore', 'finally', 'so' or 'wait'; else the answer is ambiguous.
    4. What the answer concludes, if it goes through a list of options or names several (`conclusion`): the last
       sentence that names one. A list without a conclusion is ambiguous.
    5. A letter at the start, before punctuation or the text of its option.
    6. The text of exactly one option anywhere, of at least three characters (Chinese: two).
    7. Letters elsewhere: after 'option', in parentheses, or alone; not the article 'A', the pronoun 'I' and names
       ('vitamin C', 'hepatitis B', 'B cell', 'E. coli').
    8. The only option that is not negated, if all others are.

    Args:
        text: The answer without reasoning.
        options: Text by letter, from 'A' up to 'Z'; texts may be empty.
        several: Whether several options may be right; then letters are collected, and no answer is ambiguous.
    """
    inside = last_boxed(text)
    if inside is not None:
        choice = _ChoiceReader(strip_markup(inside), options, several).choice()
        if choice.problem != 'no_answer':
            return choice
    return _ChoiceReader(strip_markup(text), options, several).choice()


class _ChoiceReader:
    """Applies the rules of `find_choice` to one answer."""

    def __init__(self, text: str, options: Mapping[str, str], several: bool) -> None:
        self.letters = ''.join(sorted(options))
        self.options = {letter: strip_markup(text) for letter, text in options.items()}
        self.several = several
        self.patterns = ChoicePatterns(self.letters)
        self.text = text
        self.denied: set[str] = set()

    def choice(self) -> ChosenOption:
        choice = self._whole()
        if choice is not None:
            return choice
        self.text = self._without_denied(self.text)
        for rule in (self._whole, self._by_cue, self._concluded, self._leading, self._elsewhere, self._left_over):
            choice = rule()
            if choice is not None:
                return choice
        return NO_ANSWER

    def _found(self, letters: str, rule: str) -> ChosenOption:
        letters = ''.join(sorted(set(letters.upper())))
        return ChosenOption(letters, rule) if len(letters) == 1 or self.several else ChosenOption('', rule, 'ambiguous')

    # ---- rule 2

    def _whole(self) -> ChosenOption | None:
        text = self.text.strip(' \n\t"\'<>“”‘’「」【】')
        bare = self.patterns.bare.fullmatch(text)
        if bare:
            return self._found(bare[1], 'letter')
        # 'A. Asthma' is a letter with a text; the 'A' is not an article.
        lettered = self.patterns.line.match(text)
        named = [
            letter for letter, option in self.options.items()
            if option and same_words(text, option) and not (lettered and not self.patterns.line.match(option))
        ]
        if named:
            return self._found(''.join(named), 'text')
        # 'abd' is a list only if several options may be right.
        several = self.patterns.bare_list.fullmatch(text.upper() if self.several else text)
        letters = _letters_in(several[1], self.letters) if several else ''
        return self._found(letters, 'letters') if letters else None

    # ---- negated options

    def _without_denied(self, text: str) -> str:
        lines = []
        for line in text.split('\n'):
            items = list_items(line, self.letters)
            if len(items) > 1:
                # A list in one line.
                lines.append(self._without_denied_items(line, items))
                continue
            own = self.patterns.line.match(line)
            if own is None or not DENIED_LINE.search(own[2]):
                lines.append(line)
            else:
                self.denied.add(own[1])
        text = self.patterns.wrong.sub(self._unless_article, '\n'.join(lines))
        return self.patterns.denied.sub(self._unless_article, text)

    def _without_denied_items(self, line: str, items: list[tuple[int, int, str]]) -> str:
        kept = line[:items[0][0]]
        for (start, end, letter), after in zip(items, [*(item[0] for item in items[1:]), len(line)]):
            first, stop, rest = line[end:after].partition('. ')
            if DENIED_LINE.search(first):
                self.denied.add(letter)
                kept += f' {rest}'
            else:
                kept += line[start:after]
        return kept

    def _unless_article(self, match: re.Match[str]) -> str:
        # The article in 'not A patient' is kept.
        start, end = match.span('letters')
        if re.match(r'\s*(?:is|was|seems)\b', match.string[end:]):
            # 'The answer is C, A is wrong' negates only A.
            comma = re.match(r'(.*),\s*[(\[]?[A-Za-z][)\]]?$', match['letters'])
            if comma:
                self.denied.update(_letters_in(match['letters'][comma.end(1):], self.letters))
                return match.string[match.start():start] + comma[1] + ' '
        if not self._stands(match.string, end, match['letters']) and len(match['letters']) == 1:
            return match[0]
        self.denied.update(_letters_in(match['letters'], self.letters))
        return ' '

    # ---- rule 3

    def _by_cue(self) -> ChosenOption | None:
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
        """The letters at an index of the text, or the letter of the option whose text starts there."""
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
        """The option letters at the start of a text, and their end; '' if the text starts with anything else."""
        match = self.patterns.at.match(text)
        if match is None:
            return '', 0
        start, end = match.span(1)
        words = list(re.finditer('[A-Za-z]+', match[1]))
        # 'A, I think': the last letter may be a word.
        while words and not self._stands(text, end, text[start + words[-1].start():end]):
            words.pop()
            end = start + words[-1].end() if words else start
        return _letters_in(text[start:end], self.letters), end

    def _option_at(self, rest: str) -> str:
        """The letter of the longest option text at the start of a text."""
        words = _words(rest[:400])
        longest, letters = 0, ''
        for letter, text in self.options.items():
            own = _words(text)
            if len(text) > 1 and own and words[:len(own)] == own and len(own) >= longest:
                letters = letters + letter if len(own) == longest else letter
                longest = len(own)
        return letters

    def _stands(self, text: str, end: int, letters: str) -> bool:
        """Whether the letter that ends at an index is an option, not a word or part of a name."""
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
        """Whether a letter with a full stop starts the text of an option, like the genus in 'E. coli'."""
        words = _words(text[:100])[:2]
        return any(_words(option)[:2] == words for option in self.options.values())

    # ---- rule 4

    def _concluded(self) -> ChosenOption | None:
        found = concluded(self.text, self.letters, self._named_in)
        if found is None:
            return None
        letters, is_list = found
        if not letters:
            # A list alone is an answer only if several options may be right.
            return None if self.several else ChosenOption('', 'list', 'ambiguous')
        return self._found(letters, 'conclusion')

    def _named_in(self, text: str) -> str:
        """The letters of the options that a part of the answer names, by text or by letter."""
        bare = self.patterns.bare.fullmatch(text.strip(' >\t'))
        if bare:
            return bare[1].upper()
        part = copy(self)
        part.text = text
        strong = ''.join(_letters_in(first or second, self.letters)
                         for first, second in self.patterns.option.findall(text))  # yapf: disable
        strong += ''.join(self.patterns.parenthesised.findall(text))
        return ''.join(sorted({*part._texts(), *(strong or part._alone())}))

    # ---- rule 5

    def _leading(self) -> ChosenOption | None:
        lines = list(dict.fromkeys(match[1] for match in self.patterns.line.finditer(self.text)))
        if len(lines) > 1:
            # Repeating the options is an answer only if several may be right.
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
        # What follows in another line explains.
        same_line = bool(self.text[end:].split('\n', 1)[0].strip(' .:)、,]-'))
        other = self._option_at(rest) if len(letters) == 1 and same_line else ''
        if other and letters not in other:
            return ChosenOption('', 'letter and text', 'ambiguous')
        return self._found(letters, 'first letter')

    # ---- rules 6 and 7

    def _elsewhere(self) -> ChosenOption | None:
        texts = self._texts()
        strong = ''.join(_letters_in(first or second, self.letters)
                         for first, second in self.patterns.option.findall(self.text))  # yapf: disable
        strong += ''.join(self.patterns.parenthesised.findall(self.text))
        if len(texts) == 1 or (texts and self.several):
            if strong and not self.several and set(strong) != {texts}:
                return ChosenOption('', 'letter and text', 'ambiguous')
            return self._found(texts, 'text within')
        letters = strong or self._alone()
        if letters or texts:
            return self._found(letters or texts, 'letter within' if letters else 'texts within')
        return None

    def _texts(self) -> str:
        """The letters of the options whose text is in the answer; longer texts first, each word used once."""
        words = answer_tokens(self.text)
        found = ''
        for letter, text in sorted(self.options.items(), key=lambda item: -len(answer_tokens(item[1]))):
            own = answer_tokens(text)
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

    # ---- rule 8

    def _left_over(self) -> ChosenOption | None:
        """The only option that is not denied, if all others are."""
        left = set(self.letters) - self.denied
        return self._found(left.pop(), 'elimination') if len(left) == 1 and len(self.letters) > 2 else None

    def _names(self, start: int, end: int) -> bool:
        """Whether the letter at an index is part of a name: 'vitamin C', 'A型流感'."""
        before, after = self.text[max(start - 40, 0):start], self.text[end:end + 10]
        return bool(
            re.search(rf'\b{NAMED_BY_LETTER}\s*$', before, re.IGNORECASE)
            or re.search(f'(?:{NAMED_BY_LETTER_ZH})$', before) or re.match(LETTER_NAMES_ZH, after))


def _words(text: str) -> list[str]:
    """`answer_tokens` without a leading article; the letter of 'A. Asthma' or 'Answer: A' is kept."""
    return answer_tokens(re.sub(r'^\s*(?:an?|the|An|The)\s+', '', text), articles=True)


def _letters_in(text: str, letters: str) -> str:
    """'B' and 'D' of '(B) and D'."""
    words = re.findall(r'[A-Za-z]+', text)
    kept = [word for word in words if word.upper() == word or len(word) == 1]
    return ''.join(sorted({letter for word in kept for letter in word.upper() if letter in letters}))
