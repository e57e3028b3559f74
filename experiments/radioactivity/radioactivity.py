"""`assay radioactivity`: does a model that was trained on marked text show it? (Sander et al., NeurIPS 2024, arXiv:2402.14904)

A student, trained before by somebody else, learns from the texts of a teacher, a share of them marked. Then he is asked:
  closed  he writes by himself, unmarked, and his text is scored under the owner's key
  open    he reads fresh marked text and his most likely next id is scored ("reading"; needs his logits)
A list of green ids is no new evidence the second time: closed, each pair of window and id is scored once in the whole corpus and
none that stands in a prompt; open, each window once. The control is the same student of the same teacher's unmarked text;
strangers' keys are a second null. The paper's filter, windows that stand in the lessons, is left out: the lessons are marked, so
what they hold depends on the key.

Suffixes: N texts of training, R texts of the probe, P ids of a prompt, T ids of a text, L = P + T, H ids of a window.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...attacks.llm.imitate import lessons
from ...core.errors import ConfigError
from ...core.examples import Examples
from ...core.secret import Secret, seed_for
from ...core.suspects import labels, logits, texts
from ...kernels.text_dedup import first_of_runs, window_keys
from ...watermarks.llm.corpus import Texts
from ...watermarks.llm.kgw import Kgw
from ...zoo.training import Trainer
from ..cache import code_digest
from ..environment import environment
from ..people import NOBODY, clean, timed, training
from ..trial import Trial
from .design import Arm, Design

COUNTED = 0.75
"""Of the windows of unmarked text: as many as marked text, which repeats itself more, is sure to hold."""
STEPS = 6  # points of the curve over scored ids, each twice as far as the one before


@dataclass(frozen=True)
class Teacher:
    """The owner's model and its texts, written once for all arms of a mark."""

    trial: Trial
    design: Design

    def __post_init__(self) -> None:
        """ConfigError for texts that no student could read: before anything is trained."""
        design, inputs = self.design, self.trial.task.attacker.inputs
        if inputs.is_floating_point():
            raise ConfigError(f"{self.trial.task.name} has no texts; set task=lm_tiny")
        if design.prompt > inputs.shape[1]:
            raise ConfigError(
                f"prompts of {design.prompt} ids are longer than the task's windows; set --prompt={inputs.shape[1]} or less"
            )
        context = int(self.trial.task.fresh(None).context)  # type: ignore[arg-type]
        if design.prompt + max(2, design.tokens) - 1 > context:
            raise ConfigError(
                f"prompts of {design.prompt} ids and texts of {design.tokens} are longer than the model's context of {context}; "
                f"set --tokens and --prompt to {context + 1} or less in sum"
            )

    @property
    def scheme(self) -> Kgw:
        """ConfigError for another scheme, or lists that do not hang on the whole window."""
        found = self.trial.watermark
        if not isinstance(found, Kgw) or found.window != "left":
            raise ConfigError(
                "radioactivity is measured on green lists of whole windows; set watermark=llm/kgw"
            )
        return found

    @cached_property
    def model(self) -> nn.Module:
        return clean(self.trial, self.trial.seed)[0]

    @property
    def secret(self) -> Secret:
        return Secret.simulated(self.trial.seed, "owner")

    def prompts(self, windows_NW: Tensor, count: int) -> Tensor:
        """(count, P), the beginnings of the first windows. ConfigError where there are too few."""
        if len(windows_NW) < count:
            raise ConfigError(
                f"expected {count} windows to take prompts from, the task has {len(windows_NW)}; "
                "set --texts or --probes lower"
            )
        return windows_NW[:count, : self.design.prompt]

    @cached_property
    def taught_NP(self) -> Tensor:
        return self.prompts(self.trial.task.attacker.inputs, self.design.texts)

    @cached_property
    def probes_RP(self) -> Tensor:
        """Of the owner's text: no lesson begins with them."""
        return self.prompts(self.trial.task.owner.inputs, self.design.probes)

    def written(self, prompts: Tensor, purpose: str, marked: bool) -> Tensor:
        model = self.model
        if marked:
            key = self.scheme.keygen(self.trial.task, self.secret, model)
            model = self.scheme.embed(model, key, self.trial.task, self.trainer(purpose))
        seed = seed_for(self.trial.seed, "radioactivity", purpose)
        return texts(model, prompts, self.design.tokens, seed, self.trial.hardware.device)

    @cached_property
    def marked_NT(self) -> Tensor:
        return self.written(self.taught_NP, "lessons", marked=True)

    @cached_property
    def plain_NT(self) -> Tensor:
        return self.written(self.taught_NP, "lessons", marked=False)

    @cached_property
    def read_RT(self) -> Tensor:
        return self.written(self.probes_RP, "reading", marked=True)

    @cached_property
    def windows(self) -> int:
        """How many the student is asked about: COUNTED of those in unmarked text to the same prompts."""
        plain_RT = self.written(self.probes_RP, "reading", marked=False)
        whole_RL = torch.cat([self.probes_RP, plain_RT], 1)
        return int(COUNTED * len(new_windows(whole_RL, self.design.prompt, self.scheme.width)))

    def trainer(self, purpose: str) -> Trainer:
        return Trainer(
            self.trial.hardware, self.trial.task.recipe, seed_for(self.trial.seed, "radioactivity", purpose)
        )

    def mixed(self, share: float) -> Examples:
        """The lessons, a share of them marked: a larger share holds all the marked texts of a smaller one."""
        generator = torch.Generator().manual_seed(seed_for(self.trial.seed, "radioactivity", "mixed"))
        rank_N = torch.randperm(len(self.taught_NP), generator=generator)
        count = self.design.marked(share)
        if not count:
            return lessons(self.taught_NP, self.plain_NT)
        if count == len(rank_N):
            return lessons(self.taught_NP, self.marked_NT)
        chosen_N1 = (rank_N < count)[:, None]
        return lessons(self.taught_NP, torch.where(chosen_N1, self.marked_NT, self.plain_NT))

    def student(self, arm: Arm) -> tuple[nn.Module, dict[str, Any]]:
        """A model of nobody, trained on; from the cache where the same one was trained before. The control knows no mark."""
        trial, design = self.trial, self.design
        recipe = replace(trial.task.recipe, epochs=design.epochs, lr=design.lr)
        mark = trial.spec.config["watermark"] if arm.share else None
        lesson = {
            name: value for name, value in asdict(design).items() if name not in ("probes", "strangers")
        }
        config = {**training(trial, trial.seed), "radioactivity": lesson, "share": arm.share, "mark": mark}

        def train(fit: Trainer) -> nn.Module:
            start = clean(trial, NOBODY + 1)[0]
            return fit(start, self.mixed(arm.share), recipe=recipe, label=f"student, {arm.share:.0%} marked")

        make = timed(train, self.trainer("student"))
        code = code_digest(type(self.scheme), Teacher)
        return trial.cache.model(config, code, make, lambda: trial.task.fresh(None))


