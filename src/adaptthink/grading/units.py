"""Units of measure, nouns that are counted, and numerals: what may follow a number without being a factor of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

# One name per unit. Two known units that differ make two answers differ; an unknown unit is ignored.
_UNITS: Mapping[str, str] = {
    spelling: name
    for name, spellings in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "dm": "dm decimeter decimetre",
        "meter": "m meter metre", "km": "km kilometer kilometre", "inch": "in inch inche", "foot": "ft foot feet",
        "yard": "yd yard", "mile": "mi mile", "gram": "g gram gm", "mg": "mg milligram", "kg": "kg kilogram kilo",
        "ton": "ton tonne", "pound": "lb pound lbs", "ounce": "oz ounce", "second": "s sec second", "ms": "millisecond",
        "minute": "min minute", "hour": "h hr hour", "day": "day", "week": "week", "month": "month", "year": "yr year",
        "decade": "decade", "century": "century centurie", "dollar": "dollar usd buck", "cent": "cent",
        "euro": "euro eur", "pound sterling": "gbp", "rupee": "rupee rs inr", "yuan": "yuan rmb cny", "yen": "yen jpy",
        "liter": "l liter litre", "ml": "ml milliliter millilitre", "gallon": "gal gallon", "quart": "qt quart",
        "pint": "pt pint", "cup": "cup", "am": "am", "pm": "pm", "degree": "degree deg", "radian": "radian rad",
        "celsius": "celsius", "fahrenheit": "fahrenheit", "kelvin": "kelvin k", "newton": "n newton",
        "joule": "j joule", "kj": "kj kilojoule", "watt": "w watt", "kw": "kw kilowatt", "volt": "v volt",
        "ampere": "ampere amp a", "ohm": "ohm", "hertz": "hz hertz", "pascal": "pa pascal", "kpa": "kpa",
        "mole": "mol mole", "calorie": "cal calorie", "kcal": "kcal", "acre": "acre", "hectare": "ha hectare",
        "unit": "unit", "percent": "percent pct",
    }.items()
    for spelling in spellings.split()
}  # fmt: skip
_RATES = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour", "kmph": "km/hour", "fps": "foot/second"}
_SYMBOLS = frozenset("mgshlLNJKWVA")  # of one letter, whose case counts: M is no meter, k no kelvin
_MEGA = ("Mg", "Mm", "Ml", "MM")
_MEASURE = re.compile(r"\b(?:square|sq|cubic|cu)\b\.?\s*", re.IGNORECASE)
_HALF_DAY = re.compile(r"\b([ap])\.m\b", re.IGNORECASE)
_FACTOR = re.compile(r"([A-Za-z]+)\s*(?:\^\s*\{?\s*(-?)\s*[123]\s*\}?)?|(/)")
_KINDS = tuple(
    frozenset(names.split())
    for names in (
        "ms second minute hour day week month year decade century",
        "mm cm dm meter km inch foot yard mile",
        "mg gram kg ton pound ounce",
        "ml liter gallon quart pint cup ounce",
        "dollar cent euro",
        "degree minute second",
        "hour meter",  # 1 h 30 m
    )
)

MONEY = {
    "\\$": "dollar", "USD": "dollar", "US": "dollar", "€": "euro", "EUR": "euro", "£": "pound sterling",
    "GBP": "pound sterling", "₹": "rupee", "INR": "rupee", "Rs": "rupee", "CNY": "yuan", "RMB": "yuan", "JPY": "yen",
}  # fmt: skip

NUMERALS = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "lakh": 10**5, "crore": 10**7, "gross": 144, "score": 20, "hundreds": 10**2, "thousands": 10**3,
    "millions": 10**6, "billions": 10**9, "trillions": 10**12, "dozens": 12, "mn": 10**6, "mln": 10**6, "mio": 10**6,
    "bn": 10**9,
    "百": 10**2, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8, "百万": 10**6, "千万": 10**7,
    "百萬": 10**6, "тысяч": 10**3, "тысячи": 10**3, "тысяча": 10**3, "тыс": 10**3, "миллион": 10**6,
    "миллиона": 10**6, "миллионов": 10**6, "млн": 10**6, "миллиард": 10**9, "миллиардов": 10**9, "млрд": 10**9,
    "천": 10**3, "만": 10**4, "억": 10**8, "लाख": 10**5, "हज़ार": 10**3, "करोड़": 10**7,
}  # fmt: skip

# Nouns without a plural in s, or too short to be distinguished from a product of letters.
_NOUNS = frozenset(
    re.findall(
        r"\w+",
        "people person men women children child fish sheep deer mice geese teeth oxen dice money way ways car cars cat "
        "cats dog dogs egg eggs pen pens toy toys boy boys bag bags box boxes bus buses cow cows hen hens key keys pie "
        "pies job jobs win wins apple orange book student marble coin pencil ticket game piece page point number value "
        "solution integer pair set sets row rows team teams girl girls bead beads card cards cake cakes ball balls "
        "flower tree trees house room rooms seat seats side sides edge edges face faces step steps time prime primes "
        "digit digits term terms word words letter letters total altogether each left remaining furlong",
    )
)
_LINKS = frozenset({"of", "per", "a", "an", "the", "in", "each", "for", "on", "to", "from", "at", "by", "all"})
_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        "sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arcsec arccsc arccot asin acos atan log ln "
        "lg exp sqrt cbrt abs min max mod gcd lcm det dim ker deg arg sgn floor ceil alpha beta gamma delta epsilon "
        "zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega infinity cis erf choose",
    )
)


def find_unit(unit: str) -> str | None:
    """Return the standard name of a unit, of a product or quotient of units too; None if one of them is unknown."""
    bare = _MEASURE.sub("", _HALF_DAY.sub(r"\1m", unit).replace("\\cdot", " ")).strip(" .\\")
    if simple := _find_simple(bare):
        return simple
    above: list[str] = []
    below: list[str] = []
    inverted = False
    words = re.sub(r"\b[Pp]er\b", "/", re.sub(r"(?<=\w)\.(?=\w|$)", " ", bare))
    if re.sub(_FACTOR, "", words).strip():
        return None
    for word, minus, slash in _FACTOR.findall(words):
        if slash:
            inverted = True
            continue
        name = _find_simple(word)
        if name is None:
            return None
        (below if inverted != bool(minus) else above).append(name)
    if not above:
        return None
    return " ".join(sorted(above)) + ("/" + " ".join(sorted(below)) if below else "")


def _find_simple(word: str) -> str | None:
    if word in _MEGA or (len(word) == 1 and word not in _SYMBOLS):
        return None
    word = word.lower()
    return _RATES.get(word) or _UNITS.get(word) or _UNITS.get(word.removesuffix("s"))


def is_same_kind(unit: str, other: str) -> bool:
    """Return whether two units are different ones of the same quantity, so that it may be given in both of them."""
    names = {find_unit(unit), find_unit(other)}
    return len(names) == 2 and any(names <= kind for kind in _KINDS)


def is_counted(unit: str) -> bool:
    """Return whether plain words after a number are a noun that it counts ("red apples"), not factors ("x y")."""
    words = re.findall(r"[a-z]+", unit.lower())
    if any(word in _FUNCTIONS or (len(word) < 3 and word not in _LINKS) for word in words):
        return False
    if not all(word in _LINKS or word in _UNITS or re.search("[aeiouy]", word) for word in words):
        return False
    return any(
        word in _NOUNS
        or word in _UNITS
        or word.removesuffix("s") in _UNITS
        or (len(word) >= 5 and word.endswith("s") and re.search("[aeiouy]", word[:-1]) is not None)
        for word in words
    )


def read_scale(unit: str) -> tuple[int, str]:
    """Return the factor of the numerals that a unit begins with ("million dollars"), 1 if none, and what follows."""
    scale, words = 1, unit.split()
    while words and (factor := NUMERALS.get(words[0].lower().strip(".,"))):
        scale *= factor
        words.pop(0)
    if scale == 1 and words and not words[0].isascii():  # 3万人 has no blank
        for length in (2, 1):
            if factor := NUMERALS.get(words[0][:length]):
                return factor, " ".join((words[0][length:], *words[1:])).strip()
    return scale, " ".join(words)
