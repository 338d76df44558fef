"""The library: one function for each thing a user does. Objects in, records out.

Everything public here can be taken from the package itself: `import adaptthink as at`. Nothing prints: what a job
reports goes to its callbacks (`Callback`) and to the `logging` module. Bad input raises `UserError`, whose text
explains what to do.

Settings that are not parameters of a function are given by keyword, under their names on the command line and in
recipes (`adaptthink train --help`): `at.train(..., learning_rate=1e-5, problems_per_step=16)`.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import socket
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePath
from statistics import fmean
from typing import Any, Literal, TypeVar

from adaptthink import __version__
from adaptthink.callbacks import Callback, Callbacks, make_counter
from adaptthink.chat.base import compute_cost
from adaptthink.config.chat import ChatConfig, Switch
from adaptthink.config.resolve import check
from adaptthink.config.schema import (
    HOW,
    STEP_KEYS,
    Config,
    EngineConfig,
    EvaluateConfig,
    EvaluationConfig,
    PolicyConfig,
    PresampleConfig,
    ProblemsConfig,
    ReferenceConfig,
    ServeConfig,
    SftConfig,
    TrainConfig,
)
from adaptthink.dial.curve import measure
from adaptthink.dial.decide import (
    ModeDecision,
    Score,
    ScoreBatch,
    adopt_setting,
    make_scorer,
    read_stored_dial,
    read_upstream_dial,
    split_batches,
)
from adaptthink.dial.decide import decide as decide_modes
from adaptthink.dial.scores import complete_scores, read_settings
from adaptthink.dial.second_look import measure_second_look
from adaptthink.dial.stored import (
    STORED,
    Dial,
    check_weights,
    choose_dial_path,
    install_dial,
    read_dial,
    require_threshold,
    write_dial,
)
from adaptthink.dial.stored import calibrate as choose_thresholds
from adaptthink.engines.base import Engine
from adaptthink.errors import UserError, hide_secret
from adaptthink.evaluation.chat import make_chat_responder, make_chat_setting, make_endpoint
from adaptthink.evaluation.compare import Comparison, check_alike, read_rows
from adaptthink.evaluation.compare import compare as compare_rows
from adaptthink.evaluation.mode_choice import DELTA, ModeChoice, assess_mode_choice
from adaptthink.evaluation.run import (
    Respond,
    compute_mode_logprobs,
    decide_missing,
    describe_starts,
    make_policy_responder,
    make_policy_setting,
    make_sample_counter,
    sample_missing,
)
from adaptthink.evaluation.scores import Evaluation, summarise
from adaptthink.evaluation.store import (
    REQUESTED_MODES,
    Outcome,
    Sample,
    Setting,
    grade_folder,
    lock_folder,
    make_decision_keeper,
    read_decisions,
    read_evaluation_date,
    read_outcomes,
    read_samples,
    read_setting,
    read_throughput,
    write_timing,
)
from adaptthink.evaluation.summaries import EvaluationSummary
from adaptthink.evaluation.teacher import collect_traces
from adaptthink.grading import (
    AnswerKind,
    Grade,
    Limits,
    Submission,
    Verdict,
    check_failed_grades,
    drop_thinking,
    grade_all,
)
from adaptthink.models.card import write_card, write_start_card
from adaptthink.models.checks import examine
from adaptthink.models.context import check_context, find_context_tokens
from adaptthink.models.embedded import EMBEDDED
from adaptthink.models.loading import (
    Policy,
    find_model,
    freeze_date,
    load_configured,
    load_start,
    load_tokenization,
    load_trainee,
    prepare_trainee,
    set_date,
)
from adaptthink.models.think_tokens import Additions
from adaptthink.modes import Check, Convention, Mode, describe, encode_prompt
from adaptthink.planning.roofline import Machine
from adaptthink.problems import Problem
from adaptthink.problems.files import make_problems, parse_fields
from adaptthink.problems.prompts import make_prompts, read_prompts
from adaptthink.problems.sources import (
    Chosen,
    Reading,
    choose_evaluation_problems,
    choose_start_problems,
    choose_training_problems,
    make_reading,
)
from adaptthink.problems.traces import Trace, make_trace_of, read_traces, solve_problems, write_traces
from adaptthink.processes import keep_memory_together
from adaptthink.sampling.advice import advise, advise_by_mode, write_shares
from adaptthink.sampling.engine import PROBE_QUESTION, make_engine
from adaptthink.sampling.grader import Grader, RewardFunction, RewardGrader, make_grader
from adaptthink.sampling.sampler import Sampler
from adaptthink.sampling.thoughts import check_thoughts
from adaptthink.serving.server import listen, serve_forever
from adaptthink.serving.upstream import Upstream
from adaptthink.serving.worker import Worker
from adaptthink.storage.kinds import find_run_model
from adaptthink.storage.locks import locked
from adaptthink.storage.records import to_json
from adaptthink.storage.runs import (
    check_run,
    check_store_outside,
    open_run,
    read_metrics,
    read_recorded,
    replace_folder,
    undo_failed_start,
    write_json,
)
from adaptthink.timing import Phase
from adaptthink.timing import profile as profile_phases
from adaptthink.training.data import (
    Problems,
    TrainingProblems,
    compute_problems_digest,
    find_problems,
    prepare_problems,
    settle_reference,
)
from adaptthink.training.describe import measure_roofline
from adaptthink.training.methods import check_method, load_method
from adaptthink.training.reference import (
    References,
    check_grades,
    count_samples,
    find_training_date,
    read_store_date,
    require_store,
)
from adaptthink.training.reference import presample as complete_reference
from adaptthink.training.rehearsal import rehearse
from adaptthink.training.replay import check_store
from adaptthink.training.sft import describe_held_out, fit, prepare_lessons
from adaptthink.training.train import Reporting, TrainingData
from adaptthink.training.train import train as run_training

RequestedMode = Literal["auto", "think", "no_think"]
Traces = str | Path | Iterable[Trace | Mapping[str, Any]]
Prompts = str | Path | Iterable[str | Mapping[str, Any] | Problem]
C = TypeVar("C", bound=Config)


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a training went, and what the machine was measured to do."""

    machine: Machine
    phases: list[Phase]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training: the trained model, and the folder with its metrics, checkpoints and model files.

    `train` returns one.

    >>> import adaptthink as at
    >>> at.Run(at.load("tiny"), Path("runs/mine"), seconds=12.0).folder.name
    'mine'
    """

    model: Policy
    folder: Path
    seconds: float
    profile: Profile | None = None  # where it was requested

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One mapping for each step, as in `metrics.jsonl`."""
        return read_metrics(self.folder / "metrics.jsonl")


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An evaluation: its folder with every sample, the scores in each requested mode, and how well it chooses.

    >>> import adaptthink as at
    >>> problems = [{"prompt": "2+2=?", "answer": "4"}, {"prompt": "3+5=?", "answer": "8"}]
    >>> sorted(at.evaluate("tiny", problems, output="mine", max_think_tokens=64, max_no_think_tokens=16).modes)
    ['auto', 'no_think', 'think']
    """

    folder: Path
    modes: dict[str, Evaluation]
    mode_choice: ModeChoice
    advice: tuple[str, ...] = ()  # a line for each verdict that dominates, such as truncated: why, and what to do


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `doctor` found, and the probabilities of both decision tokens on a small question, if it came so far."""

    checks: list[Check]
    no_think_probability: float | None
    think_start_probability: float | None

    @property
    def ok(self) -> bool:
        """Whether the model can be trained."""
        return all(check.ok for check in self.checks)


