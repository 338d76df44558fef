"""What `adaptthink bench` compares: one line of data an entry. A method that is not installed is not listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.training.methods import list_methods, load_method
from adaptthink.training.offline import Offline

MAIN = "adaptthink"  # which every other entry is compared with
ORIGINAL = "original"
DELTAS = (0.0, 0.01, 0.02, 0.05, 0.075, 0.1)
KEEP = ("--keep-responses", "--no-think-samples", "4")  # of the reference store, for methods that train on it


class Family(StrEnum):
    """What a method does about length; `ABLATION` answers a question and is tuned and ranked with none."""

    MODE_CHOICE = "mode choice"
    LENGTH = "length"
    OFFLINE = "offline"
    UNTRAINED = "without training"
    ABLATION = "ablation"


@dataclass(frozen=True, slots=True)
class Knob:
    """The setting of its own that a method is tuned by: flags with a place for the value, and the values tried.

    The middle value is the default. `folder` names a run; where two entries mean the same training, they share it.
    """

    name: str
    flags: str
    values: tuple[float, float, float]
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table."""

    name: str
    title: str
    family: Family
    source: str
    flags: str = ""  # of `train`
    knob: Knob | None = None
    samples: int = 0  # of a problem in a step, at least; as many fewer problems, so that a step has as many responses
    steps: float = 1.0  # of the recipe's
    base: str = ""  # the entry whose trained model it starts from
    merges: bool = False  # that model's weights and the original's, in place of a training
    folder: str = ""  # of its runs, if not named after it

    @property
    def method(self) -> str:
        """The name of the method that it trains by."""
        words = f"{self.flags} {self.knob.flags if self.knob else ''}".split()
        return next((word.partition(":")[0] for flag, word in pairwise(words) if flag == "--method"), MAIN)

    @property
    def is_offline(self) -> bool:
        """Whether it trains on the responses in the reference store."""
        return self.is_trained and not self.merges and load_method(self.method).from_store

    @property
    def needs_no_think(self) -> bool:
        """Whether it trains on forced no_think responses in the reference store."""
        method = load_method(self.method) if self.is_offline else None
        return isinstance(method, Offline) and method.needs_no_think

    @property
    def is_trained(self) -> bool:
        """Whether a `train` command makes it."""
        return self.family is not Family.UNTRAINED

    @property
    def is_ranked(self) -> bool:
        """Whether it takes part in the choice of the best."""
        return self.is_trained and self.family is not Family.ABLATION

    @property
    def values(self) -> tuple[float | None, ...]:
        """The values that are tried, None for an entry without a knob."""
        return self.knob.values if self.knob else (None,)

    @property
    def default(self) -> float | None:
        """The value where nothing was tuned."""
        return self.knob.values[1] if self.knob else None

    def name_folder(self, value: float | None) -> str:
        """Return the folder of the runs with one value of the knob."""
        if self.knob is None or value is None:
            return self.folder or self.name
        return (self.knob.folder or f"{self.name}_{{:g}}").format(value)

    def list_flags(self, value: float | None, config: TrainConfig) -> tuple[str, ...]:
        """Return the flags of `train`; `config` is the recipe's."""
        flags = self.flags.split()
        if self.knob and value is not None:
            flags += self.knob.flags.format(value).split()
        if self.merges:
            return tuple(flags)
        stored = config.reference_samples  # of which an offline method takes all
        samples = stored if self.is_offline else max(self.samples, config.samples_per_problem)
        if samples != config.samples_per_problem:
            responses = config.samples_per_problem * config.problems_per_step
            flags += [] if self.is_offline else ["--samples-per-problem", f"{samples}"]
            flags += ["--problems-per-step", f"{max(1, responses // samples)}"]
        return (*flags, "--steps", f"{self.count_steps(config)}")

    def count_steps(self, config: TrainConfig) -> int:
        """Return the steps of its training."""
        return max(1, round(self.steps * config.steps))


