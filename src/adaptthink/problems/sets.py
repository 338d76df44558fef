r"""Named problem sets: where each is found and how its rows become problems.

A set is read from its original file in a local folder if that is there, else from the hub through `datasets`.

| set | hub | columns on the hub |
|---|---|---|
| gsm8k | openai/gsm8k (main) | question, answer ending in ``#### n`` |
| math | EleutherAI/hendrycks_math (7 configs) | problem, level, type, solution; the answer is its last ``\boxed{}`` |
| math500 | HuggingFaceH4/MATH-500 | problem, solution, answer, subject, level |
| aime24 | HuggingFaceH4/aime_2024 | problem, solution, answer, url, year |
| aime25 | opencompass/AIME2025 (2 configs) | question, answer; in the order of the exam |
| amc23 | math-ai/amc23 | question, answer, url |
| mmlu | cais/mmlu (all) | question, subject, choices, answer (index) |
| deepscaler | agentica-org/DeepScaleR-Preview-Dataset | problem, answer, solution |
| svamp | ChilleD/SVAMP | Body, Question, Equation, Answer, Type |
| mmlu_pro | TIGER-Lab/MMLU-Pro | question, options, answer (letter), category |
| gpqa | Idavidrein/gpqa (gpqa_diamond) | Question, Correct Answer, Incorrect Answer 1 to 3 |
| minerva | math-ai/minervamath | question, answer |
| olympiadbench | Hothan/OlympiadBench (OE_TO_maths_en_COMP) | context, question, final_answer (a list) |
| otb | facebook/optimal_thinking_bench | question, answer, metadata (JSON), subset |

The last five were written from their descriptions and others' loaders, and not tried on the hub's own rows.

Subject groups of MMLU: Hendrycks et al. 2021 (arXiv 2009.03300), as in their evaluation code, where anatomy counts
as health and so among `other`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, find_last_boxed
from adaptthink.problems import Problem, check_texts, make_problem
from adaptthink.problems.choices import format_choices, read_choice_letter
from adaptthink.storage.rows import BadRow, Row, RowError, read_csv, read_rows

SUBJECTS = {
    "stem": (
        "abstract_algebra astronomy college_biology college_chemistry college_computer_science "
        "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
        "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
        "high_school_mathematics high_school_physics high_school_statistics machine_learning"
    ),
    "humanities": (
        "formal_logic high_school_european_history high_school_us_history high_school_world_history "
        "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
        "professional_law world_religions"
    ),
    "social_sciences": (
        "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
        "high_school_microeconomics high_school_psychology human_sexuality professional_psychology "
        "public_relations security_studies sociology us_foreign_policy"
    ),
    "other": (
        "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
        "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology"
    ),
}
GROUPS = {group: tuple(subjects.split()) for group, subjects in SUBJECTS.items()}
GROUP_OF = {subject: group for group, subjects in GROUPS.items() for subject in subjects}
MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
MMLU_PRO = (
    "biology", "business", "chemistry", "computer_science", "economics", "engineering", "health", "history", "law",
    "math", "other", "philosophy", "physics", "psychology",
)  # fmt: skip
OTB_WORDS = 3  # of an answer that words alone can compare
AIME_PROBLEMS = 15  # of one exam


@dataclass(frozen=True, slots=True)
class Part:
    """One split of a set: its name on the hub, its original files, and how many problems it has (0: not noted)."""

    hub: str
    files: tuple[str, ...]
    size: int = 0


@dataclass(frozen=True, slots=True)
class Content:
    """A problem read from a row, before it has an id."""

    prompt: str
    answer: str
    level: int | str | None = None
    kind: AnswerKind = AnswerKind.MATH
    subject: str = ""


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A set: its hub id, the configs to read one after the other, its splits, and how a row is read.

    `read` raises RowError. `filters` are the levels or subjects that can be requested alone.
    """

    hub_id: str
    splits: Mapping[str, Part]
    read: Callable[[Row], Content]
    configs: tuple[str | None, ...] = (None,)
    train: str | None = None
    evaluation: str | None = None
    filters: tuple[str, ...] = ()


