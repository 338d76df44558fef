"""`adaptthink train --backend verl`: what verl needs into the run folder, verl itself, and what it made back into it.

verl runs in a process of its own, with its own Ray; nothing of it is imported here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from transformers import AutoConfig

from adaptthink.callbacks import Callback, Callbacks, Progress
from adaptthink.config.schema import HOW, VerlConfig
from adaptthink.errors import DivergedError, UserError
from adaptthink.integrations.verl.data import HELD_OUT, TRAIN, write_problems
from adaptthink.integrations.verl.settings import (
    HELD_OUT_FILE,
    PLUGIN,
    TRAIN_FILE,
    check_config,
    make_arguments,
    make_environment_settings,
    make_verl_settings,
)
from adaptthink.models.card import write_card
from adaptthink.models.context import check_context, find_context_tokens
from adaptthink.models.loading import find_model, load_policy, load_tokenizer
from adaptthink.models.scoring import LOGIT_SCALES
from adaptthink.models.think_starts import probe_configured
from adaptthink.problems import Problem, encode_problem
from adaptthink.problems.table import parse_ids
from adaptthink.processes import ENDING, end_with_parent, interrupt_on_signals
from adaptthink.sampling.grader import load_reward
from adaptthink.storage.runs import MetricsLog, apply_umask, check_store_outside, open_run, read_metrics
from adaptthink.training.data import choose_problems, prepare_problems, settle_reference
from adaptthink.training.reference import (
    References,
    check_grades,
    find_missing,
    find_training_date,
    make_store_settings,
    read_store,
)

VERSION = "0.9.1"  # of verl, exactly: its trainers and agent loops change with every release
POLL_SECONDS = 0.5  # between two reads of the metrics
STOP_SECONDS = 30.0  # that verl has to stop by itself
SHOWN_LINES = 15  # of verl's log, after a failure
MODULES = "VERL_USE_EXTERNAL_MODULES"
OURS, ANY = re.compile(r"(?:UserError|DivergedError): (.+)"), re.compile(r"\b(\w*(?:Error|Exception): .+)")
RESPONSE_FAILED = "Error in _run_prompt"  # so verl announces what went wrong with a response, long before it ends
INSTALL = (
    "install it (see docs/how-to/verl.md): pip install '.[verl]' in the project's folder, or name the Python of an "
    "environment that has it with --verl-python"
)


def make_command(config: VerlConfig, run: Path, python: str) -> list[str]:
    """Return the command that starts verl; raises UserError for what verl cannot do."""
    folder = Path(config.model)
    model = str(folder.absolute()) if folder.is_dir() else find_model(config.model)
    settings = make_verl_settings(config, model, run, plain_logits=has_plain_logits(model))
    settings |= make_environment_settings(make_environment(config))
    return [python, "-m", "verl.trainer.main_ppo", *make_arguments(settings, config.overrides)]


def has_plain_logits(model: str) -> bool:
    """Return whether a model's config neither scales nor caps its logits; one that cannot be read here says nothing."""
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    except (OSError, ValueError):
        return True
    return not any(getattr(config, key, None) for key in LOGIT_SCALES)


def make_environment(config: VerlConfig) -> dict[str, str]:
    """Return what all of verl's processes need in their environment: our plugin, and where a reward function lies."""
    environment = {MODULES: list_modules()}
    if config.reward:
        load_reward(config.reward)  # what cannot be imported here cannot be imported there
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    return environment


def list_modules() -> str:
    """Return what verl is to import in each of its processes: our plugin, and what the environment names.

    Not left to verl's entry points: through them an import of ours that fails would pass unseen.
    """
    return ",".join(filter(None, [os.environ.get(MODULES), PLUGIN]))


def show_command(config: VerlConfig, run: Path, python: str) -> None:
    """Print the command of a run, one setting a line, as a shell would take it."""
    python, option, module, *settings = make_command(config, run, python)
    lines = [f"{MODULES}={shlex.quote(list_modules())}", shlex.join([python, option, module])]
    print(" \\\n  ".join([*lines, *map(shlex.quote, settings)]))