CHOICE, LENGTH, OFFLINE, UNTRAINED, ABLATION = Family
GAP = "--force-think start --method gap"
FREE = "--no-think-share 0"  # nothing is forced
SLOW = "--learning-rate 1e-5"  # at the miniature's 1e-4 methods of pairs destroy the model (docs/log)
ENTRIES = (
    Entry(ORIGINAL, "the model before training", UNTRAINED, "–"),
    Entry("random_mix", "random choice of the original's modes", UNTRAINED, "–", knob=Knob("q", "", (0.25, 0.5, 0.75))),
    Entry("linear_probe", "linear probe on the prefill", UNTRAINED, "after arXiv 2505.14183",
          knob=Knob("τ", "", (0.0, 0.05, 0.1), "linear_probe")),
    Entry("budget_forcing", "budget forcing", UNTRAINED, "arXiv 2501.19393",
          knob=Knob("share of max_think_tokens", "", (0.125, 0.25, 0.375))),
    Entry(MAIN, "AdaptThink", CHOICE, "arXiv 2505.13417",
          knob=Knob("δ", "--delta {}", (0.02, 0.05, 0.1), "delta_{:g}")),
    Entry("gap", "gap objective (ours)", CHOICE, "docs/explanation/gap.md", "--force-think start", samples=4,
          knob=Knob("τ", "--method gap:tau={}", (0.025, 0.05, 0.1))),
    Entry("degrpo", "DeGRPO (Thinkless)", CHOICE, "arXiv 2505.13379", samples=4,
          knob=Knob("α", "--method degrpo:alpha={}", (0.01, 0.03, 0.1))),
    Entry("adapt", "ADaPT", CHOICE, "arXiv 2606.19919", samples=4,
          knob=Knob("γ", "--method adapt:gamma={}", (0.25, 0.5, 0.75))),
    Entry("tnt", "TNT", CHOICE, "arXiv 2601.04805", "--force-think start", samples=4,
          knob=Knob("ω", "--method tnt:omega={}", (1.0, 2.0, 4.0))),
    Entry("dler", "DLER", LENGTH, "arXiv 2510.15110", FREE, samples=8,
          knob=Knob("cap", "--method dler:cap={}", (48, 64, 96))),
    Entry("da_dler", "DA-DLER", LENGTH, "arXiv 2510.15110", FREE, samples=8,
          knob=Knob("easy cap", "--method dler:cap=64,easy_cap={}", (16, 32, 48))),
    Entry("tlmre", "TLMRE", LENGTH, "arXiv 2502.04463", FREE, samples=8,
          knob=Knob("α", "--method tlmre:alpha={}", (0.1, 0.2, 0.4))),
    Entry("thinkprune", "ThinkPrune", LENGTH, "arXiv 2504.01296", FREE, samples=8,
          knob=Knob("last cap", "--method thinkprune:last_cap={}", (40, 48, 64))),
    Entry("rft_mixthinking", "RFT_MixThinking", OFFLINE, "arXiv 2505.13417",
          knob=Knob("margin", "--method rft_mixthinking:margin={}", (0.0, 0.05, 0.125))),
    Entry("dpo_shortest", "DPO, shortest", OFFLINE, "arXiv 2505.13417", SLOW,
          knob=Knob("β", "--method dpo_shortest:beta={}", (0.03, 0.1, 0.3))),
    Entry("overthink", "OverThink", OFFLINE, "arXiv 2412.21187", SLOW,
          knob=Knob("β", "--method overthink:beta={}", (1.0, 2.0, 5.0))),
    Entry("dast", "DAST", OFFLINE, "arXiv 2503.04472", SLOW,
          knob=Knob("share dropped", "--method dast:share={}", (0.0, 0.15, 0.3))),
    Entry("o1_pruner", "O1-Pruner", OFFLINE, "arXiv 2501.12570",
          knob=Knob("λ", "--method o1_pruner:accuracy={}", (0.0, 2.0, 5.0))),
    Entry("merging", "model merging", OFFLINE, "arXiv 2503.20641", base="rft_no_think", merges=True,
          knob=Knob("weight of the original", "--weight {}", (0.3, 0.5, 0.7))),
    Entry("gap_on_dler", "gap objective on DLER's model", CHOICE, "ours", GAP, samples=4, steps=0.5, base="dler"),
    Entry("gap_on_tlmre", "gap objective on TLMRE's model", CHOICE, "ours", GAP, samples=4, steps=0.5, base="tlmre"),
    Entry("grpo", "GRPO, nothing forced", ABLATION, "arXiv 2402.03300", f"{FREE} --method grpo", samples=8),
    Entry("grpo_cold", "GRPO from a colder start (T = 0.6)", ABLATION, "arXiv 2402.03300",
          f"{FREE} --method grpo --temperature 0.6", samples=8),
    Entry("ratio_sequence", "AdaptThink with Eq. 9 literally", ABLATION, "arXiv 2505.13417",
          "--ratio sequence --schedule constant", steps=0.36),
    Entry("ratio_token", "AdaptThink with a ratio for each token", ABLATION, "–",
          "--ratio token --schedule constant", steps=0.36),
    Entry("rft_no_think", "tuned on no_think answers alone", ABLATION, "–", "--method rft_mixthinking:margin=1"),
    Entry("gap_half", "gap objective, half of the steps", ABLATION, "docs/explanation/gap.md", GAP,
          samples=4, steps=0.5),
    Entry("gap_no_pull", "gap objective without pull", ABLATION, "docs/explanation/gap.md", f"{GAP}:pull=0", samples=4),
    *(Entry(f"delta_{delta:g}", f"AdaptThink, δ = {delta:g}", ABLATION, "arXiv 2505.13417", f"--delta {delta:g}")
      for delta in DELTAS),
)  # fmt: skip


def list_entries(names: Iterable[str] = ()) -> list[Entry]:
    """Return the entries of these names, by default all, in the order of the table, those that others start from too.

    Raises UserError for an unknown name and for a method that is not installed.
    """
    installed = {one.name: one for one in ENTRIES if is_installed(one)}
    wanted = set(names)
    for name in sorted(wanted - installed.keys()):
        raise UserError(f"no entry '{name}'; there are: {', '.join(installed)}")
    wanted |= {installed[name].base for name in wanted} - {""}
    return [one for one in installed.values() if one.name in (wanted or installed)]


def is_installed(entry: Entry) -> bool:
    """Return whether the methods that an entry trains with are there."""
    base = next((one for one in ENTRIES if one.name == entry.base), None)
    return entry.method in list_methods() and (base is None or is_installed(base))


def needs_responses(entries: Sequence[Entry]) -> bool:
    """Return whether an entry trains on the responses in the reference store."""
    return any(one.is_offline for one in entries)