def load(
    model: str | Path = "tiny", *, think_start: str = "Alright", device: str = "auto", dtype: str = "auto"
) -> Policy:
    """Load a model with its tokenizer, and verify how it opens and closes its thinking.

    `model` is a folder in Hugging Face format, a hub id, or "tiny" or "tiny_long", the embedded reasoners. Raises
    UserError for what cannot be loaded, and for a model whose chat template leaves no mode to choose
    (docs/explanation/modes.md).

    >>> import adaptthink as at
    >>> model = at.load("tiny")
    >>> model.template.close
    '</think>'
    """
    return load_configured(
        check(EngineConfig, {"model": str(model), "think_start": think_start, "device": device, "dtype": dtype})
    )


def load_problems(
    source: Problems,
    *,
    split: Literal["train", "evaluation"] = "evaluation",
    per_level: int = 100,
    seed: int = 0,
    data: str | Path | None = None,
    fields: str | None = None,
    instruction: str | None = None,
    max_problems: int | None = None,
) -> Sequence[Problem]:
    """Return problems: of a named set (`gsm8k`), a file, procedural ones (`arithmetic`), or from dicts.

    A dict has `prompt` and `answer`, and may have `level`, `kind` and `choices`; `fields` maps other names. `per_level`
    counts procedural problems. Problems whose reference answer cannot be parsed are left out. Raises UserError for a
    source that is not there or a row that cannot be used.

    >>> import adaptthink as at
    >>> [problem.answer for problem in at.load_problems([{"prompt": "1+1=?", "answer": 2}])]
    ['2']
    >>> len(at.load_problems("arithmetic", per_level=3))
    15
    """
    mapping = parse_fields(fields or "")
    if not isinstance(source, str | Path):
        return make_problems(source, mapping)
    reading = Reading(None if data is None else Path(data), mapping, instruction, max_problems)
    if split == "evaluation":
        return choose_evaluation_problems(str(source), per_level=per_level, seed=seed, reading=reading).problems
    chosen = choose_training_problems(
        str(source), per_level=per_level, held_out_per_level=1, seed=seed, reading=reading
    )
    return chosen.problems


def make_traces(
    problems: Problems,
    *,
    output: str | Path,
    teacher: Policy | str | Path | None = None,
    reward: RewardFunction | None = None,
    engine: Engine | None = None,
    callbacks: Iterable[Callback] = (),
    config: EvaluateConfig | ChatConfig | None = None,
    **settings: Any,
) -> list[Trace]:
    r"""Write the traces of a cold start (`sft`) to the file `output`, a JSON line each, and return them.

    Without a teacher they are the solutions that problems of `arithmetic` and `words` have, of a split that no training
    uses. A `teacher` solves any problems, with the settings of `evaluate`, `chat="https://host/v1"` among them; kept is
    what is graded correct and thinks. Its responses stay in a folder beside the file, so that nothing is sampled twice.
    Raises UserError for problems without solutions, and where no response is kept.

    >>> import adaptthink as at
    >>> traces = at.make_traces("arithmetic", output="traces.jsonl", problems_per_level=2)
    >>> len(traces), traces[0].answer[:7]
    (10, '\\boxed{')
    """
    resolved: EvaluateConfig | ChatConfig
    if isinstance(config, ChatConfig) or "chat" in settings:
        chat = config if isinstance(config, ChatConfig) else None
        resolved = _note(_configure(ChatConfig, chat, teacher or "", settings), reward)
    else:
        plain = config if isinstance(config, EvaluateConfig) else None
        resolved = _note(_configure(EvaluateConfig, plain, teacher or "tiny", settings), reward)
    path, report = Path(output), Callbacks(callbacks)
    with (
        locked(path, f"file of traces '{path}'"),
        report.reporting("traces", resolved.model_dump(mode="json"), path) as result,
    ):
        if teacher is None:
            made = solve(problems, resolved)
        else:
            made = learn_from(teacher, problems, path.with_suffix(".samples"), resolved, report, engine, reward)
        result |= {"output": str(path), "traces": write_traces(path, made)}
        report.on_message(f"{len(made):,} traces in {path}")
    return made


def sft(
    model: Policy | str | Path,
    traces: Traces,
    *,
    output: str | Path,
    callbacks: Iterable[Callback] = (),
    resume: bool = False,
    clean: bool = False,
    config: SftConfig | None = None,
    **settings: Any,
) -> Run:
    """Give a model its cold start: supervised training on traces, with their thoughts and answered at once.

    `traces` are a file (`read_traces`), or mappings with `prompt`, `thinking` and `answer`, or with `messages`. A model
    that lacks think tokens or a template for them gets both; one that was loaded is trained in place. The result thinks
    when left free, and can answer at once when forced, as `presample` and `train` need it. `output`, `resume` and
    `clean` are those of `train`. Raises UserError for settings and traces that cannot work, and if the loss is not
    finite.

    >>> import adaptthink as at
    >>> traces = at.make_traces("arithmetic", output="traces.jsonl", problems_per_level=4)
    >>> run = at.sft("tiny", traces, output="runs/sft", steps=1, traces_per_step=2)
    >>> run.metrics[0]["held_out_think_start_probability"] > 0.5
    True
    """
    config = _configure(SftConfig, config, model, settings)
    run, report, started = Path(output), Callbacks(callbacks), time.monotonic()
    with locked(run, f"run folder '{run}'"):
        found = collect(traces)
        policy, added = load_start(config) if not isinstance(model, Policy) else (model, Additions())
        policy, config = freeze_date(policy, config, read_recorded(run, "prompt_date", resume=resume))
        lessons = prepare_lessons(policy, found, config)
        open_start(run, config, policy, found, resume=resume, clean=clean)
        with (
            undo_failed_start(run, run / "reference.jsonl"),
            report.reporting("sft", config.model_dump(mode="json"), run) as result,
        ):
            report_notes([*lessons.notes, f"think tokens and template: {added.describe()}"], report)
            policy = prepare_trainee(policy, config, new_tokens=added.token_ids)
            fit(
                policy,
                lessons,
                config,
                run,
                Reporting(report.on_step, report.on_message, on_progress=report.on_progress),
            )
            save_start(policy, added, config, run)
            report.on_message(f"model saved in {run / 'model'}")
            result |= {"model": str(run / "model"), "steps": config.steps, "seconds": time.monotonic() - started}
    return Run(policy, run, time.monotonic() - started)


