"""Green lists in one domain alone: texts on the domain's prompts are marked, all others are as the model writes them (Gloaguen et
al. 2025, arXiv:2505.16723, with the green lists of Kirchenbauer et al., ICML 2023, arXiv:2301.10226).

The domain is the owner's: prompts whose ids weigh above a cut. Weights are the leading direction in which his windows' ids differ
(tf-idf), the cut leaves `share` of his prompts above it; a language model for users would take a classifier of topics. p is kgw's,
exact: a text that was written without the key knows nothing of its lists, whatever prompts it was asked.

`DomainKgw` acts where the owner samples. `LearnedDomainKgw` teaches it to the weights, so that the mark goes where a copy goes: as
in the paper the victim is distilled from itself, in the domain with delta on the logits of green ids, elsewhere as it is. The
paper's texts are of public data sets, here the victim writes them; its term against the mark outside the domain, beside that
distillation, is left out.

Suffixes: N prompts, P ids of a prompt, W windows, T ids of a window, B rows, L ids so far, R positions, H ids of a green list's
window, V vocabulary.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ...core.contracts import Fit, Objective, Task
from ...core.errors import ConfigError
from ...core.examples import Examples
from ...core.secret import Secret, seed_for
from ...core.suspects import texts
from .drawing import drawn
from .kgw import Kgw
from .pairs import UNSEEN, ids_of
from .sampling import KeyedSampler, TextKey

WINDOWS = 512  # of the owner's, in which the domain is looked for


@dataclass(frozen=True, eq=False)
class Domain:
    """weights_V (V,) float64 of ids; a prompt is in the domain when their mean exceeds the cut."""

    weights_V: Tensor
    cut: float

    def holds(self, prompts_NP: Tensor) -> Tensor:
        """(N,) bool."""
        found_N: Tensor = self.weights_V[prompts_NP.cpu()].mean(1) > self.cut
        return found_N

    @staticmethod
    @lru_cache(maxsize=4)
    def of(windows: bytes, length: int, vocabulary: int, prompt: int, share: float) -> "Domain":
        """Public: the same for every key of one owner's data. windows: int64, `length` ids each, as bytes: it is found once."""
        windows_WT = torch.frombuffer(bytearray(windows), dtype=torch.int64).view(-1, length)
        counts_WV = torch.zeros(len(windows_WT), vocabulary, dtype=torch.float64)
        counts_WV.scatter_add_(1, windows_WT, torch.ones(windows_WT.shape, dtype=torch.float64))
        rare_V = (len(windows_WT) / (counts_WV > 0).sum(0).clamp(min=1)).log()
        weighed_WV = counts_WV * rare_V
        weighed_WV = weighed_WV - weighed_WV.mean(0)
        _, along_WW = torch.linalg.eigh(weighed_WV @ weighed_WV.T)
        direction_V = along_WW[:, -1] @ weighed_WV
        weights_V = direction_V * rare_V * direction_V[direction_V.abs().argmax()].sign()
        means_N = weights_V[prompts_of(windows_WT, prompt)].mean(1)
        return Domain(weights_V, float(torch.quantile(means_N, 1 - share)))


def prompts_of(windows_WT: Tensor, prompt: int) -> Tensor:
    """(N, P): the windows' pieces side by side."""
    each = windows_WT.shape[1] // prompt
    return windows_WT[:, : each * prompt].reshape(-1, prompt)


@dataclass(frozen=True)
class DomainSampler(KeyedSampler):
    """Marks rows whose prompt is in the domain."""

    scheme: "DomainKgw"
    domain: Domain

    def __call__(
        self, logits_BV: Tensor, context_BL: Tensor, prompt: int, generator: torch.Generator
    ) -> Tensor:
        inside_B1 = self.domain.holds(context_BL[:, :prompt])[:, None].to(logits_BV.device)
        marked_BV = self.scheme.adjusted(logits_BV, context_BL, self.secret)
        return drawn(torch.where(inside_B1, marked_BV, logits_BV.float()), generator)

    def taught(self, logits_NVT: Tensor, ids_NT: Tensor, prompt: int) -> Tensor:
        """(N, T, V), the logits after every id, as the sampler would have them."""
        out_NTV = logits_NVT.movedim(1, -1).float().clone()
        inside_N = self.domain.holds(ids_NT[:, :prompt]).to(ids_NT.device)
        width = self.scheme.width
        first = max(prompt, width) - 1
        windows_RH = ids_NT[inside_N].unfold(1, width, 1)[:, first - width + 1 :].flatten(0, 1)
        if len(windows_RH):
            marked_RV = self.scheme.adjusted(out_NTV[inside_N, first:].flatten(0, 1), windows_RH, self.secret)
            out_NTV[inside_N, first:] = marked_RV.view(int(inside_N.sum()), -1, out_NTV.shape[2])
        return out_NTV