def verl_job(
    config: VerlConfig,
    run: Path,
    *,
    reference_store: Path | None,
    python: str,
    resume: bool,
    clean: bool,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train with verl in the run folder, and leave there what the native trainer leaves: metrics, model, report."""
    from adaptthink.report import write_report  # noqa: PLC0415  (matplotlib takes a second to import)

    check_config(config)
    version = read_verl_version(python)
    python = make_absolute(python)
    config = freeze_prompt_date(config, find_training_date(run, reference_store, resume=resume))
    command = make_command(config, run, python)
    train_file, held_out_file = run / "verl" / TRAIN_FILE, run / "verl" / HELD_OUT_FILE
    settings, defaults = (one.model_dump(mode="json") for one in (config, VerlConfig()))
    open_training = partial(open_run, run, settings, ignoring=HOW, defaults=defaults)
    if resume and train_file.is_file():
        open_training(resume=True)
    else:
        store = find_store(reference_store)
        check_store_outside(store, run, clean=clean)
        found = prepare_problems(config.problems, None, config)
        for note in found.notes:
            Callbacks(callbacks).on_message(note)
        chosen, reference = settle_reference(found.problems, config, partial(read_reference_store, config, store))
        check_enough(chosen, config)
        check_prompts([*found.held_out, *chosen], config)
        open_training(resume=resume, clean=clean)
        write_problems(held_out_file, found.held_out, split=HELD_OUT)
        write_problems(train_file, order_problems(chosen, config), split=TRAIN, reference=reference)
    observers = Callbacks(callbacks)
    with observers.reporting("train", settings, run) as result:
        started = time.monotonic()
        train_and_export(command, run, config, version=version, python=python, observer=observers)
        seconds = time.monotonic() - started
        write_card(run / "model", config, backend=f"verl {version}")
        write_report(run)
        observers.on_message(f"model saved in {run / 'model'}, report in {run / 'report.html'}")
        result |= {"model": str(run / "model"), "steps": config.steps, "seconds": seconds}
    return result


def freeze_prompt_date(config: VerlConfig, recorded: str | None) -> VerlConfig:
    """Return a config with the day that the model's chat template writes into prompts, if it writes one."""
    template = probe_configured(load_tokenizer(config.model), config.think_start, config.prompt_date)
    date = template.date and (config.prompt_date or recorded or template.date)
    return config.model_copy(update={"prompt_date": date})


def train_and_export(
    command: Sequence[str], run: Path, config: VerlConfig, *, version: str, python: str, observer: Callback
) -> None:
    """Take the steps that are left and export the model; raises UserError with the reason if verl fails."""
    if read_latest_step(run) < config.steps:
        observer.on_message(
            f"training on verl {version}: {config.steps} steps of {config.problems_per_step} problems x "
            f"{config.samples_per_problem} responses on {config.nodes} x {config.gpus_per_node} GPUs; "
            f"its log: {run / 'verl' / 'log.txt'}"
        )
        train_with_verl(command, run, observer, make_environment(config), config.steps)
    if read_latest_step(run) < config.steps:
        raise UserError(
            f"verl ended after step {read_latest_step(run)} of {config.steps} without an error; "
            f"see {run / 'verl/log.txt'}, and continue with --resume"
        )
    export_model(run, config, python)


def make_absolute(python: str) -> str:
    """Return an interpreter as it is found from every folder; links are kept, as an environment's is one."""
    return str(Path(python).absolute()) if os.sep in python else python


def read_verl_version(python: str) -> str:
    """Return the version of verl that an interpreter has; raises UserError unless it is the one we know."""
    code = "from importlib.metadata import version; version('adaptthink'); print(version('verl'))"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"cannot run '{python}': {error.strerror}; {INSTALL}") from None
    if answer.returncode:
        lacking = re.search(r"PackageNotFoundError: .*?(\w+)$", answer.stderr.strip())
        raise UserError(f"'{python}' has no {lacking[1] if lacking else 'verl'}; {INSTALL}")
    if answer.stdout.strip() != VERSION:
        raise UserError(f"'{python}' has verl {answer.stdout.strip()}, and {VERSION} is needed; {INSTALL}")
    return VERSION


