"""`adaptthink bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from adaptthink.cli.parameters import Clean, Json, Recipes, Writable, WritableFile, join_words, write_result
from adaptthink.storage.kinds import PathKind, expect
from adaptthink.storage.locks import locked

Part = Literal["untrained", "tune", "train", "best", "page"]
Size = Annotated[int | None, Parameter(show_default=False, validator=validators.Number(gt=0))]
QUICK_ENTRIES = (
    "original", "random_mix", "linear_probe", "budget_forcing", "adaptthink", "gap", "grpo", "delta_0", "delta_0.1",
)  # fmt: skip


def bench(
    run: Annotated[Path, Parameter(help="Folder; an interrupted or a smaller one is completed."), Writable],
    /,
    *,
    recipe: Recipes = ("reproduce", "reproduce/bench"),
    shifted: Annotated[
        str | None,
        Parameter(
            help="Recipe of problems unlike those trained on, over the others [default: that of arithmetic or words].",
            show_default=False,
        ),
    ] = None,
    entries: Annotated[
        tuple[str, ...],
        Parameter(
            help="Entries to run [default: all installed].", negative="", consume_multiple=True, show_default=False
        ),
    ] = (),
    seeds: Annotated[
        tuple[int, ...],
        Parameter(
            help="Seeds of every entry; the five best get two more.",
            negative="",
            consume_multiple=True,
            show_default=lambda value: " ".join(map(str, value)),
        ),
    ] = (0, 1, 2),
    parts: Annotated[
        tuple[Part, ...],
        Parameter(
            help="What to run; page: nothing, only measure what is there.",
            negative="",
            consume_multiple=True,
            show_default=join_words,
        ),
    ] = ("untrained", "tune", "train", "best"),
    steps: Annotated[Size, Parameter(help="Steps of a training [default: the recipe's].")] = None,
    problems_per_level: Annotated[Size, Parameter(help="To train on [default: the recipe's].")] = None,
    evaluated_per_level: Annotated[Size, Parameter(help="To evaluate on [default: the recipe's].")] = None,
    tuned: Annotated[
        Path | None,
        Parameter(
            help="Result of another benchmark: its knob values are taken, and nothing is tuned [default: tuned here].",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, Parameter(help="One seed, few entries, 60 steps, nothing tuned: not conclusions.", negative="")
    ] = False,
    jobs: Annotated[Size, Parameter(help="Commands that run side by side [default: one a core; on a GPU one].")] = None,
    page: Annotated[
        Path | None, Parameter(help="Markdown file that gets the results [default: RUN/benchmark.md]."), WritableFile
    ] = None,
    clean: Clean = False,
    json: Json = None,
) -> None:
    """Train and evaluate methods alike, from one reference and with one grader, and make one page of it."""
    expect(run, "bench", PathKind.BENCHMARK)
    from adaptthink.cli.bench import bench_job, make_design

    if quick:
        steps, evaluated_per_level = steps or 60, evaluated_per_level or 100
        entries, seeds = entries or QUICK_ENTRIES, seeds[:1]
        parts = tuple(one for one in parts if one in ("untrained", "train", "page"))
    size = {"steps": steps, "problems": problems_per_level, "evaluated": evaluated_per_level}
    design = make_design(recipe, shifted, tuned, **size)
    with locked(run, f"run folder '{run}'"):
        result = bench_job(run, design, entries=entries, seeds=seeds, parts=parts, jobs=jobs, page=page, clean=clean)
    write_result(json, result)
