"""The commands: each resolves its settings and calls its job. Heavy imports stand inside the functions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from adaptthink.callbacks import Callback
from adaptthink.cli.settings import (
    add_flags,
    check_model,
    check_problem_files,
    read_evaluation_settings,
    read_settings,
    select_given,
    show_settings,
)
from adaptthink.config.chat import ChatConfig
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import (
    PLANNED,
    Config,
    EngineConfig,
    EvaluateConfig,
    EvaluationConfig,
    PresampleConfig,
    RequestedMode,
    ServeConfig,
    TrainConfig,
    Unread,
    VerlConfig,
)
from adaptthink.errors import UserError
from adaptthink.problems.sources import Purpose
from adaptthink.problems.unread import unread_settings
from adaptthink.storage.kinds import PathKind, expect
from adaptthink.storage.locks import locked


def join_words(value: tuple[str, ...]) -> str:
    """Return a default as it would be given on the command line."""
    return " ".join(value)


Json = Annotated[
    Path | None,
    Parameter(help="Also write the result as JSON to this file.", validator=validators.Path(dir_okay=False)),
]
DryRun = Annotated[bool, Parameter(help="Print the resolved settings and stop.", negative="")]
Resume = Annotated[bool, Parameter(help="Continue the interrupted run in --output.", negative="")]
Clean = Annotated[bool, Parameter(help="Delete an earlier run in --output first.", negative="")]
Profile = Annotated[
    bool, Parameter(help="Print where the time went, compared with the roofline of this machine.", negative="")
]
Track = Annotated[
    tuple[str, ...],
    Parameter(
        help="Also log to wandb, trackio, tensorboard or mlflow; options: wandb:project=mine,group=a.",
        negative="",
        show_default=False,
    ),
]
Recipes = Annotated[
    tuple[str, ...],
    Parameter(
        help="Recipe files or names (toy_cpu); later ones win.",
        negative="",
        consume_multiple=True,
        show_default=False,
    ),
]
Model = Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny' (the embedded reasoner).")]
DataFolder = Annotated[
    Path | None, Parameter(help="Folder with local copies of named sets [default: ADAPTTHINK_DATA, else the hub].")
]
ThinkStart = Annotated[str, Parameter(help="w_start: the token that forced thinking begins with.")]
FieldMapping = Annotated[str | None, Parameter(help="Columns of a file: prompt=question,answer=final_answer.")]
ReferenceStore = Annotated[Path | None, Parameter(help="Reference store from presample [default: in the run folder].")]
EvaluationOutput = Annotated[Path, Parameter(help="Evaluation folder; an interrupted or a smaller one is completed.")]
REPORTED = (PathKind.RUN, PathKind.EVALUATION, PathKind.REPRODUCTION)
POSITIVE, NOT_NEGATIVE, POINTS = validators.Number(gt=0), validators.Number(gte=0), validators.Number(gt=0, lt=100)


def demo(
    *,
    output: Annotated[Path, Parameter(help="Run folder.")] = Path("runs/demo"),
    recipe: Annotated[Recipes, Parameter(help="Recipe files or names; later ones win [default: toy_cpu].")] = (
        "toy_cpu",
    ),
    seed: Annotated[int | None, Parameter(help="Seed of everything random [default: the recipe's, else 0].")] = None,
    resume: Resume = False,
    clean: Clean = False,
    profile: Profile = False,
    json: Json = None,
) -> None:
    """Train the embedded reasoner to choose when to think, evaluate it and write a report (three to four minutes)."""
    flags = {} if seed is None else {"seed": seed}
    config = read_settings("train", TrainConfig, recipe, flags)
    evaluation = read_settings("evaluate", EvaluateConfig, recipe, flags, unread=find_unread_in_demo)
    expect(output, "--output", PathKind.RUN)
    from adaptthink.cli.jobs import demo_job

    with locked(output, f"run folder '{output}'"):
        result = demo_job(config, evaluation, output, resume=resume, clean=clean, profiled=profile)
    write_result(json, result)


def find_unread_in_demo(config: EvaluateConfig) -> Iterator[Unread]:
    """Yield the settings that the demo's evaluation does not read, such as how the trained model is run."""
    yield from config.unread()
    yield from unread_settings(config.problems, Purpose.EVALUATION)
    yield Unread(
        tuple(EngineConfig.model_fields.keys() - EvaluationConfig.model_fields.keys() | {"model", "chat"}),
        (),
        "the demo evaluates the model that it trains, with the engine of the training",
        "leave it out of [evaluate]",
    )