def presample(
    model: Policy | str | Path,
    problems: Problems,
    *,
    samples: int | None = None,
    output: str | Path | None = None,
    reward: RewardFunction | None = None,
    engine: Engine | None = None,
    callbacks: Iterable[Callback] = (),
    config: PresampleConfig | None = None,
    **settings: Any,
) -> References:
    """Sample each problem `samples` times from the model before training and grade them: R̄_ref of the paper.

    Of a named set or a file, and of a list if `steps`, `problems_per_step` or `probe_problems_per_level` is given, only
    the problems are sampled that a training with these settings uses; `all_problems=True` samples all. What the store
    `output` already holds is not sampled again; without it the store is a temporary file. `reward` replaces the
    comparison with the reference answer (see `RewardGrader`). Raises UserError for a store that was made with other
    settings.

    >>> import adaptthink as at
    >>> reference = at.presample("tiny", [{"prompt": "2+3=?", "answer": "5"}], samples=2, max_think_tokens=64)
    >>> [row.reward for row in reference.values()]
    [1.0]
    """
    config = _note(_configure(PresampleConfig, config, model, settings | _given(reference_samples=samples)), reward)
    report = Callbacks(callbacks)
    chosen = choose_presampled(problems, config, report, reward)
    policy = _load(model, config)
    store = Path(output) if output else _temporary("reference") / "reference.jsonl"
    return presample_chosen(policy, chosen, config, store, report, engine=engine, reward=reward)


def train(
    model: Policy | str | Path,
    problems: Problems,
    reference: References | str | Path | None = None,
    *,
    output: str | Path,
    held_out: Sequence[Problem] | None = None,
    reward: RewardFunction | None = None,
    engine: Engine | None = None,
    callbacks: Iterable[Callback] = (),
    resume: bool = False,
    clean: bool = False,
    profile: bool = False,
    config: TrainConfig | None = None,
    **settings: Any,
) -> Run:
    """Train a model to choose when to think; a model that was loaded is trained in place.

    `reference` comes from `presample`, or is the store that it wrote, and is completed with what the steps use and it
    lacks; without it the run folder gets one. `held_out`
    problems are evaluated while the training runs; without them a tenth of `problems` at most is held out. `output` is
    the run folder: `resume` goes on with an interrupted run, `clean` deletes an earlier one. With `profile` the folder
    gets a `profile.json`. Raises UserError for settings that cannot work, and if the loss is not finite.

    >>> import adaptthink as at
    >>> problems = at.load_problems("arithmetic", split="train", per_level=4)
    >>> run = at.train("tiny", problems, output="runs/example", steps=1, problems_per_step=2,
    ...     samples_per_problem=2, reference_samples=1, max_think_tokens=64, max_no_think_tokens=16)
    >>> run.metrics[0]["step"]
    1
    """
    config = _note(_configure(TrainConfig, config, model, settings), reward)
    check_method(config)
    run, report = Path(output), Callbacks(callbacks)
    store = reference.path if isinstance(reference, References) else reference
    store = require_store(Path(store)) if store else None
    check_store(config, store)
    with locked(run, f"run folder '{run}'"):
        check_store_outside(store, run, clean=clean)
        chosen = prepare_problems(problems, held_out, config, needs_answer=not (reward or config.reward))
        report_notes(chosen.notes, report)
        if isinstance(model, Policy):
            policy = prepare_trainee(model, config)
        else:
            policy = load_trainee(config, generation_first=engine is None)
        policy, config = freeze_date(policy, config, find_training_date(run, store, resume=resume))
        beyond = check_prompts(policy, chain(chosen.problems, chosen.held_out), config)
        open_training(run, config, policy, chosen, resume=resume, clean=clean)
        report_notes(beyond, report)
        own_store = run / "reference.jsonl"
        with (
            undo_failed_start(run, own_store),
            report.reporting("train", config.model_dump(mode="json"), run) as result,
        ):
            sampler = make_sampler(policy, config, engine=engine, reward=reward, on_message=report.on_message)
            sample = partial(sample_reference, policy, sampler, config=config, store=store or own_store, report=report)
            used, known = settle_reference(chosen.problems, config, sample)
            done = train_and_save(
                policy,
                sampler,
                TrainingData(used, known, chosen.held_out),
                config,
                run,
                report,
                profile=profile,
            )
            result |= {"model": str(run / "model"), "steps": config.steps, "seconds": done.seconds}
    return done