def lookup(row: Row, *names: str) -> Any:
    """Return the value of the first of `names` that a row has; raises RowError if it has none."""
    for name in names:
        if name in row.values:
            return row.values[name]
    raise RowError(f"no field '{names[0]}'; fields here: {', '.join(row.values)}")


def read_question(row: Row, *names: str) -> str:
    """Return the question of a row; raises RowError if it is empty."""
    text = lookup(row, *names)
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"'{names[0]}' is empty; every problem needs a question")
    return text.strip()


def format_reference_answer(answer: object) -> str:
    """Return a reference answer as text, whole numbers without ``.0``; empty, and so unparsable, if it is missing."""
    if answer is None:
        return ""
    text = str(answer).strip()
    return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


def read_boxed(solution: str) -> str:
    r"""Return the content of the last ``\boxed`` or ``\fbox`` of a worked solution; empty if it has none."""
    return (find_last_boxed(solution) or "").strip().removesuffix(".")


def read_gsm8k(row: Row) -> Content:
    """Read a row of GSM8K; the answer follows the last ####, without its thousands separators."""
    _, mark, answer = str(lookup(row, "answer")).rpartition("####")
    return Content(read_question(row, "question"), answer.strip().replace(",", "") if mark else "")


def read_math(row: Row) -> Content:
    """Read a row of MATH in either form: level as a number or as "Level 3"; 0 and "Level ?" mean None."""
    level = re.search(r"[1-5]", str(lookup(row, "level", "difficulty")))
    answer = (
        format_reference_answer(row.values["answer"])
        if "answer" in row.values
        else read_boxed(str(lookup(row, "solution")))
    )
    return Content(read_question(row, "problem"), answer, int(level[0]) if level else None)


def read_aime(row: Row) -> Content:
    """Read a row of AIME; its level is its number in the exam: as written, from its url, or from the order.

    The original file writes 0 for number 15.
    """
    from_url = re.search(r"Problem_(\d+)", str(row.values.get("url", "")))
    at = int(row.values.get("problem_number", int(from_url[1]) if from_url else row.number))
    return Content(
        read_question(row, "problem", "question"),
        format_reference_answer(lookup(row, "answer")),
        (at - 1) % AIME_PROBLEMS + 1,
    )


def read_plain(row: Row) -> Content:
    """Read a row that has a problem (or question) and an answer."""
    return Content(read_question(row, "problem", "question"), format_reference_answer(lookup(row, "answer")))


def read_svamp(row: Row) -> Content:
    """Read a row of SVAMP: a body and a question about it."""
    return Content(
        f"{read_question(row, 'Body')} {read_question(row, 'Question')}", format_reference_answer(lookup(row, "Answer"))
    )


def read_mmlu(row: Row) -> Content:
    """Read a row of MMLU; its level is the group of its subject."""
    choices = row.values["choices"] if "choices" in row.values else [lookup(row, letter) for letter in "ABCD"]
    subject = str(lookup(row, "subject"))
    prompt = format_choices(read_question(row, "question"), choices)
    letter = read_choice_letter(lookup(row, "answer"), len(choices))
    return Content(prompt, letter, GROUP_OF.get(subject), AnswerKind.CHOICE, subject)


def read_mmlu_pro(row: Row) -> Content:
    """Read a row of MMLU-Pro, of up to ten options; its level is its category."""
    choices = [str(one) for one in lookup(row, "options") if one != "N/A"]
    category = str(lookup(row, "category")).replace(" ", "_")
    prompt = format_choices(read_question(row, "question"), choices)
    return Content(
        prompt, read_choice_letter(lookup(row, "answer"), len(choices)), category, AnswerKind.CHOICE, category
    )


def read_gpqa(row: Row) -> Content:
    """Read a row of GPQA; the order of its options follows from their hashes, as the file has the right one first."""
    question, right = read_question(row, "Question"), str(lookup(row, "Correct Answer")).strip()
    wrong = [str(lookup(row, f"Incorrect Answer {number}")).strip() for number in (1, 2, 3)]
    choices = sorted((right, *wrong), key=lambda choice: hashlib.sha256(f"{question}/{choice}".encode()).digest())
    letter = ascii_uppercase[choices.index(right)]
    return Content(format_choices(question, choices), letter, kind=AnswerKind.CHOICE)


