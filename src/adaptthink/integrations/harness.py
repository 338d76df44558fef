"""`adaptthink-lm-eval`: lm-evaluation-harness's own command with the model `adaptthink` known to it.

The harness has a fixed list of models and no entry points for others, so this command registers ours.
"""

from __future__ import annotations

import sys

from adaptthink.errors import UserError


def main() -> None:
    """Run lm_eval. Bad input to our model ends with one line and status 2."""
    try:
        from lm_eval.__main__ import cli_evaluate  # noqa: PLC0415  (not installed everywhere)

        import adaptthink.integrations.lm_eval  # noqa: F401, PLC0415  (registers the model)
    except ModuleNotFoundError as error:
        advice = "install it with: pip install '.[harness]' in the project's folder"
        print(f"adaptthink: needs {error.name}; {advice}", file=sys.stderr)
        sys.exit(2)
    try:
        cli_evaluate()
    except UserError as error:
        print(f"adaptthink: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