def evaluate(
    model: Policy | str | Path,
    problems: Problems,
    *,
    modes: Sequence[RequestedMode] = ("auto", "think", "no_think"),
    output: str | Path | None = None,
    difficulty: str | Path | None = None,
    delta: float = DELTA,
    reward: RewardFunction | None = None,
    engine: Engine | None = None,
    callbacks: Iterable[Callback] = (),
    config: EvaluateConfig | ChatConfig | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Evaluate a model as it chooses (auto) and in both forced modes.

    With the setting `chat="https://host/v1"` it is the model of that name behind a chat API (docs/how-to/chat.md).

    Every sample is kept in the folder `output`, or in a temporary one; what it already holds is not sampled again.
    `difficulty` is another evaluation's folder, whose pass rates are the problems' difficulty; `delta` is the accuracy
    that no_think may cost, for the quality of the mode choice. Raises UserError for a folder made with other settings.

    >>> import adaptthink as at
    >>> problems = at.load_problems("arithmetic", per_level=2)
    >>> result = at.evaluate("tiny", problems, modes=["no_think"], max_no_think_tokens=16)
    >>> 0 <= result.modes["no_think"].overall.accuracy <= 1
    True
    """
    resolved: EvaluateConfig | ChatConfig
    if isinstance(config, ChatConfig) or "chat" in settings:
        chat = config if isinstance(config, ChatConfig) else None
        resolved = _note(_configure(ChatConfig, chat, model, settings), reward)
    else:
        resolved = _note(_configure(EvaluateConfig, config, model, settings), reward)
    if difficulty:
        read_setting(Path(difficulty))  # refuse what is no evaluation before the work, not after it
    chosen = read_problems(problems, resolved, reward)
    folder, report = Path(output) if output else _temporary("evaluation"), Callbacks(callbacks)
    with report.reporting("evaluate", resolved.model_dump(mode="json"), folder) as result:
        convention = None
        if isinstance(resolved, ChatConfig):
            evaluations = evaluate_chat(chosen, modes, resolved, folder, choose_grader(resolved, reward), report)
        else:
            policy = _load(model, resolved)
            policy, resolved = freeze_date(policy, resolved, read_evaluation_date(folder))
            sampler = make_sampler(policy, resolved, engine=engine, reward=reward, on_message=report.on_message)
            evaluations = evaluate_policy(policy, sampler, chosen, modes, resolved, folder, report)
            convention = policy.template.convention
        choice = assess_choice(folder, convention, None if difficulty is None else Path(difficulty), delta)
        summary = make_evaluation_summary(resolved, evaluations)
        result.update(summary)
    return EvaluationResult(folder, evaluations, choice, tuple(summary["advice"]))


def calibrate(
    model: Policy | str | Path,
    problems: Problems,
    *,
    tolerance: float = 1.0,
    token_budget: float | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    reward: RewardFunction | None = None,
    engine: Engine | None = None,
    callbacks: Iterable[Callback] = (),
    config: EvaluateConfig | None = None,
    **settings: Any,
) -> Dial:
    """Choose the threshold on P(no_think) from which the model answers without thinking, with a guarantee.

    The choice loses at most `tolerance` points of accuracy against always thinking, or with a `token_budget` keeps the
    mean response below so many tokens, with 95% confidence (docs/how-to/dial.md). A certified dial is stored beside the
    weights where the model is a folder, else in `output`; with `overwrite` also over one that was certified on more
    problems. If nothing can be certified, `dial.threshold.certified` is False, nothing is stored there, and the mode
    stays the model's own choice. Raises UserError for fewer than four problems.

    >>> import adaptthink as at
    >>> problems = at.load_problems("arithmetic", per_level=2)
    >>> dial = at.calibrate("tiny", problems, max_think_tokens=64, max_no_think_tokens=16)
    >>> dial.num_problems
    10
    """
    config = _note(_configure(EvaluateConfig, config, model, settings), reward)
    limit = max(config.max_think_tokens, config.max_no_think_tokens)
    if token_budget is not None and token_budget >= limit:
        raise UserError(
            f"token_budget = {token_budget:g} is no limit: a response has at most {limit} tokens (max_think_tokens); "
            "give less"
        )
    policy = _load(model, config)
    chosen = read_problems(problems, config, reward)
    folder, report = Path(output) if output else _temporary("calibration"), Callbacks(callbacks)
    policy, config = freeze_date(policy, config, read_evaluation_date(folder))
    with report.reporting("calibrate", config.model_dump(mode="json"), folder) as result:
        sampler = make_sampler(policy, config, engine=engine, reward=reward, on_message=report.on_message)
        found = evaluate_policy(policy, sampler, chosen, [Mode.THINK, Mode.NO_THINK], config, folder, report)
        report_notes(advise_on_modes(config, found), report)
        outcomes = select_requested(folder, chosen, config)
        measured = measure(outcomes, read_decisions(folder))
        dial = choose_thresholds(
            measured,
            read_setting(folder),
            config.problems,
            tolerance=tolerance / 100,
            token_budget=token_budget,
            second_look=measure_second_look(folder, measured, outcomes),
        )
        write_dial(folder / "dial.json", dial)
        report.on_message(install_dial(choose_dial_path(policy.name, folder), dial, overwrite=overwrite))
        report.on_message(f"every choice and the whole curve are in {folder / 'dial.json'}")
        result |= {"dial": str(folder / "dial.json"), "certified": dial.threshold.certified}
    return dial


def decide(
    model: Policy | str | Path,
    prompts: Sequence[str],
    *,
    threshold: float | None = None,
    dial: Dial | str | Path | None = None,
    think_start: str = "Alright",
) -> list[ModeDecision]:
    """Return the mode of each prompt: no_think where P(no_think) reaches the threshold; one prefill each.

    The threshold is given, or that of a `dial`, or that of the `adaptthink.json` in the model's folder. Where the chat
    template writes the day, it is that of the dial's calibration. Raises UserError where there is no threshold, or
    where the dial was calibrated for other weights.

    >>> import adaptthink as at
    >>> [decision.mode for decision in at.decide("tiny", ["2+3=?"], threshold=0.5)]
    [<Mode.THINK: 'think'>]
    """
    policy = _load(model, check(EngineConfig, {"model": str(model), "think_start": think_start}))
    chosen, date = choose_threshold(policy, threshold, dial)
    return decide_modes(set_date(policy, date), prompts, chosen)


def score(
    model: Policy | str | Path,
    prompts: Prompts,
    *,
    output: str | Path | None = None,
    threshold: float | None = None,
    dial: Dial | str | Path | None = None,
    think_start: str = "Alright",
    data: str | Path | None = None,
    fields: str | None = None,
    instruction: str | None = None,
    callbacks: Iterable[Callback] = (),
) -> Iterator[Score]:
    """Yield how difficult the model finds each prompt: P(no_think), P(think start) and z, from one prefill.

    `prompts` are texts, problems or dicts, however many, or the name of a set or a file as in `evaluate`; `data`,
    `fields` and `instruction` are those of `load_problems`. With a threshold, of its own or of a dial as in `decide`,
    each score has the mode too. What the JSONL file `output` holds already is not computed again. Memory does not grow
    with the number of prompts. Raises UserError for a file of scores that was made with other settings, and for a
    prompt that cannot be used, named by its number.

    >>> import adaptthink as at
    >>> [score.z < 0 for score in at.score("tiny", ["2+3=?", "12+88-31=?"])]
    [True, True]
    """
    policy = _load(model, check(EngineConfig, {"model": str(model), "think_start": think_start}))
    found = find_threshold(policy, threshold, dial)
    chosen, date = found or (None, None)
    path = None if output is None else Path(output)
    policy = set_date(policy, date or (read_settings(path).get("prompt_date") if path else None))
    reading = Reading(None if data is None else Path(data), parse_fields(fields or ""), instruction)
    problems = (
        read_prompts(str(prompts), reading)
        if isinstance(prompts, str | Path)
        else make_prompts(prompts, reading.fields)
    )
    settings = {
        "model": policy.name,
        "fingerprint": policy.fingerprint,
        "threshold": chosen,
        "think_starts": describe_starts(policy.tokenizer, policy.template),
        "prompt_date": policy.template.date,
    }
    return _report_scores(problems, make_scorer(policy, chosen), settings, path, Callbacks(callbacks))


def _report_scores(
    problems: Iterable[Problem], score_batch: ScoreBatch, settings: dict[str, Any], path: Path | None, report: Callbacks
) -> Iterator[Score]:
    """Yield scores, and report how many there are."""
    advance = make_counter(report.on_progress, "prompts scored", None)
    with report.reporting("score", settings, path) as result:
        count = 0
        if path:
            scores = complete_scores(path, settings, problems, score_batch)
        else:
            scores = (one for first, batch in split_batches(problems) for one in score_batch(first, batch))
        for one in scores:
            count += 1
            advance(1)
            yield one
        result["prompts"] = count


def compare(evaluations: Sequence[EvaluationResult | str | Path], *, force: bool = False) -> Comparison:
    """Compare evaluations with the first of them: accuracy, length, no_think share, distinguishable differences.

    Each is a result of `evaluate`, or a folder; `FOLDER:think` and `FOLDER:no_think` name forced modes. Raises
    UserError where they were made differently, unless `force`d.

    >>> import adaptthink as at
    >>> problems, short = at.load_problems("arithmetic", per_level=2), {"max_no_think_tokens": 16}
    >>> once = at.evaluate("tiny", problems, modes=["auto", "no_think"], max_think_tokens=64, **short)
    >>> [row.name for row in at.compare([once, f"{once.folder}:no_think"]).rows][0] == once.folder.name
    True
    """
    names = [str(one.folder if isinstance(one, EvaluationResult) else one) for one in evaluations]
    rows = read_rows(names)
    if not force:
        check_alike(rows)
    return compare_rows(rows)


def grade(
    response: str,
    reference_answer: str,
    *,
    kind: AnswerKind | Literal["math", "choice", "reasoning_gym"] = AnswerKind.MATH,
    boxed_only: bool = False,
    seconds: float = 2.0,
) -> Grade:
    r"""Grade the text of a response: what follows `</think>`, or all of it, is compared with the reference answer.

    `seconds` of processor time stop the symbolic comparison. Text that cannot be parsed gets a verdict, not an error.

    >>> import adaptthink as at
    >>> at.grade(r"so it is \boxed{\frac{1}{2}}", "0.5").verdict
    <Verdict.CORRECT: 'correct'>
    """
    submission = Submission(drop_thinking(response), reference_answer, AnswerKind(kind), boxed_only, finished=True)
    return grade_all([submission], limits=Limits(seconds))[0]


def serve(
    model: Policy | str | Path,
    *,
    engine: Engine | None = None,
    callbacks: Iterable[Callback] = (),
    config: ServeConfig | None = None,
    **settings: Any,
) -> None:
    """Serve a model over HTTP in the style of OpenAI's API, until interrupted (docs/how-to/serving.md).

    `model` may be a run's folder. Settings are those of `adaptthink serve`: host, port, threshold, temperature. Raises
    UserError for a port that is taken.

    >>> import adaptthink as at
    >>> at.serve("tiny", port=8000, threshold=0.5)  # doctest: +SKIP
    """
    config = _configure(ServeConfig, config, model, settings)
    for key in config.api_key:
        hide_secret(key)
    report = Callbacks(callbacks)
    if not isinstance(model, Policy):
        path, run = find_run_model(config.model)
        config = config.model_copy(update={"model": path} | ({"name": config.name or run} if run else {}))
    keep_memory_together()
    # oneDNN keeps 1.3 MB for each number of rows that it meets, and a server meets all; by default it keeps 1,024.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if config.threads:
        import torch  # noqa: PLC0415  (slow to import)

        torch.set_num_threads(config.threads)
    if config.upstream and engine:
        raise UserError("engine and upstream both generate; give one of them")
    with listen(config.host, config.port) as listening:
        if config.upstream:
            _serve_upstream(config.upstream, config, listening, report)
            return
        policy, config = freeze_date(_load(model, config), config)
        threshold, dial = config.threshold, None if config.threshold is not None else read_stored_dial(policy)
        if dial:
            threshold = dial.threshold.no_think_probability
            config, message = adopt_setting(config, dial)
            report.on_message(message)
        chosen = engine or make_engine(policy, config, on_message=report.on_message)
        worker = Worker(chosen, seed=config.seed)
        serve_forever(policy, worker, threshold, dial, config, listening, report.on_message)


def _serve_upstream(url: str, config: ServeConfig, listening: socket.socket, report: Callbacks) -> None:
    """Serve a model that a running server has."""
    text, config = freeze_date(load_tokenization(config), config)
    name = config.name or PurePath(text.name).name
    upstream = Upstream(url, text, name, key=config.upstream_key, on_message=report.on_message)
    upstream.meet()
    scores = upstream.can is None or upstream.can.speaker.scores
    threshold, dial = config.threshold, None if config.threshold is not None else read_upstream_dial(text)
    if config.online_state and not scores:
        raise UserError(
            f"an online dial needs log-probabilities, and the server at {url} returns none; leave out --online-state, "
            "or take a server that does"
        )
    if threshold is not None and not scores:
        raise UserError(
            f"threshold = {threshold:g} needs log-probabilities, and the server at {url} returns none; leave it out, "
            "or take a server that does"
        )
    if dial and not scores:
        report.on_message("the model's dial is not used, as it needs log-probabilities")
        dial = None
    if dial:
        threshold = dial.threshold.no_think_probability
        config, message = adopt_setting(config, dial)
        report.on_message(f"{message}\nthat the upstream has the dial's weights cannot be checked from here")
    serve_forever(text, upstream, threshold, dial, config, listening, report.on_message)


def doctor(model: Policy | str | Path, *, think_start: str = "Alright") -> Diagnosis:
    """Check whether a model is what it seems, how it opens and closes its thinking, and what it would choose.

    A model that does not think yet is not ok either: it needs a cold start (`sft`).

    The checks end with the first one that makes a model unusable; it is not ok. Raises UserError for a model that is
    not there.

    >>> import adaptthink as at
    >>> at.doctor("tiny").ok
    True
    """
    checks: list[Check] = []
    if not isinstance(model, Policy):
        find_model(str(model))  # raises for a model that is not there
    try:
        if isinstance(model, Policy):
            policy = model
            checks += describe(policy.tokenizer, policy.template)
            checks += examine(policy.name, policy.model, policy.tokenizer, policy.template, policy.eos_ids)
        else:
            config = check(EngineConfig, {"model": str(model), "think_start": think_start})
            policy = load_configured(config, on_check=checks.append)
        engine = make_engine(policy, check(EngineConfig, {"model": policy.name, "max_concurrent_sequences": 4}))
        no_think, think = probe_decision(policy, engine)
        thoughts = check_thoughts(engine, policy.tokenizer, policy.template)
    except UserError as error:
        return Diagnosis([*checks, Check("model", str(error), ok=False)], None, None)
    found = f"{no_think:.2e} for no_think, {think:.2e} for the think start, on {PROBE_QUESTION!r}"
    return Diagnosis([*checks, Check("first token", found, ok=True), thoughts], no_think, think)


def probe_decision(policy: Policy, engine: Engine) -> tuple[float, float]:
    """Return P(no_think) and P(think start) on a small question."""
    prompt = encode_prompt(policy.tokenizer, policy.template, PROBE_QUESTION)
    [(no_think, think)] = compute_mode_logprobs(engine, policy.template, [prompt])
    return math.exp(no_think), math.exp(think)


# ---- what the functions above share, and the command line with them --------------------------------------------------


def choose_threshold(
    model: Policy | str, threshold: float | None = None, dial: Dial | str | Path | None = None
) -> tuple[float, str | None]:
    """Return a threshold as it is given, or of a dial, or of the dial in the model's folder, and the dial's day.

    The day is that in the prompts of the calibration, None if a threshold is given or the template writes none.
    Raises UserError where there is none or none was certified, for one that is no probability, and, of a model that is
    loaded, for a dial that was calibrated for other weights.
    """
    if threshold is not None and dial is not None:
        raise UserError("--threshold and --dial both give the threshold; give one of the two")
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold = {threshold:g} is no probability; give a number from 0 to 1")
        return threshold, None
    name = model.name if isinstance(model, Policy) else model
    if dial is None and (name in EMBEDDED or not Path(name).is_dir()):
        find_model(name)  # says so where there is no such folder
        raise UserError(
            f"'{name}' is no model folder with a dial in it; give --threshold, or --dial with the {STORED} that "
            "adaptthink calibrate wrote"
        )
    path = Path(name) / STORED if dial is None or isinstance(dial, Dial) else Path(dial)
    found = dial if isinstance(dial, Dial) else read_dial(path)
    if isinstance(model, Policy):
        check_weights(found, model.fingerprint, path)
    return require_threshold(found, path), found.setting.prompt_date


def find_threshold(
    policy: Policy, threshold: float | None = None, dial: Dial | str | Path | None = None
) -> tuple[float, str | None] | None:
    """Do what `choose_threshold` does; None where neither is given and the model's folder has no certified dial."""
    if threshold is None and dial is None:
        path = Path(policy.name) / STORED
        if policy.name in EMBEDDED or not path.exists():
            return None
        dial = read_dial(path)
        if not dial.threshold.certified:
            return None
    return choose_threshold(policy, threshold, dial)


def read_problems(
    problems: Problems, config: EvaluationConfig, reward: RewardFunction | None = None
) -> Sequence[Problem]:
    """Return problems to evaluate on, as they are or made of dicts; a name is read as configured."""
    if not isinstance(problems, str | Path):
        return make_problems(problems, needs_answer=not (reward or config.reward))
    return read_evaluation_problems(config.model_copy(update={"problems": str(problems)})).problems


def read_evaluation_problems(config: EvaluationConfig) -> Chosen:
    """Return the problems that a config names, to evaluate on."""
    return choose_evaluation_problems(
        config.problems,
        per_level=config.problems_per_level,
        seed=config.seed,
        kind=config.kind,
        reading=make_reading(config),
    )


def make_sampler(
    policy: Policy,
    config: PolicyConfig,
    *,
    engine: Engine | None = None,
    reward: RewardFunction | None = None,
    on_message: Callable[[str], None] = lambda message: None,
) -> Sampler:
    """Return a sampler of a policy, with the config's engine and grader, or the user's own."""
    grader = choose_grader(config, reward)
    return Sampler(
        engine or make_engine(policy, config, on_message=on_message), policy.tokenizer, policy.template, grader
    )


def check_prompts(
    policy: Policy, problems: Iterable[Problem], config: EngineConfig, modes: Iterable[str | None] = (None,)
) -> list[str]:
    """Raise UserError where prompts and responses in these modes would not fit into the model's context.

    Returns a line to report where only a default limit is too large.
    """
    keys = ["max_no_think_tokens"] if set(modes) == {Mode.NO_THINK} else ["max_think_tokens", "max_no_think_tokens"]
    line = check_context(
        find_context_tokens(policy.model.config),
        policy.tokenizer,
        policy.template,
        problems,
        {key: getattr(config, key) for key in keys},
        given=config.model_fields_set,
    )
    return [line] if line else []


def collect(traces: Traces) -> list[Trace]:
    """Return traces: of a file, or as they are, or of mappings; raises UserError for one that cannot be used."""
    if isinstance(traces, str | Path):
        return read_traces(Path(traces))
    return [one if isinstance(one, Trace) else make_trace_of(one, number) for number, one in enumerate(traces, 1)]


def open_start(
    run: Path, config: SftConfig, policy: Policy, traces: Sequence[Trace], *, resume: bool, clean: bool
) -> None:
    """Make the run folder of a cold start or re-enter it, as `open_training` does."""
    digest = hashlib.sha256(repr([(one.messages, one.thinking, one.answer) for one in traces]).encode()).hexdigest()
    open_run(
        run,
        config.model_dump(mode="json"),
        ignoring=HOW,
        defaults=type(config)().model_dump(mode="json"),
        made_from={"the weights of the base model": policy.fingerprint, "the traces": digest[:16]},
        resume=resume,
        clean=clean,
    )


def save_start(policy: Policy, added: Additions, config: SftConfig, run: Path) -> None:
    """Leave a model after its cold start in `run`/model with its card, and what it was given in `think_tokens.json`.

    An adapter is kept by itself only where nothing was added: it goes with a model that has its tokens.
    """
    last = read_metrics(run / "metrics.jsonl")[-1]
    card = partial(
        write_start_card,
        config=config,
        backend=f"native, adaptthink {__version__}",
        added=added.describe(),
        result=describe_held_out(last),
    )
    check_run(run)
    with replace_folder(run / "model") as folder:
        policy.save(folder)
        card(folder)
    if policy.adapter and not added.tokens:
        with replace_folder(run / "adapter") as folder:
            policy.adapter.save_pretrained(str(folder))
            card(folder)
    write_json(run / "think_tokens.json", asdict(added))


def solve(problems: Problems, config: EvaluationConfig) -> list[Trace]:
    """Return the solutions that the problems of a name have, as traces; raises UserError where they have none."""
    if not isinstance(problems, str | Path):
        raise UserError("a list of problems has no solutions; give a teacher that solves them")
    size = config.problems_per_level
    return list(solve_problems(str(problems), per_level=size, seed=config.seed, reading=make_reading(config)))


def learn_from(
    teacher: Policy | str | Path,
    problems: Problems,
    folder: Path,
    config: EvaluateConfig | ChatConfig,
    report: Callback,
    engine: Engine | None,
    reward: RewardFunction | None,
) -> list[Trace]:
    """Complete a teacher's responses in `folder`, and return the correct thoughts among them as traces."""
    chosen = read_start_problems(problems, config, report, reward)
    if isinstance(config, ChatConfig):
        requested = "auto" if config.switch is Switch.NONE else "think"  # without a switch no mode can be requested
        evaluate_chat(chosen, [requested], config, folder, choose_grader(config, reward), report)
    else:
        policy, requested = _load(teacher, config), "think"
        policy, config = freeze_date(policy, config, read_evaluation_date(folder))
        sampler = make_sampler(policy, config, engine=engine, reward=reward, on_message=report.on_message)
        evaluate_policy(policy, sampler, chosen, [requested], config, folder, report)
    taught = collect_traces(folder, chosen, requested, config.samples_per_problem)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(taught.left_out.items()))
    report.on_message(f"responses in {folder}; left out: {reasons or 'none'}")
    if not taught.traces:
        raise UserError(f"no response of the teacher is a trace ({reasons}); see its responses in {folder}")
    return list(taught.traces)


