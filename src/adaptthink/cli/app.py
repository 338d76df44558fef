"""The command line's frame: names of commands, help, errors, exit codes. The commands are in `commands/`.

Nothing heavy is imported here, so that `adaptthink --help` answers at once. Bad input ends with one line on standard
error and status 2.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, UnknownOptionError, UnusedCliTokensError
from cyclopts.help import DefaultFormatter

from adaptthink import __version__
from adaptthink.cli.libraries import quieten_libraries
from adaptthink.errors import UserError

if TYPE_CHECKING:
    from cyclopts.help import ColumnSpec

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
NAME_SHARE = 0.4  # of the width: enough for the longest flag on 80 columns

COMMANDS = {
    "demo": "Train the embedded reasoner to choose when to think, evaluate it, write a report (three to four minutes).",
    "train": "Train a model to choose when to think.",
    "presample": "Sample the reference: K responses per problem from the model before training.",
    "evaluate": "Evaluate a model as it chooses and in both forced modes, by level; keep every sample.",
    "reproduce": "Run the paper's experiments on the embedded reasoner; compare its claims with them (90 minutes).",
    "compare": "Compare evaluations with the first: accuracy, length, no_think, and which differences are significant.",
    "calibrate": "Choose the threshold on P(no_think) from which a model answers without thinking, with a guarantee.",
    "decide": "Print the mode that the dial chooses for each prompt.",
    "serve": "Serve a model over HTTP in the style of OpenAI's API: thinking, not thinking, or the model's choice.",
    "doctor": "Check how a model begins and ends its thinking, and whether AdaptThink can train it.",
    "plan": "Estimate a training before it is started: memory, seconds of a step, hours, and what would not fit.",
    "grade": "Grade recorded responses: a verdict for each, what was extracted, and which rule decided.",
    "report": "Write the report of a training run, or of evaluations side by side: report.html and report.md.",
}
GOES_ON = {  # after an interruption
    **dict.fromkeys(("demo", "train"), "a training run goes on from its last checkpoint with --resume"),
    **dict.fromkeys(("presample", "evaluate", "calibrate"), "what is done is kept: repeat the command to go on"),
    "reproduce": "what is done is kept: repeat the command, without --clean, to go on",
}
TAKE_RECIPES, TAKE_MODEL = ("train", "presample", "plan"), ("evaluate", "calibrate", "serve")  # as arguments
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
    """Turn bad input into one line and status 2, an interruption into one line and status 130."""
    try:
        yield
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
    except KeyboardInterrupt:
        advice = GOES_ON.get(next(iter(sys.argv[1:]), ""))
        sys.exit(complain(f"interrupted; {advice}" if advice else "interrupted", EXIT_INTERRUPTED))


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
    print(f"adaptthink: {message}", file=sys.stderr)
    return status


def main() -> None:
    """Run the command line."""
    quieten_libraries()
    with readable_errors():
        app(print_error=False, exit_on_error=False)