def measured(teacher: Teacher, arm: Arm) -> dict[str, Any]:
    """The record of one arm."""
    started, cpu = time.perf_counter(), time.process_time()
    student, facts = teacher.student(arm)
    return {
        **asdict(arm),
        "seed": teacher.trial.seed,
        "marked_texts": teacher.design.marked(arm.share),
        "closed": told(teacher, closed(teacher, student)),
        "open": told(teacher, opened(teacher, student)),
        "lessons": told(teacher, Texts.written(teacher.taught_NP, teacher.marked_NT)),
        "perplexity": perplexity(student, teacher.trial.task.test),
        "steps": facts["steps"],
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "environment": environment(teacher.trial.hardware, code_digest(Kgw, Teacher)),
    }


def closed(teacher: Teacher, student: nn.Module) -> Texts:
    """What he writes to the probe's prompts; his prompts' windows are never scored."""
    seed = seed_for(teacher.trial.seed, "radioactivity", "probe")
    written_RT = texts(student, teacher.probes_RP, teacher.design.tokens, seed, teacher.trial.hardware.device)
    return Texts.written(teacher.probes_RP, written_RT)


def opened(teacher: Teacher, student: nn.Module) -> Texts:
    """A text of H + 1 ids for each different window after which a marked id stands in what he reads: the window, and what he
    expects after it where it stands so for the first time."""
    whole_RL = torch.cat([teacher.probes_RP, teacher.read_RT], 1)
    expected_RL = labels(student, whole_RL[:, :-1], teacher.trial.hardware.device)
    prompt, width = teacher.design.prompt, teacher.scheme.width
    return first_guesses(whole_RL, expected_RL, prompt, width, teacher.windows)


