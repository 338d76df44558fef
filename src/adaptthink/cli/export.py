"""`adaptthink export`: the model of a run as a folder for the hub, and onto it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, ModelCard, get_token, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from adaptthink.cli.console import console
from adaptthink.dial.stored import STORED, read_dial, write_dial
from adaptthink.errors import UserError, hide_secret
from adaptthink.models.embedded import EMBEDDED
from adaptthink.models.loading import is_hub_id
from adaptthink.report import CARD_HEADING
from adaptthink.storage.jsonl import read_object
from adaptthink.storage.runs import CONFIG, replace_folder, write_json

CARD = "README.md"
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")  # files of the base model that go with it
LICENCE_KEYS = ("license", "license_name", "license_link")  # of a card
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")  # of a whole model
EMBEDDED_LICENCE = "mit"  # this package's

Lora = Literal["merged", "apart"]


@dataclass(frozen=True, slots=True)
class Base:
    """The model that was trained: its name on the hub, if it has one, and the licence that it is under."""

    name: str
    hub_id: str | None
    licence: dict[str, str]  # keys of a card; empty if it is not known
    files: tuple[Path, ...]


def export_job(
    run: Path, output: Path, *, lora: Lora, base: str | None, licence: str | None, push: str | None, private: bool
) -> dict[str, Any]:
    """Write the folder, put it onto the hub if a repository is named, and print what it lacks."""
    settings = read_object(run / CONFIG, remedy="restore the file")
    model, adapter = run / "model", run / "adapter"
    if not model.is_dir():
        raise UserError(f"'{run}' holds no model: its training has not ended; continue it with --resume")
    if lora == "apart" and not adapter.is_dir():
        raise UserError(f"'{run}' holds no adapter, so there is none to keep apart; leave --lora out")
    found = find_base(str(settings.get("model", "")), base, licence)
    if lora == "apart" and found.hub_id is None:
        raise UserError(
            f"an adapter is loaded with its base, and '{found.name}' is no model of the hub; name it there with --base"
        )
    with replace_folder(output) as folder:
        shutil.copytree(adapter if lora == "apart" else model, folder)
        if lora == "apart":
            add_beside_adapter(model, folder, found)
        finish_dial(folder / STORED, push or output.name)
        finish_card(folder / CARD, found)
        for path in found.files:
            shutil.copy(path, folder / path.name)
    for line in list_lacks(output, found):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"exported to {output}", markup=False, soft_wrap=True)
    url = push_folder(output, push, private=private) if push else None
    return {"folder": str(output), "lora": lora, "base": found.hub_id, "license": found.licence or None, "url": url}


def find_base(name: str, hub_id: str | None, licence: str | None) -> Base:
    """Return the model that was trained and its licence, from its files, or from the hub if that answers."""
    hub_id = hub_id or (name if is_hub_id(name) else None)
    if name in EMBEDDED:
        return Base(name, hub_id, {"license": licence or EMBEDDED_LICENCE}, ())
    local = Path(name) if Path(name).is_dir() else None
    files = tuple(sorted(path for one in LICENCES for path in local.glob(one) if path.is_file())) if local else ()
    if licence:
        return Base(name, hub_id, {"license": licence}, files)
    card = local / CARD if local else fetch(hub_id, CARD)
    known = read_licence(card) if card and card.is_file() else {}
    if not files and hub_id and (fetched := fetch(hub_id, "LICENSE")):
        files = (fetched,)
    return Base(name, hub_id, known, files)


def read_licence(card: Path) -> dict[str, str]:
    """Return what a card says of its model's licence."""
    try:
        data = ModelCard.load(card).data.to_dict()
    except ValueError:  # no metadata that can be read
        return {}
    return {key: str(data[key]) for key in LICENCE_KEYS if data.get(key)}


def fetch(hub_id: str | None, name: str) -> Path | None:
    """Return a file of a model on the hub, as it was downloaded before or is now; None if it cannot be had."""
    if hub_id is None:
        return None
    try:
        return Path(hf_hub_download(hub_id, name))
    except (OSError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
        return None


def add_beside_adapter(model: Path, folder: Path, base: Base) -> None:
    """Add to an adapter what belongs to its model beside the weights, and name the base as others can load it."""
    weights = {path.name for one in WEIGHTS for path in model.glob(one)} | {CARD}
    for path in model.iterdir():
        if path.name not in weights:
            shutil.copy(path, folder / path.name)
    path = folder / "adapter_config.json"
    settings = read_object(path, remedy="train again")
    write_json(path, settings | {"base_model_name_or_path": base.hub_id})


def finish_dial(path: Path, name: str) -> None:
    """Take the folder of this machine out of a dial; raises UserError for a damaged one."""
    if path.exists():
        dial = read_dial(path)
        write_dial(path, replace(dial, setting=replace(dial.setting, model=name), problems=Path(dial.problems).name))


def finish_card(path: Path, base: Base) -> None:
    """Add base and licence to a card. Raises UserError where there is none."""
    if not path.is_file():
        raise UserError(f"'{path.parent}' has no card ({CARD}); train again, or write one")
    card = ModelCard.load(path)
    if base.hub_id:
        card.data.base_model = base.hub_id
    for key, value in base.licence.items():
        setattr(card.data, key, value)
    card.save(path)


def list_lacks(folder: Path, base: Base) -> Iterator[str]:
    """Yield a line for each thing that a reader of the hub's page would miss."""
    if not base.licence:
        yield f"the licence of '{base.name}' is not known, so the card names none; give it with --license"
    if base.hub_id is None and base.name not in EMBEDDED:
        yield "the card names no base model, as it is no model of the hub; give its name there with --base"
    if CARD_HEADING not in (folder / CARD).read_text(encoding="utf-8"):
        yield "the card has no results, as nothing has evaluated the model; adaptthink run does, and writes them"
    if not (folder / STORED).exists():
        yield "there is no dial, as no threshold was certified; adaptthink calibrate on the run's model makes one"


def push_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Put a folder onto the hub as one commit, into a repository that is made if need be; return its address.

    Raises UserError with what the hub says against it.
    """
    token = get_token()
    hide_secret(token)
    if not token:
        raise UserError("no token for the hub: run hf auth login, or set HF_TOKEN")
    api = HfApi(token=token)
    try:
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=made.repo_id, commit_message="Model trained with AdaptThink")
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"the hub does not take '{repository}': {reason}; the folder is in {folder}") from None
    console.print(f"on the hub: {made.url}", markup=False, soft_wrap=True)
    return str(made.url)
