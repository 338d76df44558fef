"""`adaptthink serve`."""

from __future__ import annotations

from adaptthink.cli.parameters import DryRun, Model, Recipes
from adaptthink.cli.settings import add_flags, read_settings, select_given, show_settings
from adaptthink.config.schema import Config, ServeConfig
from adaptthink.storage.kinds import find_run_model


@add_flags(ServeConfig, without=("model",))
def serve(
    model: Model = "tiny",
    /,
    *,
    flags: Config,
    recipe: Recipes = (),
    dry_run: DryRun = False,
) -> None:
    """Serve a model over HTTP in the style of OpenAI's API: thinking, not thinking, or the model's choice.

    MODEL may also be the folder of a training run, whose model is served under the run's name.
    """
    path, run = find_run_model(model)
    given = ({"name": run} if run else {}) | select_given(flags) | {"model": path}
    config = read_settings("serve", ServeConfig, recipe, given)
    if dry_run:
        return show_settings(config)
    from adaptthink import api
    from adaptthink.cli.console import Terminal

    return api.serve(config.model, callbacks=[Terminal()], config=config)
