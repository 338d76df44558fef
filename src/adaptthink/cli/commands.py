"""The commands: each resolves its settings and calls its job. Heavy imports stand inside the functions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from adaptthink.callbacks import Callback
from adaptthink.config.schema import (
    Config,
    EvaluateConfig,
    PresampleConfig,
    ServeConfig,
    TrainConfig,
    VerlConfig,
    resolve,
)
from adaptthink.errors import UserError
from adaptthink.storage.locks import locked

Json = Annotated[
    Path | None,
    Parameter(help="Also write the result as JSON to this file.", validator=validators.Path(dir_okay=False)),
]
DryRun = Annotated[bool, Parameter(help="Print the resolved settings and stop.", negative="")]
Resume = Annotated[bool, Parameter(help="Go on with the interrupted run in --output.", negative="")]
Clean = Annotated[bool, Parameter(help="Delete an earlier run in --output first.", negative="")]
Profile = Annotated[
    bool, Parameter(help="Say where the time went, against what this machine could do at best.", negative="")
]
Track = Annotated[
    tuple[str, ...],
    Parameter(help="Also log to wandb, trackio, tensorboard or mlflow; options: wandb:project=mine,group=a."),
]
Recipes = Annotated[
    tuple[str, ...],
    Parameter(help="Recipe files or names (toy_cpu); later ones win.", negative="", consume_multiple=True),
]
DataFolder = Annotated[
    Path | None, Parameter(help="Folder with local copies of named sets [default: ADAPTTHINK_DATA, else the hub].")
]
ThinkOpener = Annotated[str, Parameter(help="The first token of a thought that is forced open.")]
FieldMapping = Annotated[str | None, Parameter(help="Columns of a file: prompt=question,answer=final_answer.")]
Mode = Literal["auto", "think", "no_think"]
POSITIVE, NOT_NEGATIVE, POINTS = validators.Number(gt=0), validators.Number(gte=0), validators.Number(gt=0, lt=100)


def demo(
    *,
    output: Annotated[Path, Parameter(help="Run folder.")] = Path("runs/demo"),
    recipe: Recipes = ("toy_cpu",),
    seed: Annotated[int | None, Parameter(help="Seed of everything random [default: the recipe's, else 0].")] = None,
    resume: Resume = False,
    clean: Clean = False,
    profile: Profile = False,
    json: Json = None,
) -> None:
    """Train the embedded reasoner to choose when to think, evaluate it and write a report (three to four minutes)."""
    flags = {} if seed is None else {"seed": seed}
    config = resolve("train", TrainConfig, recipes=recipe, flags=flags)
    evaluation = resolve("evaluate", EvaluateConfig, recipes=recipe, flags=flags)
    from adaptthink.cli.jobs import demo_job

    with locked(output, f"run folder '{output}'"):
        result = demo_job(config, evaluation, output, resume=resume, clean=clean, profiled=profile)
    write_result(json, result)


def train(
    *recipes: Annotated[str, Parameter(help="Recipe files or names (toy_cpu); later ones win.")],
    config: Annotated[VerlConfig, Parameter(name="*")] = VerlConfig(),  # noqa: B008  (immutable)
    backend: Annotated[
        Literal["native", "verl"], Parameter(help="What trains: this program, or verl on a Ray cluster (docs/verl.md).")
    ] = "native",
    verl_python: Annotated[
        Path | None, Parameter(help="verl: the Python of the environment that has it [default: this one].")
    ] = None,
    output: Annotated[Path, Parameter(help="Run folder.")] = Path("runs/train"),
    reference: Annotated[
        Path | None, Parameter(help="Reference store from presample [default: in the run folder].")
    ] = None,
    resume: Resume = False,
    clean: Clean = False,
    profile: Profile = False,
    track: Track = (),
    dry_run: DryRun = False,
    json: Json = None,
) -> None:
    """Train a model to choose when to think."""
    from adaptthink.integrations.trackers import parse_trackers

    trackers = parse_trackers(track)
    if backend == "verl":
        return train_on_verl(
            resolve("verl", VerlConfig, recipes=recipes, flags=given(config)),
            output,
            reference=reference,
            python=sys.executable if verl_python is None else str(verl_python),
            resume=resume,
            clean=clean,
            profile=profile,
            callbacks=trackers,
            dry_run=dry_run,
            json=json,
        )
    alien = sorted({name for name in given(config) if name not in TrainConfig.model_fields})
    if alien or verl_python is not None:
        raise UserError(
            f"{', '.join(alien) or 'verl_python'}: for --backend verl alone; give that too, or leave it out"
        )
    resolved = resolve("train", TrainConfig, recipes=recipes, flags=given(config))
    if dry_run:
        return show_settings(resolved)
    from adaptthink.cli.jobs import train_job

    with locked(output, f"run folder '{output}'"):
        result = train_job(
            resolved,
            output,
            reference_store=reference,
            resume=resume,
            clean=clean,
            profiled=profile,
            callbacks=trackers,
        )
    return write_result(json, result)


def train_on_verl(
    config: VerlConfig,
    output: Path,
    *,
    reference: Path | None,
    python: str,
    resume: bool,
    clean: bool,
    profile: bool,
    callbacks: Sequence[Callback],
    dry_run: bool,
    json: Path | None,
) -> None:
    """Train on verl, or with `dry_run` print the command that would start it."""
    if profile:
        raise UserError("--profile measures the native trainer; leave it out with --backend verl")
    from adaptthink.cli.verl import show_command, verl_job

    if dry_run:
        return show_command(config, output, python)
    with locked(output, f"run folder '{output}'"):
        result = verl_job(
            config,
            output,
            reference_store=reference,
            python=python,
            resume=resume,
            clean=clean,
            callbacks=callbacks,
        )
    return write_result(json, result)


def plan(
    *recipes: Annotated[str, Parameter(help="Recipe files or names (r1_distill_7b); later ones win.")],
    config: Annotated[VerlConfig, Parameter(name="*")] = VerlConfig(),  # noqa: B008  (immutable)
    gpus: Annotated[str, Parameter(help="GPUs, such as 8xH100; cpu: this machine, which is measured.")],
    think_tokens: Annotated[
        float | None, Parameter(help="Mean length of a thought at the start [default: assumed].", validator=POSITIVE)
    ] = None,
    no_think_tokens: Annotated[
        float | None,
        Parameter(help="Mean length of a direct answer at the start [default: assumed].", validator=POSITIVE),
    ] = None,
    prompt_tokens: Annotated[
        int | None, Parameter(help="Length of a prompt [default: assumed].", validator=POSITIVE)
    ] = None,
    reference: Annotated[
        Path | None, Parameter(help="Reference store whose thoughts say how long they are, instead of --think-tokens.")
    ] = None,
    price: Annotated[
        float | None,
        Parameter(help="Price of a GPU for an hour; not given: no cost is shown.", validator=NOT_NEGATIVE),
    ] = None,
    json: Json = None,
) -> None:
    """Estimate a training before it is started: memory, seconds of a step, hours, and what would not fit."""
    resolved = resolve("verl", VerlConfig, recipes=recipes, flags=given(config))
    from adaptthink.cli.plan import plan_job

    result = plan_job(
        resolved,
        gpus,
        think_tokens=think_tokens,
        no_think_tokens=no_think_tokens,
        prompt_tokens=prompt_tokens,
        reference=reference,
        price=price,
    )
    write_result(json, result)


def presample(
    *recipes: Annotated[str, Parameter(help="Recipe files or names (toy_cpu); later ones win.")],
    config: Annotated[PresampleConfig, Parameter(name="*")] = PresampleConfig(),  # noqa: B008  (immutable)
    output: Annotated[Path, Parameter(help="Reference store (JSONL); an interrupted one is completed.")] = Path(
        "runs/reference.jsonl"
    ),
    dry_run: DryRun = False,
    json: Json = None,
) -> None:
    """Sample the reference: K free thoughts per problem from the model before training."""
    resolved = resolve("presample", PresampleConfig, recipes=recipes, flags=given(config))
    if dry_run:
        return show_settings(resolved)
    from adaptthink.cli.jobs import presample_job

    return write_result(json, presample_job(resolved, output))


def evaluate(
    model: Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny' (the embedded reasoner).")],
    /,
    *,
    config: Annotated[EvaluateConfig, Parameter(name="*")] = EvaluateConfig(),  # noqa: B008  (immutable)
    recipe: Recipes = (),
    modes: Annotated[tuple[Mode, ...], Parameter(help="Asked modes.", negative="", consume_multiple=True)] = (
        "auto",
        "think",
        "no_think",
    ),
    output: Annotated[Path, Parameter(help="Evaluation folder; an interrupted or a smaller one is completed.")] = Path(
        "runs/evaluation"
    ),
    reference: Annotated[
        Path | None,
        Parameter(
            help="Evaluation folder whose pass rates say how hard problems are [default: forced think of this model]."
        ),
    ] = None,
    delta: Annotated[
        float,
        Parameter(
            help="Accuracy that no_think may cost, for the mode quality.", validator=validators.Number(gte=0, lte=1)
        ),
    ] = 0.05,
    dry_run: DryRun = False,
    json: Json = None,
) -> None:
    """Evaluate a model as it chooses and in both forced modes, by level; every sample is kept in --output."""
    if "model" in config.model_fields_set:
        raise UserError("evaluate takes its model as an argument, not as --model: adaptthink evaluate MODEL")
    resolved = resolve("evaluate", EvaluateConfig, recipes=recipe, flags=given(config) | {"model": model})
    if dry_run:
        return show_settings(resolved)
    from adaptthink.cli.jobs import evaluate_job

    return write_result(json, evaluate_job(resolved, modes, output, reference=reference, delta=delta))


def compare(
    *rows: Annotated[
        str,
        Parameter(help="Evaluation folders, the base first: FOLDER (its auto row), FOLDER:think or FOLDER:no_think."),
    ],
    force: Annotated[
        bool,
        Parameter(help="Compare what was asked differently too, on the problems that all have; says how.", negative=""),
    ] = False,
    markdown: Annotated[
        Path | None,
        Parameter(help="Also write the tables to this Markdown file.", validator=validators.Path(dir_okay=False)),
    ] = None,
    json: Json = None,
) -> None:
    """Compare evaluations with the first: accuracy, length, no_think, and what of it can be told apart."""
    from adaptthink.cli.compare import compare_job

    write_result(json, compare_job(rows, forced=force, markdown=markdown))


def reproduce(
    *,
    output: Annotated[Path, Parameter(help="Folder; an interrupted one is completed.")] = Path("runs/reproduce"),
    quick: Annotated[bool, Parameter(help="One seed, fewer steps: minutes, not conclusions.", negative="")] = False,
    clean: Clean = False,
    json: Json = None,
) -> None:
    """Run the paper's experiments on the embedded reasoner and hold its claims against them (up to 90 minutes)."""
    from adaptthink.cli.reproduce import reproduce_job

    with locked(output, f"run folder '{output}'"):
        result = reproduce_job(output, quick=quick, clean=clean)
    write_result(json, result)