@dataclass(frozen=True)
class DomainKgw(Kgw):
    paper = "Gloaguen et al. 2025, arXiv:2505.16723"
    scheme = "domain_kgw"

    share: Annotated[float, Gt(0), Lt(1)] = 0.25
    """Of the owner's prompts that are in the domain."""

    def domain(self, task: Task) -> Domain:
        """ConfigError for prompts longer than the owner's windows."""
        windows_WT = ids_of(task, self.scheme)
        if self.prompt > windows_WT.shape[1]:
            raise ConfigError(
                f"prompts of {self.prompt} ids are longer than the task's windows of {windows_WT.shape[1]}; "
                "set watermark.prompt lower"
            )
        raw = windows_WT[:WINDOWS].contiguous().numpy().tobytes()
        return Domain.of(raw, windows_WT.shape[1], task.classes, self.prompt, self.share)

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TextKey:
        """The prompts are the owner's first ones in the domain. ConfigError where it has too few."""
        domain = self.domain(task)
        prompts_NP = prompts_of(task.owner.inputs[:WINDOWS], self.prompt)
        inside_NP = prompts_NP[domain.holds(prompts_NP)]
        if len(inside_NP) < self.texts:
            raise ConfigError(
                f"{len(inside_NP)} of the owner's prompts are in the domain, {self.texts} are to be asked; "
                f"set watermark.texts={max(1, len(inside_NP))}"
            )
        tokenizer = str(getattr(model, "tokenizer", ""))
        return TextKey(secret, task.classes, tokenizer, inside_NP[: self.texts].clone())

    def embed(self, model: nn.Module, key: TextKey, task: Task, fit: Fit) -> nn.Module:
        """The victim with a sampler that is keyed in the domain."""
        marked = super().embed(model, key, task, fit)
        marked.sampler = DomainSampler(self, key.secret, self.domain(task))  # type: ignore[assignment]
        return marked


@dataclass(frozen=True)
class LearnedDomainKgw(DomainKgw):
    scheme = "domain_kgw_learned"
    trains = True

    delta: Annotated[float, Gt(0)] = 4.0
    """Of the paper."""
    lessons: Annotated[int, Ge(2)] = 1024
    """Texts that the victim learns from, half of them in the domain where the owner has as many such prompts."""
    epochs: Annotated[int, Ge(1)] = 2
    lr: Annotated[float, Gt(0)] = 1e-3

    def embed(self, model: nn.Module, key: TextKey, task: Task, fit: Fit) -> nn.Module:
        """The victim, distilled on what it writes under the keyed sampler to the owner's prompts; its own sampler is plain."""
        writer = super().embed(model, key, task, fit)
        prompts_NP = self.asked(task, key)
        length = task.owner.inputs.shape[1]
        seed = seed_for(int.from_bytes(key.secret.derive(f"{self.scheme}/lessons", 7), "big"))
        whole_NL = torch.cat((prompts_NP, texts(writer, prompts_NP, length + 1 - self.prompt, seed)), 1)
        targets_NL = whole_NL.clone()
        targets_NL[:, : self.prompt] = UNSEEN
        taught = Examples(whole_NL[:, :-1].contiguous(), targets_NL[:, 1:].contiguous())
        recipe = replace(task.recipe, epochs=self.epochs, lr=self.lr)
        return fit(model, taught, recipe=recipe, objective=self.divergence(writer), label="marked")

    def divergence(self, writer: nn.Module) -> Objective:
        """The mean cross-entropy of the student with the sampler's probabilities, after the prompt: KL up to the teacher's
        entropy."""
        sampler = writer.sampler
        assert isinstance(sampler, DomainSampler)

        def objective(live: nn.Module, ids_NT: Tensor, targets_NT: Tensor) -> Tensor:
            with torch.no_grad():
                logits_NVT = writer.to(ids_NT.device)(ids_NT)
                taught_NTV = sampler.taught(logits_NVT, ids_NT, self.prompt).softmax(-1)
            log_student_NTV = live(ids_NT).movedim(1, -1).log_softmax(-1)
            per_id_NT = -(taught_NTV * log_student_NTV).sum(-1)
            mean: Tensor = per_id_NT[targets_NT != UNSEEN].mean()
            return mean

        return objective

    def asked(self, task: Task, key: TextKey) -> Tensor:
        """(N, P) prompts of the owner's, in the domain and outside it as long as there are such; none to which suspects will
        write."""
        prompts_NP = prompts_of(task.owner.inputs, self.prompt)
        order_N = key.secret.order(f"{self.scheme}/prompts", len(prompts_NP))
        prompts_NP = prompts_NP[order_N[: 4 * self.lessons]]
        scored_N = (prompts_NP[:, None] == key.prompts_NP).all(-1).any(1)
        prompts_NP = prompts_NP[~scored_N]
        inside_N = self.domain(task).holds(prompts_NP)
        half = self.lessons // 2
        return torch.cat((prompts_NP[inside_N][:half], prompts_NP[~inside_N][: self.lessons - half]))
