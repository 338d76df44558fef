"""`adaptthink export`: a folder for the hub of a run's model, and onto a hub that is played by a local server."""

import base64
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from report_folders import made_up_dial, metrics, write_lines

import adaptthink as at
from adaptthink.cli import export
from adaptthink.config.schema import TrainConfig
from adaptthink.dial.stored import read_dial, write_dial
from adaptthink.models.card import write_card
from adaptthink.models.loading import TINY

TOKEN = "hf_0123456789abcdefghij"
WEIGHTS = "model.safetensors"
COMMIT = "1" * 40


def make_run(folder, *, model="tiny", adapter=False, results=True, dial=True, **settings):
    """The folder of a training that has ended, with the embedded model as what came out of it."""
    folder.mkdir(parents=True)
    config = TrainConfig(model=model, steps=4, **settings)
    (folder / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    write_lines(folder / "metrics.jsonl", metrics(4))
    shutil.copytree(TINY, folder / "model", ignore=shutil.ignore_patterns("made_with.json"))
    write_card(folder / "model", config, backend="native")
    if results:
        card = folder / "model" / "README.md"
        card.write_text(f"{card.read_text()}\n\n## Evaluation\n\n| row | 98.5 (95.5–99.0) |\n|---|---|\n")
    if dial:
        write_dial(folder / "model" / "adaptthink.json", made_up_dial())
        content = json.loads((folder / "model" / "adaptthink.json").read_text())
        content["setting"]["model"], content["problems"] = str(folder / "model"), str(folder / "mine.jsonl")
        (folder / "model" / "adaptthink.json").write_text(json.dumps(content))
    if adapter:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights of the adapter")
        (folder / "adapter" / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(folder)})
        )
        write_card(folder / "adapter", config, backend="native")
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Nothing is to be had from the hub, as without a network."""

    def refuse(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(export, "hf_hub_download", refuse)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_folder_is_a_model_with_its_dial_and_card(run, tmp_path):
    folder = make_run(tmp_path / "r")
    status, out, err = run("export", folder, "--json", tmp_path / "e.json")
    assert (status, err) == (0, "")
    assert out == f"exported to {folder / 'export'}\n"
    made = folder / "export"
    assert names(made) == names(folder / "model")
    assert (made / WEIGHTS).read_bytes() == (TINY / WEIGHTS).read_bytes()
    assert at.load(made).template.close == "</think>"
    dial = read_dial(made / "adaptthink.json")
    assert (dial.threshold, dial.setting.model, dial.problems) == (made_up_dial().threshold, "export", "mine.jsonl")
    card = ModelCard.load(made / "README.md")
    assert card.data.license == "mit"  # of the embedded model
    assert card.data.base_model is None
    assert "98.5 (95.5–99.0)" in card.text
    for path in made.iterdir():
        assert path.suffix == ".safetensors" or str(tmp_path) not in path.read_text()
    assert json.loads((tmp_path / "e.json").read_text())["url"] is None
    assert run("export", folder)[0] == 2  # it is there already


def test_the_licence_of_a_base_goes_with_it(run, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: mine\nlicense_link: http://a/b\n---\n# A base\n"
    )
    (base / "LICENSE.txt").write_text("all rights reserved")
    folder = make_run(tmp_path / "r", model=str(base))
    status, out, _ = run("export", folder, "--base", "org/base", "--output", tmp_path / "out")
    assert (status, out) == (0, f"exported to {tmp_path / 'out'}\n")
    data = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "mine", "http://a/b")
    assert data["base_model"] == "org/base"
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "all rights reserved"


def test_the_licence_of_a_base_on_the_hub_is_fetched(run, tmp_path, monkeypatch):
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: apache-2.0\n---\n")
    asked = []

    def fetch(hub_id, name):
        asked.append((hub_id, name))
        if name != "README.md":
            raise OSError("404")
        return str(card)

    monkeypatch.setattr(export, "hf_hub_download", fetch)
    assert run("export", make_run(tmp_path / "r", model="org/base"))[0] == 0
    assert asked == [("org/base", "README.md"), ("org/base", "LICENSE")]
    card = ModelCard.load(tmp_path / "r" / "export" / "README.md")
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "org/base")


def test_what_a_page_would_lack_is_said(run, tmp_path):
    folder = make_run(tmp_path / "r", model=str(tmp_path / "gone"), results=False, dial=False)
    status, out, _ = run("export", folder)
    assert status == 0
    for words in ("the licence of", "names no base model", "the card has no results", "there is no dial"):
        assert words in out
    shutil.rmtree(folder / "export")
    _, out, _ = run("export", folder, "--license", "apache-2.0", "--base", "org/base")
    assert "licence" not in out
    assert "base model" not in out
    assert ModelCard.load(folder / "export" / "README.md").data.license == "apache-2.0"


def test_an_adapter_is_merged_or_kept_apart(run, tmp_path):
    folder = make_run(tmp_path / "r", model="org/base", adapter=True, lora_rank=4)
    assert run("export", folder, "--output", tmp_path / "merged")[0] == 0
    assert "adapter_config.json" not in names(tmp_path / "merged")
    assert WEIGHTS in names(tmp_path / "merged")
    assert run("export", folder, "--lora", "apart", "--output", tmp_path / "apart")[0] == 0
    apart = tmp_path / "apart"
    tokens = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert names(apart) == tokens | {
        "README.md", "adaptthink.json", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    assert json.loads((apart / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    assert ModelCard.load(apart / "README.md").data.get("library_name") == "peft"
    assert str(tmp_path) not in (apart / "adapter_config.json").read_text()


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({}, ("--lora", "apart"), "holds no adapter, so there is none to keep apart; leave --lora out"),
        ({"adapter": True}, ("--lora", "apart"), "'tiny' is no model of the hub; name it there with --base"),
        ({}, ("--private",), "--private has no effect: nothing is pushed"),
    ],
)
def test_what_cannot_be_exported_is_one_line(run, tmp_path, change, flags, message):
    folder = make_run(tmp_path / "r", **change)
    status, _, err = run("export", folder, *flags)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    assert not (folder / "export").exists()


def test_a_training_that_has_not_ended_and_a_damaged_dial_are_one_line(run, tmp_path):
    folder = make_run(tmp_path / "r")
    (folder / "model" / "adaptthink.json").write_text("{")
    assert "adaptthink.json: damaged" in run("export", folder)[2]
    assert not (folder / "export").exists()
    shutil.rmtree(folder / "model")
    assert "its training has not ended" in run("export", folder)[2]


# ---- the hub --------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """What huggingface_hub calls to make a repository and to commit to it; large files go to another address."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.files, self.stored, self.tokens, self.refusal = {}, {}, {}, set(), None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def read(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        body, hub = self.read(), self.server
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refusal:
            return self.answer({"error": f"{hub.refusal} {self.headers.get('Authorization')}"}, 403)
        if self.path == "/api/repos/create":
            call = json.loads(body)
            name = f"{call['organization']}/{call['name']}" if call.get("organization") else call["name"]
            hub.repositories[name] = call
            return self.answer({"url": f"{hub.url}/{name}", "name": name})
        if self.path.endswith("/preupload/main"):
            paths = [one["path"] for one in json.loads(body)["files"]]
            modes = {path: "lfs" if path == WEIGHTS else "regular" for path in paths}
            return self.answer(
                {"files": [{"path": one, "uploadMode": modes[one], "shouldIgnore": False} for one in paths]}
            )
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {"oid": one["oid"], "size": one["size"], "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if self.path.endswith("/commit/main"):
            for line in body.splitlines():
                row = json.loads(line)
                value = row["value"]
                if row["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif row["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.stored[value["oid"]]
            return self.answer(
                {"commitUrl": f"{hub.url}/me/mine/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        return self.answer({}, 404)

    def do_PUT(self):
        body = self.read()
        self.server.stored[hashlib.sha256(body).hexdigest()] = body
        self.answer({})

    def do_GET(self):
        self.answer({"id": "me/mine", "sha": "0" * 40, "siblings": []} if "/api/models/" in self.path else {}, 200)


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(export, "HfApi", lambda **options: huggingface_hub.HfApi(endpoint=server.url, **options))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_folder_is_pushed_whole(run, tmp_path, hub):
    folder = make_run(tmp_path / "r", model="org/base", results=False)
    status, out, err = run("export", folder, "--push", "me/mine", "--private", "--license", "mit")
    assert status == 0, err
    assert f"on the hub: {hub.url}/me/mine" in out
    assert hub.repositories["me/mine"]["visibility"] == "private"
    made = folder / "export"
    assert {name: content for name, content in hub.files.items() if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in made.iterdir()
    }
    assert json.loads(hub.files["adaptthink.json"])["setting"]["model"] == "me/mine"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in out


def test_what_the_hub_refuses_is_one_line_without_the_token(run, tmp_path, hub):
    hub.refusal = "you may not"
    folder = make_run(tmp_path / "r")
    status, out, err = run("export", folder, "--push", "me/mine")
    assert (status, err.count("\n")) == (2, 1)
    assert "the hub does not take 'me/mine': " in err
    assert f"the folder is in {folder / 'export'}" in err
    assert TOKEN not in out + err
    status, _, err = run("export", folder, "--push", "me/mine/too", "--output", tmp_path / "again")
    assert (status, err.count("\n")) == (2, 1)


def test_without_a_token_nothing_is_pushed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "get_token", lambda: None)
    monkeypatch.setattr(export, "HfApi", lambda **options: SimpleNamespace())
    status, _, err = run("export", make_run(tmp_path / "r"), "--push", "me/mine")
    assert status == 2
    assert "no token for the hub: run hf auth login, or set HF_TOKEN" in err
