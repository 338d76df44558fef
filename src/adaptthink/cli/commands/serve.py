"""`adaptthink serve`."""

from __future__ import annotations

from adaptthink.cli.parameters import DryRun, Model, Recipes
from adaptthink.cli.settings import add_flags, read_settings, select_given, show_settings
from adaptthink.config.schema import Config, ServeConfig


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