@add_flags(VerlConfig)
def train(
    recipe: Recipes = (),
    *,
    flags: Config,
    backend: Annotated[
        Literal["native", "verl"], Parameter(help="What trains: this program, or verl on a Ray cluster (docs/verl.md).")
    ] = "native",
    verl_python: Annotated[
        Path | None, Parameter(help="verl: the Python of the environment that has it [default: this one].")
    ] = None,
    output: Annotated[Path, Parameter(help="Run folder.")] = Path("runs/train"),
    reference: ReferenceStore = None,
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
    expect(output, "--output", PathKind.RUN)
    if reference:
        expect(reference, "--reference", PathKind.STORE)
    if backend == "verl":
        return train_on_verl(
            read_settings("verl", VerlConfig, recipe, select_given(flags)),
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
    config = read_settings("train", TrainConfig, recipe, select_given(flags))
    if verl_python is not None:
        raise UserError("--verl-python has no effect: it is for --backend verl; give that too, or leave it out")
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.jobs import train_job

    result = train_job(
        config,
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
    from adaptthink.integrations.verl.launcher import show_command, verl_job

    if dry_run:
        return show_command(config, output, python)
    with locked(output, f"run folder '{output}'"):
        from adaptthink.cli.console import Terminal

        result = verl_job(
            config,
            output,
            reference_store=reference,
            python=python,
            resume=resume,
            clean=clean,
            callbacks=[Terminal(config.steps), *callbacks],
        )
    return write_result(json, result)


@add_flags(VerlConfig, only=PLANNED)
def plan(
    recipe: Recipes = (),
    *,
    flags: Config,
    gpus: Annotated[str, Parameter(help="GPUs, such as 8xH100; cpu: this machine, which is measured.")],
    think_tokens: Annotated[
        float | None,
        Parameter(help="Mean tokens of a think response at the start [default: assumed].", validator=POSITIVE),
    ] = None,
    no_think_tokens: Annotated[
        float | None,
        Parameter(help="Mean tokens of a no_think response at the start [default: assumed].", validator=POSITIVE),
    ] = None,
    prompt_tokens: Annotated[
        int | None, Parameter(help="Length of a prompt [default: assumed].", validator=POSITIVE)
    ] = None,
    reference: Annotated[
        Path | None,
        Parameter(help="Reference store to take the lengths of think responses from, instead of --think-tokens."),
    ] = None,
    price: Annotated[
        float | None,
        Parameter(help="Price of a GPU for an hour; not given: no cost is shown.", validator=NOT_NEGATIVE),
    ] = None,
    json: Json = None,
) -> None:
    """Estimate a training before it is started: memory, seconds of a step, hours, and what would not fit."""
    if reference:
        expect(reference, "--reference", PathKind.STORE)
    unread = VerlConfig.unread if runs_on_verl(gpus) else find_unread_without_verl
    config = read_settings("plan", VerlConfig, recipe, select_given(flags), unread=unread)
    from adaptthink.cli.plan import plan_job

    result = plan_job(
        config,
        gpus,
        think_tokens=think_tokens,
        no_think_tokens=no_think_tokens,
        prompt_tokens=prompt_tokens,
        reference=reference,
        price=price,
    )
    write_result(json, result)


def runs_on_verl(gpus: str) -> bool:
    """Return whether a training on these GPUs runs on verl; raises UserError for text that names none."""
    from adaptthink.planning.hardware import read_cluster

    return gpus.strip().lower() != "cpu" and read_cluster(gpus).count > 1


def find_unread_without_verl(config: VerlConfig) -> Iterator[Unread]:
    """Yield the settings that the estimate of a training on one device does not read."""
    yield from TrainConfig.unread(config)
    yield Unread(
        tuple(VerlConfig.model_fields.keys() - TrainConfig.model_fields.keys()),
        (),
        "it is for verl, which a training on one device does not need",
        "give --gpus more than one, or leave it out",
    )


@add_flags(PresampleConfig)
def presample(
    recipe: Recipes = (),
    *,
    flags: Config,
    output: Annotated[Path, Parameter(help="Reference store (JSONL); an interrupted one is completed.")] = Path(
        "runs/reference.jsonl"
    ),
    dry_run: DryRun = False,
    json: Json = None,
) -> None:
    """Sample the reference: K responses per problem from the model before training."""
    config = read_settings("presample", PresampleConfig, recipe, select_given(flags))
    expect(output, "--output", PathKind.STORE)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.jobs import presample_job

    return write_result(json, presample_job(config, output))


@add_flags(EvaluateConfig, ChatConfig, without=("model",))
def evaluate(
    model: Model,
    /,
    *,
    flags: Config,
    recipe: Recipes = (),
    modes: Annotated[
        tuple[RequestedMode, ...],
        Parameter(help="Modes to evaluate in.", negative="", consume_multiple=True, show_default=join_words),
    ] = ("auto", "think", "no_think"),
    output: EvaluationOutput = Path("runs/evaluation"),
    difficulty_from: Annotated[
        Path | None,
        Parameter(
            help="Evaluation folder whose pass rates are the problems' difficulty [default: forced think of this one]."
        ),
    ] = None,
    delta: Annotated[
        float,
        Parameter(
            help="Accuracy that no_think may cost, for the mode choice.", validator=validators.Number(gte=0, lte=1)
        ),
    ] = 0.05,
    dry_run: DryRun = False,
    json: Json = None,
) -> None:
    """Evaluate a model as it chooses and in both forced modes, by level; every sample is kept in --output."""
    config = read_evaluation_settings(recipe, select_given(flags) | {"model": model})
    expect(output, "--output", PathKind.EVALUATION)
    if difficulty_from:
        expect(difficulty_from, "--difficulty-from", PathKind.EVALUATION)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.jobs import evaluate_job

    return write_result(json, evaluate_job(config, modes, output, difficulty_from=difficulty_from, delta=delta))


def compare(
    *rows: Annotated[
        str,
        Parameter(help="Evaluation folders, the base first: FOLDER (its auto row), FOLDER:think or FOLDER:no_think."),
    ],
    force: Annotated[
        bool,
        Parameter(
            help="Compare unlike evaluations too, on the problems that all have; print how they differ.",
            negative="",
        ),
    ] = False,
    markdown: Annotated[
        Path | None,
        Parameter(help="Also write the tables to this Markdown file.", validator=validators.Path(dir_okay=False)),
    ] = None,
    json: Json = None,
) -> None:
    """Compare evaluations with the first: accuracy, length, no_think, and which differences are significant."""
    for row in rows:
        expect(Path(row), "compare", PathKind.EVALUATION)
    from adaptthink.cli.compare import compare_job

    write_result(json, compare_job(rows, forced=force, markdown=markdown))


def reproduce(
    *,
    output: Annotated[Path, Parameter(help="Folder; an interrupted one is completed.")] = Path("runs/reproduce"),
    quick: Annotated[bool, Parameter(help="One seed, fewer steps: minutes, not conclusions.", negative="")] = False,
    clean: Clean = False,
    json: Json = None,
) -> None:
    """Run the paper's experiments on the embedded reasoner and compare its claims with them (up to 90 minutes)."""
    from adaptthink.cli.reproduce import reproduce_job

    with locked(output, f"run folder '{output}'"):
        result = reproduce_job(output, quick=quick, clean=clean)
    write_result(json, result)


@add_flags(EvaluateConfig, without=("model",))
def calibrate(
    model: Model,
    /,
    *,
    flags: Config,
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
    output: EvaluationOutput = Path("runs/calibration"),
    dry_run: DryRun = False,
    json: Json = None,
) -> None:
    """Choose the threshold on P(no_think) from which a model answers without thinking, with a guarantee."""
    config = read_settings("calibrate", EvaluateConfig, recipe, select_given(flags) | {"model": model})
    expect(output, "--output", PathKind.EVALUATION)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.dial import calibrate_job

    result = calibrate_job(config, output, tolerance_points=tolerance, token_budget=token_budget)
    return write_result(json, result)


def decide(
    model: Model,
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
    think_start: ThinkStart = "Alright",
    json: Json = None,
) -> None:
    """Print the mode that the dial chooses for each prompt: P(no_think), mode, threshold."""
    if not prompts:
        raise UserError("no prompt to decide on; give one or more: adaptthink decide MODEL PROMPT...")
    check_model(model)
    if dial:
        expect(dial, "--dial", PathKind.DIAL)
    from adaptthink.cli.dial import decide_job

    result = decide_job(model, prompts, threshold=threshold, dial_file=dial, think_start=think_start)
    write_result(json, result)


@add_flags(ServeConfig, without=("model",))
def serve(
    model: Model,
    /,
    *,
    flags: Config,
    recipe: Recipes = (),
    dry_run: DryRun = False,
) -> None:
    """Serve a model over HTTP in the style of OpenAI's API: thinking, not thinking, or the model's choice."""
    config = read_settings("serve", ServeConfig, recipe, select_given(flags) | {"model": model})
    if dry_run:
        return show_settings(config)
    from adaptthink import api
    from adaptthink.cli.console import Terminal

    return api.serve(config.model, callbacks=[Terminal()], config=config)


def doctor(
    model: Model,
    /,
    *,
    think_start: ThinkStart = "Alright",
    json: Json = None,
) -> None:
    """Check how a model begins and ends its thinking, and whether AdaptThink can train it."""
    check_model(model)
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
    from adaptthink.cli.console import console, count_progress, show_tally
    from adaptthink.grading import Limits
    from adaptthink.grading.lines import grade_file

    with count_progress("graded") as advance:
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
    expect(folder, "report", *REPORTED)
    for another in more:
        expect(another, "report", PathKind.EVALUATION)
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
        Parameter(help="Sets that must not be contained in it, such as math500.", negative="", consume_multiple=True),
    ] = (),
    data: DataFolder = None,
    fields: FieldMapping = None,
    json: Json = None,
) -> None:
    """Count problems, repeats, what cannot be read, and leaks into other sets."""
    config = read_data_settings(problems, against, data=data, fields=fields)
    from adaptthink.cli.data import check_job

    write_result(json, check_job(config, against))


def data_show(
    problems: Annotated[str, Parameter(help="A set, reasoning_gym:FAMILY, a file, or several (a,b).")],
    /,
    *,
    model: Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny'; its chat template is used.")] = "tiny",
    count: Annotated[int, Parameter(help="How many, from the beginning.", validator=validators.Number(gte=1))] = 3,
    mode: Annotated[RequestedMode, Parameter(help="The mode that the prompt leads into; auto: none.")] = "auto",
    data: DataFolder = None,
    fields: FieldMapping = None,
    instruction: Annotated[
        str | None, Parameter(help="Text put after each prompt [default: the source's own].")
    ] = None,
    json: Json = None,
) -> None:
    """Print a few problems as the model sees them, with reference answer, kind and level."""
    config = read_data_settings(problems, model=model, data=data, fields=fields, instruction=instruction)
    from adaptthink.cli.data import show_job

    write_result(json, show_job(config, count, mode))


def read_data_settings(problems: str, against: tuple[str, ...] = (), **options: str | Path | None) -> PresampleConfig:
    """Resolve the settings of a data command; options that were not given leave the environment's."""
    flags = {"problems": problems} | {name: value for name, value in options.items() if value is not None}
    names = ((problems, Purpose.CHECK), *((name, Purpose.AGAINST) for name in against))

    def unread(_: Config) -> Iterator[Unread]:
        """Yield the settings that none of the names reads."""
        found = [{one.keys: one for one in unread_settings(*name)} for name in names]
        yield from (one for keys, one in found[0].items() if all(keys in others for others in found))

    config = resolve("presample", PresampleConfig, flags=flags, unread=unread)
    for name in names:
        check_problem_files(*name)
    return config


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a command's result to the path of --json, if there is one."""
    if path:
        from adaptthink.storage.runs import write_json

        write_json(path, result)