def read_olympiad(row: Row) -> Content:
    """Read a row of OlympiadBench's open-ended text problems: its context and question, and all of its answers."""
    context = str(row.values.get("context") or "").strip()
    answers = lookup(row, "final_answer")
    joined = ", ".join(map(str, answers)) if isinstance(answers, list | tuple) else format_reference_answer(answers)
    return Content("\n\n".join(filter(None, (context, read_question(row, "question")))), joined)


def read_otb(row: Row) -> Content:
    """Read a row of OptimalThinkingBench; its level is its half, over or under.

    The second half is graded by reasoning-gym. Of the first, answers of more words than `OTB_WORDS` would need a judge:
    RowError.
    """
    question, answer = read_question(row, "question"), str(lookup(row, "answer")).strip()
    half = next((one for one in ("over", "under") if str(lookup(row, "subset")).startswith(one)), None)
    if half is None:
        raise RowError(f"'subset' is {row.values['subset']!r}, neither over- nor underthinking")
    metadata = json.loads(str(row.values.get("metadata") or "{}"))
    if half == "under" and "source_dataset" in metadata:
        entry = json.dumps({"answer": answer, "metadata": metadata}, ensure_ascii=False)
        return Content(question, entry, half, AnswerKind.REASONING_GYM, half)
    if len(answer.split()) > OTB_WORDS:
        raise RowError(f"the answer has {len(answer.split())} words, which only a judge could compare")
    return Content(question, answer, half, subject=half)


MATH_CONFIGS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
SETS = {
    "gsm8k": NamedSet(
        "openai/gsm8k",
        {"train": Part("train", ("gsm8k_train.jsonl",)), "test": Part("test", ("gsm8k_test.jsonl",), 1319)},
        read_gsm8k,
        ("main",),
        train="train",
        evaluation="test",
    ),
    "math": NamedSet(
        "EleutherAI/hendrycks_math",
        {"train": Part("train", ("math_train_answers.json",))},
        read_math,
        MATH_CONFIGS,
        train="train",
    ),
    "math500": NamedSet(
        "HuggingFaceH4/MATH-500", {"test": Part("test", ("math500_test.jsonl",), 500)}, read_math, evaluation="test"
    ),
    "aime24": NamedSet(
        "HuggingFaceH4/aime_2024", {"test": Part("train", ("aime2024.json",), 30)}, read_aime, evaluation="test"
    ),
    "aime25": NamedSet(
        "opencompass/AIME2025",
        {"test": Part("test", ("aime2025-I.jsonl", "aime2025-II.jsonl"), 30)},
        read_aime,
        ("AIME2025-I", "AIME2025-II"),
        evaluation="test",
    ),
    "amc23": NamedSet("math-ai/amc23", {"test": Part("test", ("amc23.jsonl",), 40)}, read_plain, evaluation="test"),
    "mmlu": NamedSet(
        "cais/mmlu",
        {
            "test": Part("test", ("mmlu_full.zip",), 14042),
            "validation": Part("validation", ("mmlu_full.zip",)),
            "dev": Part("dev", ("mmlu_full.zip",)),
        },
        read_mmlu,
        ("all",),
        evaluation="test",
        filters=(*GROUPS, *GROUP_OF),
    ),
    "mmlu_pro": NamedSet(
        "TIGER-Lab/MMLU-Pro",
        {"test": Part("test", ("mmlu_pro_test.parquet",), 12032)},
        read_mmlu_pro,
        evaluation="test",
        filters=MMLU_PRO,
    ),
    "gpqa": NamedSet(
        "Idavidrein/gpqa",
        {"test": Part("train", ("gpqa_diamond.csv",), 198)},
        read_gpqa,
        ("gpqa_diamond",),
        evaluation="test",
    ),
    "minerva": NamedSet(
        "math-ai/minervamath", {"test": Part("test", ("minerva.jsonl",), 272)}, read_plain, evaluation="test"
    ),
    "olympiadbench": NamedSet(
        "Hothan/OlympiadBench",
        {"test": Part("train", ("olympiadbench.jsonl",), 674)},
        read_olympiad,
        ("OE_TO_maths_en_COMP",),
        evaluation="test",
    ),
    "otb": NamedSet(
        "facebook/optimal_thinking_bench",
        {"test": Part("train", ("optimal_thinking_bench.jsonl",))},
        read_otb,
        evaluation="test",
        filters=("over", "under"),
    ),
    "deepscaler": NamedSet(
        "agentica-org/DeepScaleR-Preview-Dataset",
        {"train": Part("train", ("deepscaler.json",))},
        read_plain,
        train="train",
    ),
    "svamp": NamedSet(
        "ChilleD/SVAMP",
        {"train": Part("train", ("svamp_train.jsonl",)), "test": Part("test", ("svamp_test.jsonl",), 300)},
        read_svamp,
        train="train",
        evaluation="test",
    ),
}
ZIP_FOLDERS = {"test": "test", "validation": "val", "dev": "dev"}  # of MMLU's archive


