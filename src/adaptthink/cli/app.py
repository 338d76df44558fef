"""The command line's frame: names of commands, help, errors, exit codes. The commands are in `commands/`.

Nothing heavy is imported here, so that `adaptthink --help` answers at once. Bad input ends with one line on standard
error and status 2. All exit statuses: docs/reference/exit_statuses.md.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, UnknownOptionError, UnusedCliTokensError
from cyclopts.help import DefaultFormatter

from adaptthink import __version__
from adaptthink.cli.libraries import quieten_libraries
from adaptthink.cli.output import outlasting_output
from adaptthink.errors import DivergedError, UserError, escape_controls, redact
from adaptthink.processes import EXIT_TO_BE_CONTINUED, Interruption, interrupt_on_signals

if TYPE_CHECKING:
    from cyclopts.help import ColumnSpec

EXIT_OUTPUT_LOST, EXIT_BAD_INPUT, EXIT_DIVERGED = 1, 2, 3
EXIT_SIGNAL = 128  # and its number, as shells have it
COLLECT_EVERY = 10_000  # new objects; by default 700: a tenth of the time of imports, whose objects all stay
NAME_SHARE = 0.4  # of the width: enough for the longest flag on 80 columns

COMMANDS = {
    "demo": "Teach the embedded reasoner when to think, calibrate its dial, write a report (two to five minutes).",
    "run": "The whole job of any model: pre-sample, evaluate, train, evaluate again, calibrate the dial, report.",
    "train": "Train a model to choose when to think.",
    "traces": "Make the traces of a cold start: solutions that problems have, or a teacher's correct responses.",
    "sft": "Give a model its cold start: teach it to think, and to answer at once when that is forced.",
    "presample": "Sample the reference: K responses per problem from the model before training.",
    "evaluate": "Evaluate a model as it chooses and in both forced modes, by level; keep every sample.",
    "reproduce": "Run the paper's experiments on the embedded reasoner; compare its claims with them (90 minutes).",
    "bench": "Train and evaluate many methods alike; make one page of their accuracy, length, cost and claims.",
    "compare": "Compare evaluations with the first: accuracy, length, no_think, and which differences are significant.",
    "calibrate": "Choose the threshold on P(no_think) from which a model answers without thinking, with a guarantee.",
    "decide": "Print the mode that the dial chooses for each prompt.",
    "score": "Score how difficult a model finds each prompt of a file, from one prefill; resumable.",
    "serve": "Serve a model over HTTP in the style of OpenAI's API: thinking, not thinking, or the model's choice.",
    "doctor": "Check how a model begins and ends its thinking, and whether AdaptThink can train it.",
    "plan": "Estimate a training before it is started: memory, seconds of a step, hours, and what would not fit.",
    "replay": "Repeat a training step that was skipped as not finite, and say which response did it.",
    "convert": "Make a model folder of a GGUF file, with its tokenizer and chat template.",
    "merge": "Write the weighted mean of two models' weights.",
    "export": "Make a folder for the hub of a run's model, with its dial and a card; push it there.",
    "grade": "Grade recorded responses: a verdict for each, what was extracted, and which rule decided.",
    "report": "Write the report of a training run, or of evaluations side by side: report.html and report.md.",
    "watch": "Show a training in the terminal while it runs: the table of its steps, its alarms, how long it takes.",
}
GOES_ON = {  # after an interruption
    **dict.fromkeys(("demo", "run", "train", "sft"), "a training run goes on from its last checkpoint with --resume"),
    **dict.fromkeys(
        ("traces", "presample", "evaluate", "calibrate", "score"), "what is done is kept: repeat the command to go on"
    ),
    **dict.fromkeys(("reproduce", "bench"), "what is done is kept: repeat the command, without --clean, to go on"),
}
KEEP_RESULTS = {
    *GOES_ON,
    "convert",
    "export",
    "merge",
    "report",
    "serve",
}  # in files: what they print is not all that there is of their result
TAKE_RECIPES = ("run", "traces", "sft", "train", "presample", "plan")  # as arguments
TAKE_MODEL = ("evaluate", "calibrate", "serve")
DATA_COMMANDS = {
    "check": "Count problems, repeats, what cannot be read, and leaks into other sets.",
    "show": "Print a few problems as the model sees them, with reference answer, kind and level.",
}


def make_help_columns(console: Any, options: Any, entries: Any) -> tuple[ColumnSpec, ...]:
    """Return the columns of a help page as they are by default, but with more of the width for the flags."""
    from cyclopts.help import NameRenderer
    from cyclopts.help.specs import get_default_parameter_columns

    width = int(console.width * NAME_SHARE)
    return tuple(
        column.copy(renderer=NameRenderer(width), max_width=width) if column.header == "Option" else column
        for column in get_default_parameter_columns(console, options, entries)
    )


app = App(
    name="adaptthink",
    help="Teach reasoning models when to think. Start with: adaptthink demo",
    help_format="plaintext",
    help_formatter=DefaultFormatter(column_specs=make_help_columns),
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(help="Install completion for your shell (bash, zsh, fish, powershell).")
for name, summary in COMMANDS.items():
    app.command(f"adaptthink.cli.commands.{name}:{name}", name=name, help=summary)
data = App(name="data", help="Check and show problem sets before training on them.", help_format="plaintext")
for name, summary in DATA_COMMANDS.items():
    data.command(f"adaptthink.cli.commands.data:data_{name}", name=name, help=summary)
app.command(data)


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn bad input, a training that diverged and signals that end a program into one line and a status."""
    try:
        yield
    except DivergedError as error:
        sys.exit(complain(str(error), EXIT_DIVERGED))
    except UserError as error:
        sys.exit(complain(str(error), EXIT_BAD_INPUT))
    except OSError as error:
        sys.exit(
            complain(
                f"{error.filename2 or error.filename or 'input or output'}: {error.strerror or error}", EXIT_BAD_INPUT
            )
        )
    except CycloptsError as error:
        sys.exit(complain(parse_fault(error), EXIT_BAD_INPUT))
    except KeyboardInterrupt as interruption:
        sys.exit(complain(*describe_interruption(interruption, next(iter(sys.argv[1:]), ""))))