def calibrate(
    model: Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny' (the embedded reasoner).")],
    /,
    *,
    config: Annotated[EvaluateConfig, Parameter(name="*")] = EvaluateConfig(),  # noqa: B008  (immutable)
    recipe: Recipes = (),
    tolerance: Annotated[
        float,
        Parameter(help="Points of accuracy that may be lost against always thinking.", validator=POINTS),
    ] = 1.0,
    token_budget: Annotated[
        float | None,
        Parameter(
            help="Mean tokens of a response; the threshold in use is then the one chosen for it.", validator=POSITIVE
        ),
    ] = None,
    output: Annotated[Path, Parameter(help="Evaluation folder; an interrupted or a smaller one is completed.")] = Path(
        "runs/calibration"
    ),
    dry_run: DryRun = False,
    json: Json = None,
) -> None:
    """Choose the threshold on P(no_think) from which a model answers without thinking, with a guarantee."""
    if "model" in config.model_fields_set:
        raise UserError("calibrate takes its model as an argument, not as --model: adaptthink calibrate MODEL")
    resolved = resolve("evaluate", EvaluateConfig, recipes=recipe, flags=given(config) | {"model": model})
    if dry_run:
        return show_settings(resolved)
    from adaptthink.cli.dial import calibrate_job

    result = calibrate_job(resolved, output, tolerance_points=tolerance, token_budget=token_budget)
    return write_result(json, result)