def read_start_problems(
    problems: Problems, config: EvaluationConfig, report: Callback, reward: RewardFunction | None
) -> Sequence[Problem]:
    """Return the problems that a teacher solves for a cold start."""
    if not isinstance(problems, str | Path):
        return make_problems(problems, needs_answer=not (reward or config.reward))
    found = choose_start_problems(
        str(problems), per_level=config.problems_per_level, seed=config.seed, reading=make_reading(config)
    )
    report_notes(found.notes, report)
    return found.problems


def report_notes(notes: Iterable[str], report: Callback) -> None:
    """Report, line by line, what a user should know of problems, limits or verdicts."""
    for note in notes:
        report.on_message(note)


def report_unknown(verdicts: Counter[Verdict], report: Callback) -> None:
    """Report how many responses could not be graded, if any."""
    if unknown := verdicts[Verdict.UNKNOWN]:
        report.on_message(
            f"{unknown} of {verdicts.total()} responses could not be graded and count nowhere (a worker was killed or "
            "hung, or a reward function failed); the same command grades them again"
        )


def choose_grader(config: ProblemsConfig, reward: RewardFunction | None) -> Grader:
    """Return the grader of a config, or one that calls the user's reward function."""
    return make_grader(config) if reward is None else RewardGrader(reward, config.reward_seconds)