def first_guesses(whole_RL: Tensor, expected_RL: Tensor, prompt: int, width: int, count: int) -> Texts:
    """What is expected after the first `count` windows of marked text; nothing where it holds fewer.

    The prompts are unmarked and know nothing of the key, so only what is read after them can give a list away. Take the windows
    in the order of their first marked occurrence: all that was written before depends on the lists of earlier windows alone, hence
    so does what a student expects who is independent of the key, and the list of this window is a fresh draw. So his hits among the
    first n windows are Bin(n, gamma), exactly, for an n that knows nothing of the key. The number of windows that a marked text
    holds is the key's too: with all of them p <= 0.01 came in 1.5 % of simulated keys on one text of 40 ids.
    """
    at_Q2 = new_windows(whole_RL, prompt, width)
    row_Q, place_Q = (at_Q2[:count] if len(at_Q2) >= count else at_Q2[:0]).T
    windows_QH = whole_RL[row_Q[:, None], place_Q[:, None] + torch.arange(-width, 0)]
    ids_QI = torch.cat([windows_QH, expected_RL[row_Q, place_Q - 1, None]], 1)
    full_Q, prompt_Q = (torch.full((len(ids_QI),), size) for size in (width + 1, width))
    return Texts(ids_QI, full_Q, prompt_Q, corpus=True)


def new_windows(whole_RL: Tensor, prompt: int, width: int) -> Tensor:
    """(Q, 2): the row and place of the id after each different window, where one stands after it that is no prompt's."""
    begin = max(prompt, width)
    keys_RT = window_keys(whole_RL, width)[:, begin:]
    new_RT = first_of_runs(keys_RT.reshape(1, -1)).reshape(keys_RT.shape)
    return new_RT.nonzero() + torch.tensor([0, begin])


def told(teacher: Teacher, corpus: Texts) -> dict[str, Any]:
    """z and log10 p of the owner's key by the exact tail, the best of the strangers', and how both grow with what is read."""
    design, scheme, vocabulary = teacher.design, teacher.scheme, teacher.trial.task.classes
    secrets = [Secret.simulated(teacher.trial.seed, "random key", k) for k in range(design.strangers)]
    found = scheme.examine(corpus, [teacher.secret, *secrets], vocabulary)
    rows = len(corpus.ids_BT)
    counts = sorted({max(1, rows // 2**i) for i in range(STEPS)})
    curve = [scheme.examine(first(corpus, n), [teacher.secret], vocabulary) for n in counts]
    strangers = found.log10_p[0, 1:]
    return {
        "scored": int(found.scored[0, 0]),
        "z": finite(found.statistic[0, 0]),
        "log10_p": float(found.log10_p[0, 0]),
        "strangers": {
            "count": len(strangers),
            "least": float(strangers.min()),
            "at_1e-2": int((strangers <= -2).sum()),
        },
        "curve": [[int(one.scored[0, 0]), float(one.log10_p[0, 0])] for one in curve],
    }


def first(corpus: Texts, count: int) -> Texts:
    return replace(
        corpus,
        ids_BT=corpus.ids_BT[:count],
        lengths_B=corpus.lengths_B[:count],
        prompt_B=corpus.prompt_B[:count],
    )


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@torch.no_grad()
def perplexity(model: nn.Module, test: Examples) -> float:
    """On human text."""
    return float(functional.cross_entropy(logits(model, test.inputs), test.targets).exp())
