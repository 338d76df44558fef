"""What SECURITY.md promises: no code of a model's is run, keys are shown nowhere, texts of models stay texts."""

import ast
import json
import pickle
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import httpx2 as httpx
import pytest
from chat_server import serving, stream
from completions_server import FakeServer, running
from report_folders import HOSTILE, TRAINED, made_up_dial, make_evaluation, make_run, samples, summary, write_samples

import adaptthink as at
from adaptthink import api
from adaptthink.cli.console import EscapingConsole
from adaptthink.config.chat import ChatConfig
from adaptthink.config.resolve import resolve, resolve_evaluation
from adaptthink.config.schema import EngineConfig, ServeConfig
from adaptthink.dial.stored import write_dial
from adaptthink.engines import openai
from adaptthink.errors import UserError
from adaptthink.models.loading import TINY, load_policy, load_tokenization, load_tokenizer
from adaptthink.report import write_report
from adaptthink.serving.upstream import Upstream, make_refusal

KEY = "sk-live-0123456789abcdef"
SOURCE = Path(at.__file__).parent


# ---- code -----------------------------------------------------------------------------------------------------------


RUNS_CODE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle", "cPickle", "dill", "joblib", "marshal",
    "shelve", "cloudpickle", "torch.load", "torch.save", "np.load", "numpy.load", "yaml.load", "pandas.read_pickle",
}  # fmt: skip
FLAGS = {"shell", "trust_remote_code", "allow_pickle"}


