r"""Other ways to write an answer, and near misses, from a reference's text alone, without the grader's code."""

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


def spaced(reference_answer):
    """Thin spaces around operators and brackets that stand outside of words."""
    if re.search(r"text|mbox|begin|\{,\}|,\\!|\\,", reference_answer):
        return "\\ " + reference_answer + "\\,"
    return re.sub(r"(?<=[\d\w}])([+=])(?=[\d\w\\])", r" \1\\, ", reference_answer).replace(",", ",\\;", 1) + " "


def rewritings(reference_answer, seed=0):
    """Return at least five strings that mean the same as `reference_answer`."""
    rng = random.Random(f"{seed}/{reference_answer}")
    reference_answer = reference_answer.strip()
    found = {
        f"${reference_answer}$",
        f"\\({reference_answer}\\)",
        f"{reference_answer}.",
        f"\\displaystyle {reference_answer}",
        f"  {reference_answer}\n",
        f"{{{reference_answer}}}",
        spaced(reference_answer),
    }
    if "\\frac" in reference_answer:
        found |= {reference_answer.replace("\\frac", "\\dfrac"), reference_answer.replace("\\frac", "\\tfrac")}
    if re.search(r"\\[dt]frac", reference_answer):
        found.add(re.sub(r"\\[dt]frac", r"\\frac", reference_answer))
    found |= brackets(reference_answer)
    if "\\sqrt{" in reference_answer:
        found.add(re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", reference_answer))
    found.add(reference_answer.replace("pmatrix", "bmatrix"))
    if INTEGER.fullmatch(reference_answer):
        found |= integers(int(reference_answer))
    elif DECIMAL.fullmatch(reference_answer):
        found |= {reference_answer + "0", str(Fraction(reference_answer)), fraction(Fraction(reference_answer))}
    elif match := FRACTION.fullmatch(reference_answer):
        found |= fractions(match)
    elif match := WORDS.fullmatch(reference_answer):
        word = match[1].strip()
        found |= {
            word if len(word) > 3 else reference_answer,
            f"\\textbf{{{word}}}",
            f"\\mathrm{{{word}}}",
            f"\\text{{{word.upper()}}}",
            f"\\text{{{word.lower()}.}}",
        }
    elif match := LETTERS.fullmatch(reference_answer):
        letters = [letter.strip() for letter in match[1].split(",")]
        rng.shuffle(letters)
        found |= {f"\\text{{{', '.join(letters)}}}", f"\\text{{{' and '.join(letters)}}}", ",".join(letters)}
    elif is_bare_list(reference_answer):
        parts = [part.strip() for part in reference_answer.split(",")]
        rng.shuffle(parts)
        found |= {
            ", ".join(parts),
            f"\\{{{','.join(parts)}\\}}",
            " \\text{ and } ".join(parts),
            " \\text{ or } ".join(parts),
        }
    if match := re.fullmatch(r"(-?[\d.]+)\^\{?\\circ\}?", reference_answer):
        found |= {
            match[1],
            f"{match[1]}^{{\\circ}}",
            f"{match[1]}°",
            f"{match[1]}\\text{{ degrees}}",
            f"{match[1]} degrees",
        }
    if match := re.fullmatch(r"(-?[\d.]+) ?\\%", reference_answer):
        found |= {
            match[1],
            f"{match[1]}%",
            f"{match[1]} \\%",
            f"{match[1]}\\text{{ percent}}",
            str(Decimal(match[1]) / 100),
        }
    if match := re.fullmatch(r"\\\$([\d.]+)", reference_answer):
        found |= {match[1], f"{match[1]} dollars", f"{match[1]}\\text{{ dollars}}", f"\\text{{\\${match[1]}}}"}
    found.discard(reference_answer)
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


def brackets(reference_answer):
    found = set()
    if "\\left" in reference_answer:
        found.add(re.sub(r"\\(?:left|right)(?![a-z])", "", reference_answer))
    elif (
        re.match(r"[(\[]", reference_answer)
        and re.search(r"[)\]]$", reference_answer)
        and "\\cup" not in reference_answer
        and "x" not in reference_answer
    ):
        found.add(f"\\left{reference_answer[:-1]}\\right{reference_answer[-1]}")
    if "\\cup" in reference_answer and "or" not in reference_answer:
        found.add(" \\cup ".join(reversed(reference_answer.split("\\cup"))))
    return found


def is_bare_list(reference_answer):
    """Two or more expressions with commas between them and no other brackets than those of LaTeX's commands."""
    return "," in reference_answer and not re.search(
        r"[()\[\]]|\\[!,]|text|\{,\}|\d,\d{3}(?!\d)|\\\{|begin|and|or", reference_answer
    )


def near_misses(reference_answer):
    """Return strings that differ from `reference_answer` in meaning by as little as possible."""
    reference_answer = reference_answer.strip()
    found = set()
    if INTEGER.fullmatch(reference_answer):
        n = int(reference_answer)
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
    elif DECIMAL.fullmatch(reference_answer):
        value = Decimal(reference_answer)
        found |= {
            f"{reference_answer}1",
            str(value * 10),
            str(-value),
            str(round(value)) if value != round(value) else "-1",
        }
    elif match := FRACTION.fullmatch(reference_answer):
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
    elif match := INTERVAL.fullmatch(reference_answer):
        opening, left, right, closing = match.groups()
        found.add(f"{'[' if opening == '(' else '('}{left},{right}{closing}")
        found |= {f"{opening}{left},{right},{right}{closing}", f"\\{{{left},{right}\\}}"}
        if left.strip() != right.strip():
            found.add(f"{opening}{right},{left}{closing}")
    elif is_bare_list(reference_answer):
        parts = reference_answer.split(",")
        found |= {",".join(parts[1:]), reference_answer + ",987"}
    elif WORDS.fullmatch(reference_answer):
        found |= {"\\text{something else}", f"\\text{{not {WORDS.fullmatch(reference_answer)[1].strip()}}}"}
    elif not re.search(r"text|mbox|begin|=|\\in|[(\[].*,|\\pm|<|>|\\[lg]e|^[A-Z]+$|\.$", reference_answer):
        found |= (
            {f"{reference_answer}+1", f"2({reference_answer})", f"-({reference_answer})"}
            if not re.search(r"[:%$]|\\circ|_", reference_answer)
            else set()
        )
    found |= changed_digits(reference_answer)
    found.discard(reference_answer)
    return sorted(found)


def changed_digits(reference_answer):
    """Change the first digit, and the last one."""
    indices = [match.start() for match in re.finditer(r"\d", reference_answer)]
    if (
        not indices
        or "approx" in reference_answer
        or "phantom" in reference_answer
        or ("%" in reference_answer and "=" in reference_answer)
    ):
        return set()
    return {
        reference_answer[:index] + str((int(reference_answer[index]) + 3) % 10 or 7) + reference_answer[index + 1 :]
        for index in {indices[0], indices[-1]}
    } - {reference_answer}


def symbolic_rewritings(reference_answer):
    """Write a formula as a sum with 0: the same value, but a different text in any notation."""
    plain = not re.search(
        r"text|mbox|begin|=|,|;|\\cup|\\in|\\pm|<|>|\\[lg]e|[:%$_!]|circ|infty|approx|\.$|^[A-Z]+$", reference_answer
    )
    return (
        [f"0+{reference_answer}"]
        if plain and not INTEGER.fullmatch(reference_answer) and not reference_answer.strip().startswith(("-", "+"))
        else []
    )
