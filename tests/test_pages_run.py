"""The pages do what they say: their commands and their Python run here, in miniature, each page in a folder of its own.

The blocks of a page run in their order. One that needs a GPU, a network, a server or hours has a comment directly
before it, `<!-- not run: REASON -->`; of it commands are only parsed and Python is only compiled.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from page_blocks import RUN, read_blocks
from pyarrow import parquet
from waiting import WAIT_SECONDS, wait_until

import adaptthink as at
from adaptthink import report
from adaptthink.cli.app import app, main
from adaptthink.models.loading import TINY

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = {"docs/reference/api.md", "docs/reference/commands.md"}  # by scripts/make_reference.py; tests/test_api.py
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if str(path.relative_to(ROOT)) not in WRITTEN
)
SHELL = "sh"
LANGUAGES = RUN | {"toml", "json", "yaml", "bibtex", "text"}

MINIATURE = {  # settings of every command; flags are stronger
    "steps": 1, "problems_per_step": 4, "problems_per_level": 2, "reference_samples": 2, "no_think_samples": 2,
    "max_think_tokens": 48, "max_no_think_tokens": 10, "temperature": 1.0, "probe_problems_per_level": 1,
}  # fmt: skip
APPENDED = {"--backend verl": "--dry-run"}  # verl is in an environment of its own
INSTEAD = {  # in all commands: what is elsewhere, or would take long
    "curl -s localhost:8000/": "curl -sf $PAGE_SERVER/",  # -f: an HTTP error is one here
    " --engine vllm": "",
    "--recipe r1_distill_1.5b --backend verl": "--recipe r1_distill_1.5b --model tiny --backend verl",
    "--problems math500 ": "--problems problems.jsonl ",
    "--problems math500,aime24 ": "--problems problems.jsonl ",
    "--problems-per-level 600": "--problems-per-level 2",
    "--steps 300 --traces-per-step 16": "--steps 1 --traces-per-step 2",
}
SMALL_TRL = "per_device_train_batch_size=4, use_cpu=True, bf16=False, max_steps=1, num_generations=4, "
SMALL_TRL += "max_completion_length=48, max_no_think_tokens=10"
INSTEAD_ON = {  # in the Python of single pages
    "README.md": {"steps=10, problems_per_step=40": "steps=1, problems_per_step=4", "per_level=20": "per_level=2"},
    "docs/tutorials/own_problems_and_reward.md": {
        "steps=30": "steps=1",
        "problems_per_step=30": "problems_per_step=4",
        "[:-100]": "[:-10]",
        "[-100:]": "[-10:]",
    },
    "docs/how-to/library.md": {
        "steps=3,\n    problems_per_step=16": "steps=1,\n    problems_per_step=4",
        "steps=2,\n    problems_per_step=8": "steps=1,\n    problems_per_step=4",
    },
    "docs/how-to/from_trl.md": {
        "per_device_train_batch_size=4, gradient_accumulation_steps=512": SMALL_TRL,
        'output="ref.jsonl"': 'output="ref.jsonl", samples=2, max_think_tokens=48, max_no_think_tokens=10',
    },
    "docs/how-to/trl.md": {
        "per_device_train_batch_size=4, gradient_accumulation_steps=512": SMALL_TRL,
        'problems="problems.jsonl")': 'problems="problems.jsonl", steps=1, problems_per_step=4)',
    },
}
OWN_MODELS = ("path/to/model", "path/to/original", "path/to/trained", "path/or/hub-id", "org/name", "FOLDER", "MODEL")
DEMO, EVALUATION = "runs/demo", "runs/demo/evaluations/adaptthink"
GIVEN = {  # folders and files that a page takes for given, beside runs/demo: which ones of the demo's they are here
    "docs/explanation/dial_online.md": {"runs/calibration": EVALUATION},
    "docs/how-to/report.md": {
        "runs/mine": DEMO, "runs/evaluation": EVALUATION, "runs/base": EVALUATION, "runs/trained": EVALUATION,
    },
    "docs/how-to/scaling.md": {"ref.jsonl": "runs/demo/reference.jsonl"},
}  # fmt: skip
SMALL = {"max_think_tokens": 48, "max_no_think_tokens": 16}
SUMS = [{"prompt": f"{a}+{b}=?", "answer": str(a + b), "level": 1} for a in range(11, 17) for b in (3, 5)]
RECIPE = 'model = "tiny"\nproblems = "problems.jsonl"\n[train]\nsamples_per_problem = 4\n'
CHECKED = ("pip", "make")  # programs whose arguments are looked up, and which are never run
OPERATORS = {"|", "&", "&&", "||", ";", ">", "<"}
NOT_CERTIFIED = 1  # of `calibrate`: so few problems certify nothing


# ---- reading pages --------------------------------------------------------------------------------------------------


def read_commands(text):
    """The commands of a block of shell: each with the lines that it has, and without comments."""
    commands, waiting = [], ""
    for line in text.splitlines():
        waiting += line + "\n"
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(waiting.replace("\\\n", " "), comments=True)
        except ValueError:  # within quotes
            continue
        if words:
            commands.append((waiting.replace("\\\n", " "), words))
        waiting = ""
    assert not waiting, f"this command does not end: {waiting}"
    return commands


def needs_a_shell(text, words):
    return words[0] != "adaptthink" or "$(" in text or bool(OPERATORS & set(words))


def check_words(words):
    """Check what can be checked of a command without running it."""
    words = list(itertools.takewhile(lambda word: not word.startswith(("$(", *OPERATORS)), words))
    while "=" in words[0]:
        words = words[1:] or ["true"]
    if words[0] == "adaptthink":
        app.parse_args(words[1:], print_error=False, exit_on_error=False)
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for found in re.findall(r"\.\[(.*?)\]", " ".join(words)):
            assert set(found.split(",")) <= set(extras), f"no such extra: {found}"
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), f"no such target: {words}"
    for word in words:
        if re.fullmatch(r"(scripts|examples|benchmarks)/[\w/.-]+\.(py|sh|yaml)", word):
            assert (ROOT / word).exists(), f"there is no {word}"


# ---- running them ---------------------------------------------------------------------------------------------------


def replace_all(text, replacements):
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def run_command(text, words, run, servers):
    if words == ["adaptthink", "demo"]:
        return  # its run is the fixture's
    if words[0] in CHECKED or (not shutil.which(words[0]) and words[0] == "curl"):  # which a bare Debian lacks
        check_words(words)
    elif words[:2] == ["adaptthink", "serve"]:
        servers.enter_context(serving(words))
    elif needs_a_shell(text, words):
        done = subprocess.run(
            ["bash", "-c", text],
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_SECONDS,
            env=make_environment(),
        )
        assert done.returncode == 0, f"{text}{done.stdout}{done.stderr}"
    else:
        status, out, err = run(*words[1:])
        assert status in {0, NOT_CERTIFIED * (words[1] == "calibrate")}, f"{text}{out}{err}"


def make_environment():
    """What a shell needs so that `adaptthink` and `python` are these ones."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(Path(at.__file__).parents[1])}


