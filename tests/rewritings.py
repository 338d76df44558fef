r"""Other ways to write an answer, and answers that come near, from a gold's text alone, without the grader's code."""

import random
import re
from decimal import Decimal
from fractions import Fraction

INTEGER = re.compile(r"-?\d+")
DECIMAL = re.compile(r"-?\d*\.\d+")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
WORDS = re.compile(r"\\(?:text|mbox)\{([A-Za-z][A-Za-z ]*)\}")
LETTERS = re.compile(r"\\text\{([A-Z](?:, ?[A-Z])+)\}")
INTERVAL = re.compile(r"([(\[])([^()\[\]]*),([^()\[\]]*)([)\]])")


def spaced(gold):
    """Thin spaces around operators and brackets that stand outside of words."""
    if re.search(r"text|mbox|begin|\{,\}|,\\!|\\,", gold):
        return "\\ " + gold + "\\,"
    return re.sub(r"(?<=[\d\w}])([+=])(?=[\d\w\\])", r" \1\\, ", gold).replace(",", ",\\;", 1) + " "


def rewritings(gold, seed=0):
    """Return at least five strings that mean the same as `gold`."""
    rng = random.Random(f"{seed}/{gold}")
    gold = gold.strip()
    found = {
        f"${gold}$",
        f"\\({gold}\\)",
        f"{gold}.",
        f"\\displaystyle {gold}",
        f"  {gold}\n",
        f"{{{gold}}}",
        spaced(gold),
    }
    if "\\frac" in gold:
        found |= {gold.replace("\\frac", "\\dfrac"), gold.replace("\\frac", "\\tfrac")}
    if re.search(r"\\[dt]frac", gold):
        found.add(re.sub(r"\\[dt]frac", r"\\frac", gold))
    found |= brackets(gold)
    if "\\sqrt{" in gold:
        found.add(re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", gold))
    found.add(gold.replace("pmatrix", "bmatrix"))
    if INTEGER.fullmatch(gold):
        found |= integers(int(gold))
    elif DECIMAL.fullmatch(gold):
        found |= {gold + "0", str(Fraction(gold)), fraction(Fraction(gold))}
    elif match := FRACTION.fullmatch(gold):
        found |= fractions(match)
    elif match := WORDS.fullmatch(gold):
        word = match[1].strip()
        found |= {
            word if len(word) > 3 else gold,
            f"\\textbf{{{word}}}",
            f"\\mathrm{{{word}}}",
            f"\\text{{{word.upper()}}}",
            f"\\text{{{word.lower()}.}}",
        }
    elif match := LETTERS.fullmatch(gold):
        letters = [letter.strip() for letter in match[1].split(",")]
        rng.shuffle(letters)
        found |= {f"\\text{{{', '.join(letters)}}}", f"\\text{{{' and '.join(letters)}}}", ",".join(letters)}
    elif is_bare_list(gold):
        parts = [part.strip() for part in gold.split(",")]
        rng.shuffle(parts)
        found |= {
            ", ".join(parts),
            f"\\{{{','.join(parts)}\\}}",
            " \\text{ and } ".join(parts),
            " \\text{ or } ".join(parts),
        }
    if match := re.fullmatch(r"(-?[\d.]+)\^\{?\\circ\}?", gold):
        found |= {
            match[1],
            f"{match[1]}^{{\\circ}}",
            f"{match[1]}°",
            f"{match[1]}\\text{{ degrees}}",
            f"{match[1]} degrees",
        }
    if match := re.fullmatch(r"(-?[\d.]+) ?\\%", gold):
        found |= {
            match[1],
            f"{match[1]}%",
            f"{match[1]} \\%",
            f"{match[1]}\\text{{ percent}}",
            str(Decimal(match[1]) / 100),
        }
    if match := re.fullmatch(r"\\\$([\d.]+)", gold):
        found |= {match[1], f"{match[1]} dollars", f"{match[1]}\\text{{ dollars}}", f"\\text{{\\${match[1]}}}"}
    found.discard(gold)
    return sorted(found)


def integers(n):
    found = {
        f"{n}.0",
        f"{n}.00",
        fraction(Fraction(2 * n, 2), reduce=False),
        f"x = {n}",
        f"{n}\\text{{ units}}",
        f"\\text{{{n}}}",
        f"{n * 2}/2",
        f"\\frac{{{3 * n}}}{{3}}",
        f"x={n}",
    }
    if abs(n) >= 1000:
        found |= {f"{n:,}", f"{n:,}".replace(",", "{,}"), f"{n:,}".replace(",", ",\\!"), f"{n:,}".replace(",", "\\,")}
    if n and n % 100 == 0:
        found.add(f"{n // 100} \\times 10^{{2}}")
    return found


def fraction(value, reduce=True):
    sign, above = ("-" if value < 0 else ""), abs(value.numerator)
    return f"{sign}\\frac{{{above}}}{{{value.denominator}}}"


def fractions(match):
    sign, above, below = match[1], int(match[2]), int(match[3])
    found = {
        f"{sign}{above}/{below}",
        f"{sign}\\frac{{{2 * above}}}{{{2 * below}}}",
        f"\\frac{{{sign}{above}}}{{{below}}}",
        f"{sign}\\dfrac{{{above}}}{{{below}}}",
        f"{sign}\\frac {{{above}}} {{{below}}}",
        f"x={sign}{above}/{below}",
    }
    if above < 10 and below < 10:
        found |= {f"{sign}\\frac{above}{below}", f"{sign}\\frac {above} {below}"}
    rest = below
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:
        found.add(f"{sign}{Decimal(above) / Decimal(below)}")
    if above > below > 1 and above % below:
        found.add(f"{sign}{above // below}\\frac{{{above % below}}}{{{below}}}")
    return found


def brackets(gold):
    found = set()
    if "\\left" in gold:
        found.add(re.sub(r"\\(?:left|right)(?![a-z])", "", gold))
    elif re.match(r"[(\[]", gold) and re.search(r"[)\]]$", gold) and "\\cup" not in gold and "x" not in gold:
        found.add(f"\\left{gold[:-1]}\\right{gold[-1]}")
    if "\\cup" in gold and "or" not in gold:
        found.add(" \\cup ".join(reversed(gold.split("\\cup"))))
    return found


def is_bare_list(gold):
    """Two or more expressions with commas between them and no other brackets than those of LaTeX's commands."""
    return "," in gold and not re.search(r"[()\[\]]|\\[!,]|text|\{,\}|\d,\d{3}(?!\d)|\\\{|begin|and|or", gold)


def near_misses(gold):
    """Return strings that differ from `gold` in meaning by as little as possible."""
    gold = gold.strip()
    found = set()
    if INTEGER.fullmatch(gold):
        n = int(gold)
        found |= {
            str(n + 1),
            str(n - 1),
            f"{n}.5",
            f"{n}0" if n else "10",
            f"\\frac{{{n}}}{{2}}" if n else "0.5",
            f"{n}.01",
        }
        found |= {str(-n)} if n else {"1"}
        found |= {
            f"({n},{n})",
            f"{n},{n + 1}",
            f"{n}x" if n else "x",
            f"{n}\\pi" if n else "\\pi",
            f"\\sqrt{{{n}}}" if n not in (0, 1) else "2",
        }
    elif DECIMAL.fullmatch(gold):
        value = Decimal(gold)
        found |= {f"{gold}1", str(value * 10), str(-value), str(round(value)) if value != round(value) else "-1"}
    elif match := FRACTION.fullmatch(gold):
        sign, above, below = match[1], int(match[2]), int(match[3])
        found |= {
            f"{sign}\\frac{{{above + 1}}}{{{below}}}",
            f"{sign}\\frac{{{above}}}{{{below + 1}}}",
            f"{'' if sign else '-'}\\frac{{{above}}}{{{below}}}",
            f"{sign}{above}{below}",
            f"{sign}{above / below + 1e-4:.5f}",
        }
        if above != below:
            found.add(f"{sign}\\frac{{{below}}}{{{above}}}")
    elif match := INTERVAL.fullmatch(gold):
        opening, left, right, closing = match.groups()
        found.add(f"{'[' if opening == '(' else '('}{left},{right}{closing}")
        found |= {f"{opening}{left},{right},{right}{closing}", f"\\{{{left},{right}\\}}"}
        if left.strip() != right.strip():
            found.add(f"{opening}{right},{left}{closing}")
    elif is_bare_list(gold):
        parts = gold.split(",")
        found |= {",".join(parts[1:]), gold + ",987"}
    elif WORDS.fullmatch(gold):
        found |= {"\\text{something else}", f"\\text{{not {WORDS.fullmatch(gold)[1].strip()}}}"}
    elif not re.search(r"text|mbox|begin|=|\\in|[(\[].*,|\\pm|<|>|\\[lg]e|^[A-Z]+$|\.$", gold):
        found |= {f"{gold}+1", f"2({gold})", f"-({gold})"} if not re.search(r"[:%$]|\\circ|_", gold) else set()
    found |= changed_digits(gold)
    found.discard(gold)
    return sorted(found)


def changed_digits(gold):
    """Change the first digit, and the last one."""
    places = [match.start() for match in re.finditer(r"\d", gold)]
    if not places or "approx" in gold or "phantom" in gold or ("%" in gold and "=" in gold):
        return set()
    return {
        gold[:place] + str((int(gold[place]) + 3) % 10 or 7) + gold[place + 1 :] for place in {places[0], places[-1]}
    } - {gold}


def symbolic_rewritings(gold):
    """Write a formula as a sum with 0: the same value, but a different text in any notation."""
    plain = not re.search(
        r"text|mbox|begin|=|,|;|\\cup|\\in|\\pm|<|>|\\[lg]e|[:%$_!]|circ|infty|approx|\.$|^[A-Z]+$", gold
    )
    return [f"0+{gold}"] if plain and not INTEGER.fullmatch(gold) and not gold.strip().startswith(("-", "+")) else []