def describe_interruption(interruption: KeyboardInterrupt, command: str) -> tuple[str, int]:
    """Return what happened and how the work goes on, and the status: of Ctrl-C the shell's own."""
    number = interruption.number if isinstance(interruption, Interruption) else signal.SIGINT
    by_user, advice = number == signal.SIGINT, GOES_ON.get(command)
    what = "interrupted" if by_user else f"stopped by {signal.Signals(number).name}"
    status = EXIT_TO_BE_CONTINUED if advice and not by_user else EXIT_SIGNAL + number
    return f"{what}; {advice}" if advice else what, status


def parse_fault(error: CycloptsError) -> str:
    """Return one line about a parsing error; values that a schema refuses read as everywhere else."""
    from pydantic import ValidationError

    from adaptthink.config.resolve import describe_faults

    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return describe_faults(cause)
    command = " ".join(error.command_chain or ())
    if isinstance(error, UnknownOptionError):
        option = error.token.keyword or error.token.value
        return explain_foreign_option(option, command) or one_line(error)
    if isinstance(error, UnusedCliTokensError) and command in TAKE_RECIPES and error.unused_tokens:
        return f"'{error.unused_tokens[0]}' is left over: give all recipes together, first or after --recipe"
    return one_line(error)


def one_line(error: CycloptsError) -> str:
    """Return the parser's own message."""
    return " ".join(str(error).split())


def explain_foreign_option(option: str, command: str) -> str | None:
    """Return that an option is a setting of other commands; None if it is unknown."""
    from adaptthink.config.resolve import find_commands

    key = option.lstrip("-").replace("-", "_")
    others = find_commands(key) or find_commands(key.removeprefix("no_"))
    if not others:
        return None
    if key == "model" and command in TAKE_MODEL:
        return f"{command} takes its model as an argument, not as --model: adaptthink {command} MODEL"
    return f"{option} has no effect in {command}: it is a setting of {', '.join(others)}; leave it out"


def complain(message: str, status: int) -> int:
    """Print one line on standard error; return `status`."""
    print(f"adaptthink: {escape_controls(redact(message))}", file=sys.stderr)
    return status


def main() -> None:
    """Run the command line. Standard output that fails ends nothing; if it was the result, the status tells."""
    gc.set_threshold(COLLECT_EVERY, *gc.get_threshold()[1:])
    quieten_libraries()
    with outlasting_output() as out:
        try:
            with readable_errors(), interrupt_on_signals():
                app(print_error=False, exit_on_error=False)
        except SystemExit as ended:
            sys.stdout.flush()
            lost = out and out.fault
            is_result = next(iter(sys.argv[1:]), "") not in KEEP_RESULTS
            if lost and lost.errno != errno.EPIPE and is_result and not ended.code:
                sys.exit(complain(f"standard output: {lost.strerror}; the result is lost", EXIT_OUTPUT_LOST))
            raise