@dataclass(frozen=True, slots=True)
class Presampled:
    """Problems to pre-sample: all of them, or those that the steps of a training on them use."""

    problems: Sequence[Problem]
    of_training: bool


def choose_presampled(
    problems: Problems, config: ReferenceConfig, report: Callback, reward: RewardFunction | None = None
) -> Presampled:
    """Return what to pre-sample: of a set or a file what a training uses, else every problem that is given.

    All problems of a set are those that any training may use, so but for the fewest that can be held out.
    """
    named, needs_answer = isinstance(problems, str | Path), not (reward or config.reward)
    every = isinstance(config, PresampleConfig) and config.all_problems
    of_training = not every and (named or bool(config.model_fields_set & STEP_KEYS))
    if not isinstance(problems, str | Path) and not of_training:
        return Presampled(make_problems(problems, needs_answer=needs_answer), of_training)
    reading = config if of_training else config.model_copy(update={"probe_problems_per_level": 1})
    found = find_problems(problems, None, reading, needs_answer=needs_answer)
    report_notes(found.notes, report)
    return Presampled(found.problems, of_training)


def presample_chosen(
    policy: Policy,
    chosen: Presampled,
    config: ReferenceConfig,
    store: Path,
    report: Callbacks,
    *,
    engine: Engine | None = None,
    reward: RewardFunction | None = None,
) -> References:
    """Complete the reference store of what was chosen, and report it."""
    policy, config = freeze_date(policy, config, read_store_date(store))
    with report.reporting("presample", config.model_dump(mode="json"), store) as result:
        report_notes(check_prompts(policy, chosen.problems, config), report)
        sampler = make_sampler(policy, config, engine=engine, reward=reward, on_message=report.on_message)
        sample = partial(sample_reference, policy, sampler, config=config, store=store, report=report)
        if chosen.of_training:
            reference = settle_reference(chosen.problems, config, sample)[1]
        else:
            reference = sample(chosen.problems)
        result |= {"store": str(store), "problems": len(reference)}
    return reference