def decide(
    model: Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny' (the embedded reasoner).")],
    /,
    *prompts: Annotated[str, Parameter(help="What a user would write, with the instruction that the set had.")],
    threshold: Annotated[
        float | None,
        Parameter(
            help="P(no_think) from which no_think is chosen [default: the calibrated one].", validator=NOT_NEGATIVE
        ),
    ] = None,
    dial: Annotated[
        Path | None, Parameter(help="An adaptthink.json from calibrate [default: the one in the model's folder].")
    ] = None,
    think_start: ThinkOpener = "Alright",
    json: Json = None,
) -> None:
    """Say which mode the dial gives each prompt: its P(no_think), the mode, the threshold."""
    if not prompts:
        raise UserError("no prompt to decide on; give one or more: adaptthink decide MODEL PROMPT...")
    from adaptthink.cli.dial import decide_job

    result = decide_job(model, prompts, threshold=threshold, dial_file=dial, think_start=think_start)
    write_result(json, result)


def serve(
    model: Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny' (the embedded reasoner).")],
    /,
    *,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),  # noqa: B008  (immutable)
    recipe: Recipes = (),
    dry_run: DryRun = False,
) -> None:
    """Serve a model over HTTP in the style of OpenAI's API: thinking, not thinking, or the model's choice."""
    if "model" in config.model_fields_set:
        raise UserError("serve takes its model as an argument, not as --model: adaptthink serve MODEL")
    resolved = resolve("serve", ServeConfig, recipes=recipe, flags=given(config) | {"model": model})
    if dry_run:
        return show_settings(resolved)
    from adaptthink.cli.serve import serve_job

    return serve_job(resolved)


