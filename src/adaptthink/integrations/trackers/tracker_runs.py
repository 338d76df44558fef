"""The trackers themselves, each behind the same few names. Imported in the process of a tracker only."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class TrackerRun(Protocol):
    """One open run of a tracker."""

    @property
    def state(self) -> Mapping[str, str]:
        """With it, a resumed job goes on in the same run."""

    @property
    def location(self) -> str:
        """Where a person finds the run."""

    def log(self, metrics: Mapping[str, float], step: int) -> str | None:
        """Log one step; return a warning for a person, if there is one."""

    def end(self, result: Mapping[str, float], *, succeeded: bool) -> str | None:
        """Log the result, wait until all is stored, close the run; return a warning for a person, if there is one."""


class WandbRun:
    """A run of Weights & Biases."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        import wandb  # noqa: PLC0415

        options = {"name": start["name"], "dir": start["folder"], "job_type": start["command"]} | start["options"]
        if start["state"]:
            options |= {"id": start["state"]["id"], "resume": "allow", "allow_val_change": True}
        # What it measures of the machine is to be of the job, which started this process.
        settings = wandb.Settings(console="off", x_stats_pid=os.getppid())
        self.run = wandb.init(config=dict(start["settings"]), settings=settings, **options)
        self.state = {"id": self.run.id}
        self.location = self.run.url or f"offline; upload it with: wandb sync {self.run.settings.sync_dir}"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one step. Of a step that is done again after a resumption, wandb keeps the first."""
        self.run.log(dict(metrics), step=step, commit=True)  # else it would show a step when the next one comes

    def end(self, result: Mapping[str, float], *, succeeded: bool) -> None:
        """Put the result into the summary and close the run."""
        self.run.summary.update(dict(result))
        self.run.finish(exit_code=0 if succeeded else 1)


class TrackioRun:
    """A run of Trackio."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        import trackio  # noqa: PLC0415

        options = {"name": start["name"]} | start["options"]
        resume = "allow" if start["state"] else "never"
        self.trackio = trackio
        self.run = trackio.init(config=dict(start["settings"]), resume=resume, embed=False, **options)
        self.state = {"id": self.run.id}
        if start["state"] not in ({}, self.state):  # it knows the runs of a project by their names alone
            raise ValueError(f"'{options['name']}' is the name of a later run too; resume it with a name of its own")
        space = options.get("space_id")
        show = f"see it with: trackio show --project {self.run.project}"
        self.location = f"https://huggingface.co/spaces/{space}" if space else show
        self.warnings: list[str] = []
        # What it cannot store it drops with a warning, from a thread of its own.
        warnings.showwarning = lambda message, *_, **__: self.warnings.append(str(message))

    def log(self, metrics: Mapping[str, float], step: int) -> str | None:
        """Log one step."""
        self.run.log(dict(metrics), step=step)
        return self.warnings.pop(0) if self.warnings else None

    def end(self, result: Mapping[str, float], *, succeeded: bool) -> str | None:
        """Log the result behind the last step and close the run."""
        if result:
            self.run.log(dict(result))
        self.trackio.finish()
        return self.warnings.pop(0) if self.warnings else None


class TensorBoardRun:
    """Event files in a folder."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        folder = start["options"].get("folder") or (start["folder"] and str(Path(start["folder"], "tensorboard")))
        if folder is None:
            raise ValueError("this job has no folder to write to; give one: tensorboard:folder=PATH")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.open_writer = lambda step: SummaryWriter(folder, purge_step=step if start["state"] else None)
        self.writer: Any = None
        self.settings = json.dumps(start["settings"], indent=1)
        self.step = 0
        self.state = {"folder": folder}
        self.location = f"see it with: tensorboard --logdir {folder}"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one step. The first after a resumption hides those that are done again."""
        self.step = step
        if self.writer is None:
            self.writer = self.open_writer(step)
            self.writer.add_text("settings", f"```\n{self.settings}\n```", step)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, result: Mapping[str, float], *, succeeded: bool) -> None:
        """Log the result at the last step and close the file."""
        self.log(result, self.step)
        self.writer.close()


class MlflowRun:
    """A run of MLflow."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        import mlflow  # noqa: PLC0415

        self.mlflow, options = mlflow, start["options"]
        if "uri" in options:
            mlflow.set_tracking_uri(options["uri"])
        experiment = mlflow.set_experiment(options["experiment"])
        if start["state"]:
            run = mlflow.start_run(run_id=start["state"]["id"])
        else:
            run = mlflow.start_run(run_name=options.get("name", start["name"]))
            mlflow.log_params(dict(start["settings"]))  # they cannot be changed later
        self.state = {"id": run.info.run_id}
        uri = mlflow.get_tracking_uri()
        self.location = f"run {run.info.run_id} of experiment '{experiment.name}' at {uri}"

    def log(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Log one step."""
        allowed = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in metrics.items()}
        self.mlflow.log_metrics(allowed, step=step)

    def end(self, result: Mapping[str, float], *, succeeded: bool) -> None:
        """Log the result and close the run."""
        if result:
            self.log(result, None)
        self.mlflow.end_run("FINISHED" if succeeded else "FAILED")


TRACKER_RUNS: Mapping[str, Callable[[Mapping[str, Any]], TrackerRun]] = {
    "wandb": WandbRun,
    "trackio": TrackioRun,
    "tensorboard": TensorBoardRun,
    "mlflow": MlflowRun,
}