def sample_reference(
    policy: Policy,
    sampler: Sampler,
    problems: Sequence[Problem],
    config: ReferenceConfig,
    store: Path,
    report: Callback,
) -> References:
    """Complete the reference store of `problems`, and report progress and mean reward."""
    phase = f"reference: {config.reference_samples} unconstrained samples of each of {len(problems)} problems"
    advance = make_counter(report.on_progress, phase, len(problems) * count_samples(config, store))
    reference = complete_reference(
        sampler, problems, config, fingerprint=policy.fingerprint, path=store, on_finish=advance
    )
    verdicts = check_grades(reference.values(), config.max_failed_grades)
    rewards = array("d", (row.reward for row in reference.values() if row.reward is not None))
    if not rewards:
        raise UserError("no problem has a reference answer that can be parsed; see: adaptthink data check")
    if skipped := len(reference) - len(rewards):
        report.on_message(f"{skipped} problems skipped: their reference answers cannot be parsed")
    report_unknown(verdicts, report)
    report.on_message(f"reference: mean reward {fmean(rewards):.3f} ({write_shares(verdicts)}), stored in {store}")
    if advice := advise(verdicts, config):
        report.on_message(advice)
    return reference


def train_and_save(
    policy: Policy,
    sampler: Sampler,
    data: TrainingData,
    config: TrainConfig,
    run: Path,
    report: Callback,
    *,
    profile: bool = False,
) -> Run:
    """Train `policy` in place, save it in the run folder, and return the finished run; its model is what was saved."""
    roofline = measure_roofline(policy.model, config) if profile else None
    sampler.clock.take()  # what came before the training
    started = time.monotonic()
    ratio = f"ratio {config.ratio}, " if "ratio" in load_method(config.method).reads else ""
    samples = f"{config.samples_per_problem} responses, delta {config.delta}, {ratio}no_think share "
    report.on_message(
        f"training: {config.method}, {config.steps} steps of {config.problems_per_step} problems x "
        f"{'their stored responses' if load_method(config.method).from_store else samples + str(config.no_think_share)}"
        f"; results in {run}"
    )
    begun = any((run / "checkpoints").glob("step-*"))
    if config.rehearsal_problems and data.problems and not begun and not load_method(config.method).from_store:
        for message in rehearse(sampler, data.problems, config):
            report.on_message(message)
        sampler.clock.take()
    policy = run_training(
        policy, sampler, data, config, run, Reporting(report.on_step, report.on_message, roofline, report.on_progress)
    )
    save(policy, config, run)
    report.on_message(f"model saved in {run / 'model'}")
    measured = None
    if roofline:
        measured = Profile(roofline.machine, profile_phases(read_metrics(run / "metrics.jsonl")))
        write_json(run / "profile.json", asdict(measured))
    return Run(policy, run, time.monotonic() - started, measured)


def save(policy: Policy, config: TrainConfig, run: Path) -> None:
    """Leave the trained model in `run`/model, and an adapter by itself in `run`/adapter, each with its card."""
    backend, sampled = f"native, adaptthink {__version__}", not load_method(config.method).from_store
    check_run(run)
    dial = run / "model" / STORED
    with replace_folder(run / "model") as folder:
        policy.save(folder)
        write_card(folder, config, backend=backend, sampled=sampled)
        if dial.is_file():  # it names the weights that it is for, and is refused for others
            shutil.copy(dial, folder)
    if policy.adapter:
        with replace_folder(run / "adapter") as folder:
            policy.adapter.save_pretrained(str(folder))
            write_card(folder, config, backend=backend, sampled=sampled)
    check_run(run)


def evaluate_policy(
    policy: Policy,
    sampler: Sampler,
    problems: Sequence[Problem],
    requested: Sequence[str],
    config: EvaluateConfig,
    folder: Path,
    report: Callback,
) -> dict[str, Evaluation]:
    """Complete the evaluation in `folder`, grade it, and score each requested mode."""
    beyond = check_prompts(policy, problems, config, requested)
    setting = make_policy_setting(
        config.model, policy.fingerprint, config, describe_starts(policy.tokenizer, policy.template)
    )
    with lock_folder(folder, setting):
        report_notes(beyond, report)
        respond = make_policy_responder(sampler, config, on_timing=partial(write_timing, folder))
        sample_into(folder, respond, setting, problems, requested, config, report)
        decide_missing(sampler, folder, problems)
        return score_folder(folder, problems, requested, config, sampler.grader, report)