def find_store(path: Path | None) -> Path:
    """Return where R̄_ref is kept; raises UserError if there is no such file."""
    if path is None:
        raise UserError(f"--backend verl takes R_ref from a store; {describe_presampling(Path('ref.jsonl'))}")
    if not path.is_file():
        raise UserError(
            f"no reference store '{path}', which --backend verl takes R_ref from; {describe_presampling(path)}"
        )
    return path


def describe_presampling(store: Path) -> str:
    """Return how a reference store is made."""
    return f"make it first: adaptthink presample RECIPE --output {store}, then train with --reference {store}"


def read_reference_store(config: VerlConfig, path: Path, problems: Sequence[Problem]) -> References:
    """Open a store of R̄_ref; raises UserError if it lacks any of `problems` or is of another model."""
    policy = load_policy(
        config.model, think_start=config.think_start, prompt_date=config.prompt_date, device="cpu", dtype="auto"
    )
    rows = read_store(path, make_store_settings(config, policy.fingerprint, path))
    missing = int(find_missing(rows, problems).sum())
    if missing:
        raise UserError(
            f"'{path}' lacks {missing} of {len(problems)} problems that the steps use; "
            f"{describe_presampling(path)} (it continues where it stopped)"
        )
    references = References(path, rows, parse_ids(problems))
    check_grades(references.values(), config.max_failed_grades)
    return references


def check_enough(problems: Sequence[Problem], config: VerlConfig) -> None:
    """Raise UserError if too few problems can be graded for a step."""
    if len(problems) < config.problems_per_step:
        raise UserError(
            f"{len(problems)} problems can be graded, fewer than problems_per_step = {config.problems_per_step}; give "
            "more problems, or fewer a step"
        )


def check_prompts(problems: Sequence[Problem], config: VerlConfig) -> None:
    """Raise UserError for a prompt beyond max_prompt_tokens, or too long for the model's context with its response.

    verl would end a training in the middle.
    """
    tokenizer = load_tokenizer(config.model)
    template = probe_configured(tokenizer, config.think_start, config.prompt_date)
    limits = {key: getattr(config, key) for key in ("max_think_tokens", "max_no_think_tokens")}
    context = find_context_tokens(AutoConfig.from_pretrained(find_model(config.model)))
    check_context(context, tokenizer, template, problems, limits, given=limits)
    for problem in problems:
        num_tokens = len(encode_problem(tokenizer, template, problem))
        if num_tokens > config.max_prompt_tokens:
            raise UserError(
                f"the prompt of problem {problem.id} has {num_tokens} tokens, more than max_prompt_tokens = "
                f"{config.max_prompt_tokens}; give a larger one, or leave the problem out"
            )


def order_problems(chosen: Sequence[Problem], config: VerlConfig) -> Iterator[Problem]:
    """Return the problems of all steps, in the order in which the native trainer takes them."""
    for step in range(1, config.steps + 1):
        yield from choose_problems(chosen, config.problems_per_step, config.seed, step)