def doctor(
    model: Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny' (the embedded reasoner).")],
    /,
    *,
    think_start: ThinkOpener = "Alright",
    json: Json = None,
) -> None:
    """Check how a model opens and closes a thought, and whether AdaptThink can train it."""
    from adaptthink.cli.jobs import doctor_job

    write_result(json, doctor_job(model, think_start))


def grade(
    file: Annotated[
        Path,
        Parameter(help="JSONL: response, reference_answer and, if not math, kind (choice); finished: false if cut."),
    ],
    /,
    *,
    json: Annotated[
        Path | None,
        Parameter(
            help="Write one line for each line: verdict, extracted, rule.", validator=validators.Path(dir_okay=False)
        ),
    ] = None,
    seconds: Annotated[
        float, Parameter(help="Stop the comparison of one answer after so long.", validator=validators.Number(gt=0))
    ] = 2.0,
) -> None:
    """Grade recorded responses: a verdict for each, what was extracted, and which rule decided."""
    from adaptthink.cli.console import console, counter, show_tally
    from adaptthink.grading import Limits
    from adaptthink.grading.lines import grade_file

    with counter("graded") as advance:
        tally = grade_file(file, json, Limits(seconds), advance)
    show_tally(tally)
    for fault in tally.bad_lines:
        print(f"{file}, {fault}", file=sys.stderr)
    if json:
        console.print(f"verdicts in {json}")


def report(
    folder: Annotated[Path, Parameter(help="A training run's folder, or an evaluation's.")],
    /,
    *more: Annotated[Path, Parameter(help="More evaluation folders: one page shows all models.")],
    output: Annotated[
        Path | None, Parameter(help="Folder for the report [default: the folder itself; several need it].")
    ] = None,
    figures: Annotated[
        Path | None, Parameter(help="Folder for the figures: SVG, PNG at 300 dpi, and CSV with their numbers.")
    ] = None,
    json: Json = None,
) -> None:
    """Write the report of a training run, or of evaluations side by side: report.html and report.md."""
    from adaptthink.report import write_report

    html, markdown = write_report(folder, *more, output=output, figure_folder=figures)
    print(html)
    write_result(json, {"html": str(html), "markdown": str(markdown), "figures": figures and str(figures)})


def data_check(
    problems: Annotated[str, Parameter(help="A set, reasoning_gym:FAMILY, a file, or several (a,b).")],
    /,
    *,
    against: Annotated[
        tuple[str, ...],
        Parameter(help="Sets that must not stand in it, such as math500.", negative="", consume_multiple=True),
    ] = (),
    data: DataFolder = None,
    fields: FieldMapping = None,
    json: Json = None,
) -> None:
    """Count problems, repeats, unreadable golds and rows, and leaks into other sets."""
    config = data_config(problems, data=data, fields=fields)
    from adaptthink.cli.data import check_job

    write_result(json, check_job(config, against))


def data_show(
    problems: Annotated[str, Parameter(help="A set, reasoning_gym:FAMILY, a file, or several (a,b).")],
    /,
    *,
    model: Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny'; its chat template is used.")] = "tiny",
    count: Annotated[int, Parameter(help="How many, from the beginning.", validator=validators.Number(gte=1))] = 3,
    mode: Annotated[Mode, Parameter(help="The mode that the prompt leads into; auto: none.")] = "auto",
    data: DataFolder = None,
    fields: FieldMapping = None,
    instruction: Annotated[
        str | None, Parameter(help="Text put after each prompt [default: what the source asks for by itself].")
    ] = None,
    json: Json = None,
) -> None:
    """Print a few problems as the model sees them, with gold, kind and level."""
    config = data_config(problems, model=model, data=data, fields=fields, instruction=instruction)
    from adaptthink.cli.data import show_job

    write_result(json, show_job(config, count, mode))


def data_config(problems: str, **options: str | Path | None) -> PresampleConfig:
    """Resolve the settings of a data command; options that were not given leave the environment's."""
    flags = {"problems": problems} | {name: value for name, value in options.items() if value is not None}
    return resolve("presample", PresampleConfig, flags=flags)


def given(config: Config) -> dict[str, Any]:
    """Return only the settings that stood on the command line."""
    return {name: getattr(config, name) for name in config.model_fields_set}


def show_settings(config: Config) -> None:
    """Print a resolved configuration as the recipe that would give it; what is not set has no line."""
    for name, value in config.model_dump(mode="json", exclude_none=True).items():
        print(f"{name} = {toml_value(value)}")


def toml_value(value: str | float | int) -> str:
    """Write a scalar as TOML; JSON's form is the same for the types that settings have."""
    return dumps(value, ensure_ascii=False)


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a command's result where --json said."""
    if path:
        from adaptthink.storage.runs import write_json

        write_json(path, result)