def find_running_code(source):
    """Names of calls, imports and arguments that would run what a file or a text holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from (name for name in names if name.split(".")[0] in RUNS_CODE)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            yield from (name for _ in [0] if name in RUNS_CODE)
            yield from (
                f"{one.arg} of {name}"
                for one in node.keywords
                if one.arg in FLAGS and ast.unparse(one.value) != "False"
            )
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in FLAGS and ast.unparse(value) != "False":
                    yield f"{key.value} in a dict"


def test_nothing_in_the_package_runs_what_a_file_holds():
    found = {path.name: list(find_running_code(path.read_text(encoding="utf-8"))) for path in SOURCE.rglob("*.py")}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "torch.load(path)", "np.load(path, allow_pickle=True)",
        "eval(text)", "subprocess.run(line, shell=True)", "load(x, trust_remote_code=True)",
        "options = {'trust_remote_code': asked}",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source):
    assert len(list(find_running_code(source))) >= 1


@pytest.fixture
def model(tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        path.chmod(0o644)
    return tmp_path / "model"


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refuse_everywhere(model, marker, match):
    config = EngineConfig(model=str(model))
    for load in (load_policy, lambda name: load_policy(name, generation_only=True)):
        with pytest.raises(UserError, match=match):
            load(str(model))
    assert not api.doctor(str(model)).ok
    assert not marker.exists()
    return config


def test_code_in_a_models_folder_is_not_run(model, tmp_path):
    marker = tmp_path / "ran"
    for name in ("configuration_x", "modeling_x", "tokenization_x"):
        (model / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\nclass X: pass\n")
    own = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    edit(model / "config.json", model_type="own", auto_map=own)
    edit(model / "tokenizer_config.json", tokenizer_class="X", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    config = refuse_everywhere(model, marker, "cannot load")
    for load in (load_tokenizer, lambda name: load_tokenization(config)):
        with pytest.raises(UserError):
            load(str(model))
    assert not marker.exists()


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_in_a_format_that_can_hold_code_are_refused(model, tmp_path):
    marker = tmp_path / "ran"
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Payload(marker)}))
    refuse_everywhere(model, marker, r"model\.safetensors")


def test_a_data_set_names_no_file_outside_of_its_folder(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"prompt": "1+1=?", "answer": "2"}\n')
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").write_text('{"_data_files": [{"filename": "../other.jsonl"}]}')
    with pytest.raises(UserError, match=r"state\.json: damaged"):
        at.load_problems(str(tmp_path / "set"))


# ---- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    yield from serving(monkeypatch)


def assert_nowhere(folder, *texts):
    for text in texts:
        assert KEY not in text
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_chat_endpoints_key_is_shown_nowhere(server, run, tmp_path, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "p.jsonl").write_text('{"prompt": "1+1=?", "answer": "2"}\n')
    echo = json.dumps({"error": {"message": f"Bearer {KEY} " + "x" * 400}}).encode()
    server.default = stream({"content": "\\boxed{2}"}) if status == 200 else (status, {}, echo)
    ended, out, err = run(
        "evaluate", "m", "--chat", server.url, "--modes", "auto", "--problems", tmp_path / "p.jsonl",
        "--output", tmp_path / "e", "--json", tmp_path / "e.json", "--max-think-tokens", "64",
    )  # fmt: skip
    assert server.calls[0].headers["Authorization"] == f"Bearer {KEY}"
    assert ended == (0 if status == 200 else 2)
    assert ("***" in err) == (status != 200)
    assert_nowhere(tmp_path, out, err)


def test_a_vllm_servers_key_is_shown_nowhere(run, tmp_path, monkeypatch):
    monkeypatch.setenv(openai.KEY_VARIABLE, KEY)
    with running(FakeServer()) as server:
        server.faults.extend([(400, {}, f"{KEY[:9]}, {KEY} " * 3)] * 9)
        ended, out, err = run(
            "presample", "toy_cpu", "--endpoint", f"{server.url}?token={KEY}", "--output", tmp_path / "r.jsonl"
        )
    assert ended == 2
    assert_nowhere(tmp_path, out, err)


def test_an_upstreams_key_reaches_neither_the_log_nor_a_client(policy_text, caplog):
    Upstream("http://127.0.0.1:9", policy_text, "tiny", key=KEY)
    for status in (400, 401, 500):
        body = json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()
        response = httpx.Response(status, request=httpx.Request("POST", "http://127.0.0.1:9/v1"))
        assert KEY not in str(make_refusal(response, body))
    assert "bad key ***" in caplog.text
    assert KEY not in caplog.text


@pytest.fixture
def policy_text():
    return load_tokenization(EngineConfig())


def test_settings_with_a_key_are_not_repeated(tmp_path, run, monkeypatch):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[serve]\napi_key = {{a = "{KEY}"}}\nupstream_key = ["{KEY}"]\n')
    with pytest.raises(UserError, match=r"^api_key = \*\*\*: .*upstream_key = \*\*\*: ") as caught:
        resolve("serve", ServeConfig, recipes=[recipe])
    assert KEY not in str(caught.value)
    with pytest.raises(UserError, match=r"^key_variable = \*\*\*: ") as caught:
        resolve_evaluation([], {"model": "m", "chat": "http://h/v1", "key_variable": KEY})
    assert KEY not in str(caught.value)
    status, out, err = run("serve", "tiny", "--api-key", KEY, "--port", "0", "--dry-run")
    assert (status, err) == (0, "")
    assert KEY not in out
    assert KEY not in repr(ServeConfig(api_key=(KEY,), upstream="http://a", upstream_key=KEY))
    assert "key_variable" not in repr(ChatConfig(chat="http://h/v1", model="m"))


# ---- texts of models ------------------------------------------------------------------------------------------------


TEXT = f"{HOSTILE}<img src=x onerror=alert(1)>![x](http://a/b)[y](javascript:z)\x1b[2J"


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def make_hostile_samples():
    """Samples whose every text is hostile."""
    rows = samples()
    for number, row in enumerate(rows):
        row |= {"prompt": TEXT, "gold": TEXT, "answer": row["answer"] and TEXT, "thinking": row["thinking"] and TEXT}
        row |= {"problem_id": f"{number}{TEXT}", "level": TEXT}
    return rows


def make_hostile_run(folder):
    make_run(folder, num_steps=3)
    levels = {TEXT: summary()["modes"]["adaptthink"]["levels"]["1"]}
    modes = {name: one | {"levels": levels} for name, one in summary()["modes"].items()}
    about = summary() | {"model": TEXT, "method": TEXT, "modes": modes, "seconds": {TEXT: 1.0}}
    (folder / "summary.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps({TEXT: TEXT, "list": [TEXT]}))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[1]["alarms"] = {TEXT: TEXT}
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    write_samples(folder / TRAINED, make_hostile_samples())
    return folder


def make_hostile_evaluation(folder):
    make_evaluation(folder, model=TEXT, fingerprint=TEXT, prompt_date=TEXT)
    write_samples(folder, make_hostile_samples())
    about = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(about | {"config": {TEXT: TEXT}, "advice": [TEXT]}))
    write_dial(folder / "dial.json", made_up_dial())
    edit(folder / "dial.json", problems=TEXT)
    return folder


@pytest.mark.parametrize("make", [make_hostile_run, make_hostile_evaluation])
def test_no_text_of_a_folder_becomes_markup(make, tmp_path):
    html, markdown = (path.read_text() for path in write_report(make(tmp_path / "<b>x")))
    tags = Tags(html).found
    assert [tag for tag, _ in tags].count("script") == 1  # the page's own
    assert not [tag for tag, _ in tags if tag in ("img", "b1", "iframe", "object")]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert not [one for _, one in tags if "javascript:" in (one.get("href") or "")]
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert "alert" in outside  # it is there, as text
    assert not re.search(r"(?<!\\)<(?:script|img)|(?<!\\)!\[|(?<!\\)\]\(", outside)


def test_a_text_moves_no_cursor_of_the_terminal():
    written = StringIO()
    shown = EscapingConsole(file=written, force_terminal=True, width=200, highlight=False)
    shown.print("model \x1b[2J\x1b]0;title\x07says\n\tno \u202e", style="bold", markup=False)
    text = written.getvalue()
    assert text.startswith("\x1b[1m")  # the console's own
    assert r"model \x1b[2J\x1b]0;title" in text
    assert "says" in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert text.count("\n") >= 1


# ---- the audit of dependencies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        ([("a", None), ("b", [])], 0, "1 of 2 pinned versions audited, 0 vulnerabilities"),
        ([("a", None), ("b", [{"id": "CVE-1", "fix_versions": ["2"]}])], 1, "b 1: CVE-1; fixed in 2"),
        ([("a", None), ("b", None)], 0, "not audited: the database of vulnerabilities cannot be reached (not found)"),
        ([], 0, "not audited: the database of vulnerabilities cannot be reached (no network)"),
    ],
)
def test_the_audit_fails_for_what_is_vulnerable_and_says_what_it_could_not_do(tmp_path, rows, status, said):
    """With a program in place of pip-audit that finds what the test says."""
    found = [
        {"name": name, "version": "1"} | ({"skip_reason": "not found"} if vulns is None else {"vulns": vulns})
        for name, vulns in rows
    ]
    (tmp_path / "scripts").mkdir()
    shutil.copy(Path(__file__).parents[1] / "scripts" / "audit.sh", tmp_path / "scripts")
    fake = tmp_path / ".venv-audit" / "bin" / "pip-audit"
    fake.parent.mkdir(parents=True)
    write = f"open(sys.argv[sys.argv.index('--output') + 1], 'w').write({json.dumps({'dependencies': found})!r})"
    action = write if rows else "print('no network')"
    fake.write_text(f"#!{sys.executable}\nimport sys\n{action}\n")
    fake.chmod(0o755)
    ended = subprocess.run([tmp_path / "scripts" / "audit.sh"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (status, "")
    assert said in ended.stdout
