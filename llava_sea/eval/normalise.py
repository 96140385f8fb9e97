"""How answers are put into one form before they are compared: M4C's way and the VQA script's way.

Sources, for the rules and the tables: https://github.com/GT-Vision-Lab/VQA, file
PythonEvaluationTools/vqaEvaluation/vqaEval.py (the version of 2021), and M4C's
EvalAIAnswerProcessor in https://github.com/facebookresearch/mmf, file mmf/utils/m4c_evaluators.py.
Their oddities are part of every published number, so they are kept:

- a punctuation mark that stands beside a space anywhere in the text is deleted everywhere in it;
  otherwise each becomes a space;
- a comma between two digits anywhere makes all punctuation be deleted (the VQA script only: M4C has
  deleted the commas by then);
- the look-behind of the pattern for full stops is malformed and never looks behind, and a flag is
  passed in the place of the count, so at most 32 full stops go;
- the contractions that begin with a capital never match, because the text is in lower case.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"(?!<=\d)(\.)(?!\d)")
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_FULL_STOPS_AT_MOST = int(re.UNICODE)  # 32: passed where the count goes
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
# A word and what it becomes, pair after pair; the table of both sources, verbatim.
_TABLE = """
aint ain't   arent aren't   cant can't   couldve could've   couldnt couldn't
couldn'tve couldn't've   couldnt've couldn't've   didnt didn't   doesnt doesn't   dont don't
hadnt hadn't   hadnt've hadn't've   hadn'tve hadn't've   hasnt hasn't   havent haven't
hed he'd   hed've he'd've   he'dve he'd've   hes he's   howd how'd   howll how'll   hows how's
Id've I'd've   I'dve I'd've   Im I'm   Ive I've   isnt isn't   itd it'd   itd've it'd've
it'dve it'd've   itll it'll   let's let's   maam ma'am   mightnt mightn't
mightnt've mightn't've   mightn'tve mightn't've   mightve might've   mustnt mustn't
mustve must've   neednt needn't   notve not've   oclock o'clock   oughtnt oughtn't
ow's'at 'ow's'at   'ows'at 'ow's'at   'ow'sat 'ow's'at   shant shan't   shed've she'd've
she'dve she'd've   she's she's   shouldve should've   shouldnt shouldn't
shouldnt've shouldn't've   shouldn'tve shouldn't've   somebody'd somebodyd
somebodyd've somebody'd've   somebody'dve somebody'd've   somebodyll somebody'll
somebodys somebody's   someoned someone'd   someoned've someone'd've   someone'dve someone'd've
someonell someone'll   someones someone's   somethingd something'd
somethingd've something'd've   something'dve something'd've   somethingll something'll
thats that's   thered there'd   thered've there'd've   there'dve there'd've   therere there're
theres there's   theyd they'd   theyd've they'd've   they'dve they'd've   theyll they'll
theyre they're   theyve they've   twas 'twas   wasnt wasn't   wed've we'd've   we'dve we'd've
weve we've   werent weren't   whatll what'll   whatre what're   whats what's   whatve what've
whens when's   whered where'd   wheres where's   whereve where've   whod who'd
whod've who'd've   who'dve who'd've   wholl who'll   whos who's   whove who've   whyll why'll
whyre why're   whys why's   wont won't   wouldve would've   wouldnt wouldn't
wouldnt've wouldn't've   wouldn'tve wouldn't've   yall y'all   yall'll y'all'll
y'allll y'all'll   yall'd've y'all'd've   y'alld've y'all'd've   y'all'dve y'all'd've
youd you'd   youd've you'd've   you'dve you'd've   youll you'll   youre you're   youve you've
"""
CONTRACTIONS = dict(zip(_TABLE.split()[::2], _TABLE.split()[1::2], strict=True))


def one_line(text: str) -> str:
    """Return the text with spaces for newlines and tabs, and none around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def normalise_vqa(text: str) -> str:
    """Normalise as the VQA evaluation script does.

    "Red,Blue" becomes "red blue", "1,000-2,000" becomes "10002000", "the man's" becomes "man's".
    """
    return _words(_punctuation(one_line(text)))


@lru_cache(maxsize=1 << 16)
def normalise_m4c(text: str) -> str:
    """Normalise as M4C does, and as LLaVA does before it submits.

    M4C first lowers the case, deletes commas and question marks and sets "'s" apart: "Red,Blue"
    becomes "redblue", "1,000-2,000" becomes "1000 2000", "the man's" becomes "man 's".
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_punctuation(one_line(text)))


def _punctuation(text: str) -> str:
    """Delete punctuation, or put spaces in its place; see the module's text for when."""
    delete_all = _DIGIT_COMMA_DIGIT.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or delete_all else " ")
    return _FULL_STOP.sub("", result, count=_FULL_STOPS_AT_MOST)


def _words(text: str) -> str:
    """Lower the case, write number words in digits, drop articles, restore contractions."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