@contextmanager
def serving(words):
    """Run `adaptthink serve` on a free port, which $PAGE_SERVER has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *words, "--port", str(port)]
    with pytest.MonkeyPatch.context() as patch, Path("server.log").open("w") as log:
        patch.setenv("PAGE_SERVER", f"127.0.0.1:{port}")
        with subprocess.Popen(command, env=make_environment(), stdout=log, stderr=log) as server:
            try:
                wait_until(lambda: server.poll() is not None or "serving " in Path("server.log").read_text())
                assert server.poll() is None, Path("server.log").read_text()
                yield
            finally:
                server.terminate()


def run_page(name, blocks, run):
    """Run the blocks of a page in their order, in the current folder; its servers end with it."""
    with ExitStack() as servers:
        run_blocks(name, blocks, run, servers)


def run_blocks(name, blocks, run, servers):
    namespace = {"__name__": "__main__"}
    for block in blocks:
        where = f"{name}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: name the language of this block, one of {sorted(LANGUAGES)}"
        assert block.reason != "", f"{where}: a block that is not run has a reason"
        if block.language == "python":
            code = compile("\n" * block.line + replace_all(block.text, INSTEAD_ON.get(name, {})), name, "exec")
            if block.reason is None:
                exec(code, namespace)
        elif block.language == SHELL and block.reason is not None:
            for _, words in read_commands(block.text):
                check_words(words)
        elif block.language == SHELL:
            for text, words in read_commands(replace_all(block.text, INSTEAD)):
                more = [flag for part, flag in APPENDED.items() if part in text and flag not in words]
                run_command(text, [*words, *more], run, servers)


def give(name, text, demo):
    """Put what a page takes for given into the current folder."""
    for model in OWN_MODELS:
        if re.search(rf"(?<![\w/]){model}(?![\w/])", text):
            shutil.copytree(TINY, model)
    given = ({DEMO: DEMO} if DEMO in text else {}) | GIVEN.get(name, {})
    for path, source in given.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (demo / source).is_dir() else shutil.copy)(demo / source, path)
    Path("problems.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in SUMS))
    Path("recipe.toml").write_text(RECIPE)
    Path("responses.jsonl").write_text(json.dumps({"response": "So \\boxed{8}.", "reference_answer": "8"}) + "\n")
    Path("questions.txt").write_text("47+8=?\n\n12+8-3+4-7+5=?\n")
    Path("survey.csv").write_text('"question, in words",result\n12+5=?,17\n')
    rows = [
        {"prompt": [{"role": "user", "content": row["prompt"]}], "reward_model": {"ground_truth": row["answer"]},
         "extra_info": {"level": row["level"]}}
        for row in SUMS
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), "verl.parquet")
    if "my_rewards:" in text:
        Path("my_rewards.py").write_text(next(block.text for block in read_blocks(text) if block.language == "python"))


@pytest.fixture(scope="module", autouse=True)
def one_picture():
    """Draw one picture for all: what is on them is for tests/test_report.py."""
    draw, drawn = report.draw_picture, []

    def draw_once(plot):
        if not drawn:
            drawn.append(draw(plot))
        return replace(drawn[0], plot=plot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_picture", draw_once)
        yield


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with a run of the demo in miniature in it, whose model has a dial."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch, folder)
        patch.setattr(sys, "argv", ["adaptthink", "demo"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    dial = at.calibrate(folder / DEMO / "model", SUMS * 2, tolerance=90, output=folder / "dial", **SMALL)
    assert dial.threshold.certified
    return folder


def make_small(patch, folder):
    """Work in a folder, with an environment in which commands are small."""
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    for key, value in MINIATURE.items():
        patch.setenv(f"ADAPTTHINK_{key.upper()}", str(value))


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    """A folder to work in, small commands, and no network."""
    make_small(monkeypatch, tmp_path)
    look_up, others = socket.getaddrinfo, []

    def look_up_local(host, *args, **options):
        others.extend({host} - {"127.0.0.1", "localhost"})
        return look_up("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_local)
    sys.modules.pop("my_rewards", None)  # another test has a module of that name too
    yield
    sys.modules.pop("my_rewards", None)
    assert others == [], "a page needs the network"


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_says(name, demo, miniature, run):
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = read_blocks(text)
    assert text.count("\n<!-- not run") == sum(block.reason is not None for block in blocks), "a comment without block"
    if blocks:
        give(name, text, demo)
        run_page(name, blocks, run)


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("```sh\nadaptthink train nothing\n```", "no recipe 'nothing'"),
        ("```sh\nfalse | cat && false\n```", "false"),
        ("```python\n1 / 0\n```", "division by zero"),
        ("```\nls\n```", "page:1: name the language"),
        ("<!-- not run: -->\n```sh\nls\n```", "page:2: a block that is not run has a reason"),
        ("<!-- not run: hours -->\n```sh\nadaptthink train --stepz 3\n```", "stepz"),
        ("<!-- not run: hours -->\n```python\nfor\n```", "invalid syntax"),
        ("<!-- not run: hours -->\n```sh\nscripts/nothing.sh\n```", "there is no scripts/nothing.sh"),
        ("```sh\npip install '.[nothing]'\n```", "no such extra"),
        ("```sh\nmake nothing\n```", "no such target"),
        ("```sh\nadaptthink 'data\n```", "does not end"),
        ("<!-- not run: hours -->\n\nText.\n\n```sh\nfalse\n```", "false"),  # the comment is of nothing
    ],
)
def test_a_fault_is_found(page, fault, miniature, run):
    with pytest.raises(Exception, match=fault):
        run_page("page", read_blocks(page), run)


def test_what_is_marked_is_not_run(miniature, run):
    run_page("page", read_blocks("<!-- not run: hours -->\n\n```python\n1 / 0\n```\n"), run)
    run_page(
        "page", read_blocks("<!-- not run: hours -->\n```sh\nfalse\nA=1 adaptthink bench x \\\n --quick\n```"), run
    )


def test_replacements_are_of_something():
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    assert [old for old in INSTEAD if not any(old in page for page in pages.values())] == []
    assert [old for name, replaced in INSTEAD_ON.items() for old in replaced if old not in pages[name]] == []