def read_latest_step(run: Path) -> int:
    """Return the step of verl's newest whole checkpoint; 0 if there is none."""
    try:
        return int((run / "checkpoints" / "latest_checkpointed_iteration.txt").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return 0


def train_with_verl(
    command: Sequence[str], run: Path, observer: Callback, environment: Mapping[str, str], steps: int | None = None
) -> None:
    """Run verl and report its steps, of `steps`; raises UserError with the reason, or DivergedError, if it fails."""
    log = run / "verl" / "log.txt"
    reported = read_latest_step(run)
    MetricsLog(run / "metrics.jsonl", keep_steps=reported).close()  # what was done after the checkpoint is done again

    def report_steps(*, ended: bool = False) -> None:
        nonlocal reported
        for row in select_finished_steps(read_metrics(run / "metrics.jsonl"), ended=ended):
            if row["step"] > reported:
                reported = row["step"]
                observer.on_step(row)
        observer.on_progress(Progress("training on verl", reported, steps, 0))

    before = log.stat().st_size if log.is_file() else 0
    try:
        status = run_process(command, log, os.environ | environment, report_steps, observer.on_message)
    finally:
        report_steps(ended=True)
    if status:
        lines = read_tail(log, before)
        observer.on_message("\n".join(lines[-SHOWN_LINES:]))
        reason = find_reason(lines) or f"exit status {status}"
        if any("DivergedError: " in line for line in lines):
            raise DivergedError(f"verl stopped: {reason} (log: {log})")
        raise UserError(f"verl stopped: {reason} (log: {log}; go on from the last checkpoint with --resume)")


def select_finished_steps(rows: Sequence[Mapping[str, Any]], *, ended: bool) -> Sequence[Mapping[str, Any]]:
    """Return the lines to which verl adds nothing more: to the newest it adds the validation, unless it has `ended`."""
    return rows if ended or (rows and "step_seconds" in rows[-1]) else rows[:-1]


def find_reason(lines: Sequence[str]) -> str | None:
    """Return the reason in a failed log: the first error of ours, else of a response, else the last of any."""
    for line in lines:
        if found := OURS.search(line):
            return found[1]
    announced = next((index for index, line in enumerate(lines) if RESPONSE_FAILED in line), None)
    errors = [found[1] for line in lines[announced or 0 :] if (found := ANY.search(line))]
    return None if not errors else errors[0 if announced is not None else -1]


def run_process(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    poll: Callable[[], None],
    on_message: Callable[[str], None] = lambda message: None,
) -> int:
    """Run a command, its output appended to a file, and call `poll` now and then; return its exit status.

    However it ends, all that it started has ended too. An interruption, SIGTERM or SIGHUP, stops it first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, interrupt_on_signals():
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=log.parent,
            start_new_session=True,  # Ctrl-C comes to it from here alone, and once
            preexec_fn=end_with_parent(),  # noqa: PLW1509  (it makes two system calls)
        )
        started = psutil.Process(process.pid)
        family: set[psutil.Process] = set()
        try:
            while process.poll() is None:
                family |= find_descendants(started)
                poll()
                time.sleep(POLL_SECONDS)
            poll()
            return process.returncode
        finally:
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)  # a second one must not leave anything behind
            if process.poll() is None:
                on_message(f"stopping it, which takes up to {STOP_SECONDS:.0f} seconds")
                family |= find_descendants(started)
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            left = [one for one in family if one.is_running()]  # not others that have their numbers by now
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(left, STOP_SECONDS)


def find_descendants(process: psutil.Process) -> set[psutil.Process]:
    """Return all that a process has started and that is still its own."""
    try:
        return set(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def read_tail(log: Path, start: int) -> list[str]:
    """Return the lines of a log from byte `start` on, without colours."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def export_model(run: Path, config: VerlConfig, python: str) -> None:
    """Put the newest checkpoint together in Hugging Face format (bfloat16, as verl writes it) into `run`/model."""
    model, temporary = run / "model", run / ".model"
    checkpoint = run / "checkpoints" / f"global_step_{read_latest_step(run)}" / "actor"
    shutil.rmtree(temporary, ignore_errors=True)
    log = run / "verl" / "export.txt"
    source, target = str(checkpoint.absolute()), str(temporary.absolute())
    merge = ["merge", "--backend", "fsdp", "--local_dir", source, "--target_dir", target]
    environment = os.environ | {MODULES: list_modules()}
    status = run_process([python, "-m", "verl.model_merger", *merge], log, environment, lambda: None)
    if status or not (temporary / "config.json").is_file():
        raise UserError(
            f"the checkpoint {checkpoint} could not be put together (log: {log}); if several machines wrote it, its "
            "folder must be one that all of them share"
        )
    load_tokenizer(config.model).save_pretrained(temporary)
    apply_umask(temporary)
    shutil.rmtree(model, ignore_errors=True)
    temporary.rename(model)