def read_set(name: str, split: str, *, only: str | None = None, data: Path | None) -> Iterator[Problem | BadRow]:
    """Yield the problems of one split, in its order and with repeats; `only` keeps one of the set's filters.

    Raises UserError where neither the folder `data` nor the hub has the set.
    """
    named = SETS[name]
    for row in read_set_rows(name, split, data):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            content = named.read(row)
            check_texts(content.prompt, content.answer, level=content.level, context=())
        except (RowError, TypeError, ValueError) as error:  # the last two: a column of another type than expected
            yield BadRow(row.where, str(error), row.number)
            continue
        if only in (None, content.level, content.subject):
            source = "/".join(filter(None, (name, split, content.subject)))
            yield make_problem(content.prompt, content.answer, level=content.level, source=source, kind=content.kind)


def read_set_rows(name: str, split: str, data: Path | None) -> Iterator[Row | BadRow]:
    """Yield each row from the local folder, or else from the hub; raises UserError for a missing folder."""
    if data is not None and not data.is_dir():
        raise UserError(f"no folder '{data}' for data: give the folder that holds local copies, or none to use the hub")
    if paths := find_local_copy(name, split, data):
        for path in paths:
            yield from read_zip_rows(path, ZIP_FOLDERS[split]) if path.suffix == ".zip" else read_rows(path)
    else:
        for config in SETS[name].configs:
            yield from read_hub_rows(name, config, split)


def find_local_copy(name: str, split: str, data: Path | None) -> list[Path]:
    """Return the files of a split in the local folder; none if any is not there."""
    paths = [data / file for file in SETS[name].splits[split].files] if data else []
    return paths if all(path.is_file() for path in paths) else []


def read_zip_rows(path: Path, folder: str) -> Iterator[Row | BadRow]:
    """Yield MMLU's rows out of its archive of CSV files, one subject after the other."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                path_inside = PurePosixPath(member)
                if path_inside.parent.name != folder or path_inside.suffix != ".csv":
                    continue
                subject = path_inside.stem.removesuffix(f"_{folder}")
                lines = io.BytesIO(archive.read(member))  # the largest holds 2 MB
                for row in read_csv(lines, f"{path}/{member}", header=MMLU_COLUMNS):
                    yield row if isinstance(row, BadRow) else add_subject(row, subject)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: not a ZIP archive that can be read ({error}); fetch it again") from None


def add_subject(row: Row, subject: str) -> Row:
    """Return the row with its subject, which is only in the file's name."""
    return Row(row.where, row.number, {**row.values, "subject": subject})


def read_hub_rows(name: str, config: str | None, split: str) -> Iterator[Row]:
    """Yield the rows of a split from the hub; raises UserError if it cannot be loaded."""
    import datasets  # noqa: PLC0415  (takes more than a second)
    from huggingface_hub.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()  # each retry would print a line
    named = SETS[name]
    part = named.splits[split]
    location = ", ".join(filter(None, (named.hub_id, config, part.hub)))
    try:
        rows = datasets.load_dataset(named.hub_id, config, split=part.hub, streaming=True)
        for number, row in enumerate(rows, start=1):
            yield Row(f"{location}, row {number}", number, dict(row))
    except Exception as error:  # many libraries lie between here and the hub
        raise UserError(
            f"cannot read '{name}' from the hub ({named.hub_id}): {(str(error).strip().splitlines() or ['?'])[0]}; "
            f"connect, or give the folder that holds {' and '.join(part.files)} with --data"
        ) from error
