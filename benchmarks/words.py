"""How long the problems in words are in a model's tokens, by level: questions, thoughts and solutions.

    python benchmarks/words.py MODEL  # a folder with a tokenizer, such as SmolLM2's

Prints them and writes a result file.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import fmean

from record import surroundings, write_result
from transformers import AutoTokenizer

from adaptthink.problems.arithmetic import Split
from adaptthink.problems.words import generate_word_problems

PER_LEVEL = 600


def main() -> None:
    """Count, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    tokenizer = AutoTokenizer.from_pretrained(parser.parse_args().model)
    lengths: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for one in generate_word_problems(PER_LEVEL, seed=0, split=Split.TRAIN):
        texts = (one.question, one.thought, one.solution)
        lengths[one.level].append(tuple(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts))
    levels = {
        level: dict(zip(("question", "thought", "solution"), map(fmean, zip(*counts, strict=True)), strict=True))
        for level, counts in lengths.items()
    }
    print(*levels.items(), sep="\n")
    found = surroundings(["adaptthink", "transformers"]) | {"problems_per_level": PER_LEVEL, "levels": levels}
    print(write_result("words", found))


if __name__ == "__main__":
    main()