def evaluate_chat(
    problems: Sequence[Problem],
    requested: Sequence[str],
    config: ChatConfig,
    folder: Path,
    grader: Grader,
    report: Callback,
) -> dict[str, Evaluation]:
    """Complete the evaluation of a model behind a chat endpoint.

    Only servers of this package return P(no_think) and the mode; both are stored.
    """
    endpoint = make_endpoint(config)
    if endpoint.switch is Switch.NONE and (left_out := [mode for mode in requested if REQUESTED_MODES[mode]]):
        requested = [mode for mode in requested if REQUESTED_MODES[mode] is None]
        report.on_message(f"{' and '.join(left_out)} left out: without a --switch no mode can be requested")
        if not requested:
            raise UserError(
                "no mode is left to evaluate; give the --switch that the endpoint's models support, or --modes auto"
            )
    cost, setting = partial(compute_cost, prices=endpoint.prices), make_chat_setting(endpoint, config)
    with lock_folder(folder, setting):
        keep = make_decision_keeper(folder)
        respond = make_chat_responder(endpoint, config, on_decision=keep, on_message=report.on_message)
        sample_into(folder, respond, setting, problems, requested, config, report, cost)
        samples = list(read_samples(folder))
        costs = [cost(sample) for sample in samples]
        known = [one for one in costs if one is not None]
        if known:
            unknown = len(samples) - len(known)
            report.on_message(f"cost of all samples in {folder}: {sum(known):.2f}, of {unknown} not known")
        if any(sample.tokens_estimated for sample in samples):
            report.on_message("lengths are estimates, one token per four characters: the endpoint reports none")
        return score_folder(folder, problems, requested, config, grader, report)


def sample_into(
    folder: Path,
    respond: Respond,
    setting: Setting,
    problems: Sequence[Problem],
    requested: Sequence[str],
    config: EvaluationConfig,
    report: Callback,
    cost: Callable[[Sample], float | None] = lambda sample: None,
) -> None:
    """Sample what `folder` lacks, and report progress."""
    count = make_sample_counter(config)
    total = sum(map(count, problems))
    each = f", {total}" if config.samples_by_set else f" x {config.samples_per_problem}"
    phase = f"evaluate: {len(problems)} problems{each} responses in each of {', '.join(requested)}"
    advance = make_counter(report.on_progress, phase, total * len(requested))

    def on_sample(sample: Sample | None) -> None:
        advance(1, sample.tokens if sample else 0, cost(sample) or 0.0 if sample else 0.0)

    sample_missing(respond, folder, setting, problems, requested, count, on_sample=on_sample)


def score_folder(
    folder: Path,
    problems: Sequence[Problem],
    requested: Sequence[str],
    config: EvaluationConfig,
    grader: Grader,
    report: Callback,
) -> dict[str, Evaluation]:
    """Grade what is not graded, and score the requested modes.

    `summary.json` has the scores of all modes that the folder holds on these problems.
    """
    advance = make_counter(report.on_progress, "answers graded", None)
    if changes := grade_folder(folder, grader, max_failed_grades=config.max_failed_grades, on_grade=advance):
        report.on_message(f"graded again, as the grader has changed: {', '.join(changes)}")
    outcomes = select_requested(folder, problems, config)
    verdicts = Counter(one.verdict for one in outcomes)
    check_failed_grades(verdicts.elements(), config.max_failed_grades)
    report_unknown(verdicts, report)
    held = {one.requested for one in outcomes if one.verdict.has_reward}
    if lacking := [mode for mode in requested if mode not in held]:
        raise UserError(f"no {' and no '.join(lacking)} response could be graded; see verdicts.jsonl in {folder}")
    throughput = read_throughput(folder)
    evaluations = {
        mode: summarise((one for one in outcomes if one.requested == mode), throughput.get(mode))
        for mode in REQUESTED_MODES
        if mode in held
    }
    write_json(folder / "summary.json", make_evaluation_summary(config, evaluations))
    return {mode: evaluations[mode] for mode in requested}


def select_requested(folder: Path, problems: Sequence[Problem], config: EvaluationConfig) -> list[Outcome]:
    """Return a folder's outcomes on these problems, as many samples of each as configured."""
    count = make_sample_counter(config)
    wanted = {problem.id: count(problem) for problem in problems}
    return [one for one in read_outcomes(folder) if one.index < wanted.get(one.problem_id, 0)]


def make_evaluation_summary(config: EvaluationConfig, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return the content of an evaluation folder's `summary.json`."""
    advice = tuple(advise_on_modes(config, evaluations))
    summary = EvaluationSummary(dict(evaluations), config.model, config.model_dump(mode="json"), advice)
    content: dict[str, Any] = to_json(summary)
    return content


def advise_on_modes(config: EvaluationConfig, evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return a line for each verdict that dominates in some of the requested modes."""
    verdicts = {mode: evaluation.overall.verdicts for mode, evaluation in evaluations.items()}
    return advise_by_mode(verdicts, REQUESTED_MODES, config)


def assess_choice(folder: Path, convention: Convention | None, difficulty: Path | None, delta: float) -> ModeChoice:
    """Assess how well the model of an evaluation chooses, and write the folder's `quality.json`."""
    choice = assess_mode_choice(folder, convention=convention, reference=difficulty, delta=delta)
    write_json(folder / "quality.json", to_json(choice))
    return choice


def open_training(
    run: Path,
    config: TrainConfig,
    policy: Policy,
    chosen: TrainingProblems,
    *,
    resume: bool = False,
    clean: bool = False,
) -> None:
    """Make the run folder of a training or re-enter it (`open_run`); how a run runs may change when it is resumed."""
    open_run(
        run,
        config.model_dump(mode="json"),
        ignoring=HOW,
        defaults=type(config)().model_dump(mode="json"),
        made_from={
            "the weights of the base model": policy.fingerprint,
            "the problems": compute_problems_digest(chosen),
        },
        resume=resume,
        clean=clean,
    )


def _configure(schema: type[C], config: C | None, model: Policy | str | Path, settings: Mapping[str, Any]) -> C:
    """Return the config of a call: as it was resolved, or from settings given by keyword."""
    if config is not None:
        if settings:
            raise UserError(f"config and {', '.join(settings)} are both given; put the settings into the config")
        return config
    name = model.name if isinstance(model, Policy) else str(model)
    return check(schema, {"model": name, **settings})


def _note(config: C, reward: RewardFunction | None) -> C:
    """Record in a config the name of a reward function that is given, so that stores and runs of others are refused."""
    return config.model_copy(update={"reward": RewardGrader(reward).name}) if reward else config


def _load(model: Policy | str | Path, config: EngineConfig) -> Policy:
    return model if isinstance(model, Policy) else load_configured(config, generation_only=True)


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are given."""
    return {name: value for name, value in values.items() if value is not None}


def _temporary(name: str) -> Path:
    """Return a new folder for results that the caller did not ask to keep."""
    return Path(tempfile.mkdtemp(prefix=f"adaptthink-{name}-"))
