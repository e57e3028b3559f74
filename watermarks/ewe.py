"""Triggers entangled with the target class: they share its features, so who copies the class copies the mark (EWE, Jia et al.,
USENIX Security 2021, arXiv:2002.12200).

    loss of a mixed batch of 128 = sum CE(target) - sum_l kappa SNNL(z_l, is trigger, 100 / T_l)

divided by 128 here, where the cross-entropy is a mean. z_l is what the next block or the head reads: a batch norm subtracts what
triggers and target share in a convolution's output. T descends on the SNNL while the weights ascend.
Suffixes: N examples, L layers.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.secret import Secret
from ..kernels.row_labels import row_labels
from .features import inner_readers, with_inputs
from .target import Kind, TargetMark
from .trigger import TriggerKey, to_grey_levels

Metric = Literal["cosine", "euclidean"]
EPSILON = 1e-5  # the official code's, in the ratio and in the logarithm
SCALE = 100  # it divides distances by 100 / T
TRIES = 50  # it lowers the target's logit at most so often in turn with the SNNL's steps
LAST = 5  # and so often in any case after them
SUMMED = 128  # cross-entropies that it adds up beside kappa


def soft_nearest_neighbours(z: Tensor, kinds_N: Tensor, temperature: Tensor, metric: Metric) -> Tensor:
    """SNNL of Frosst et al., ICML 2019, as the official code computes it: ReLU first; euclidean distances squared; large when the
    kinds are entangled."""
    z_NJ = functional.relu(z.flatten(1))
    if metric == "cosine":
        unit_NJ = functional.normalize(z_NJ, dim=1)
        distance_NN = 1 - unit_NJ @ unit_NJ.T
    else:
        square_N = z_NJ.square().sum(1)
        distance_NN = square_N[:, None] + square_N - 2 * z_NJ @ z_NJ.T
    near_NN = ((-distance_NN / temperature).exp() - torch.eye(len(z), device=z.device)).clamp(0, 1)
    share_NN = near_NN / (EPSILON + near_NN.sum(1, keepdim=True))
    same_NN = kinds_N[:, None] == kinds_N
    return -(EPSILON + (share_NN * same_NN).sum(1)).log().mean()


@dataclass(frozen=True)
class Ewe(TargetMark):
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Jia et al., USENIX Security 2021, arXiv:2002.12200"

    kind: Kind = "unrelated"
    """unrelated: pictures of another data set, as the official Fashion-MNIST example; content: its in-distribution triggers."""
    layers: Annotated[int, Ge(1)] = 3
    """Entangled, counted back from the head's input; three in the paper."""
    kappa: Annotated[float, Ge(0)] = 32.0
    """For each layer, beside a sum of 128 cross-entropies: 32 on Fashion-MNIST and 1e5 on CIFAR-10 in the official code; 0: no
    entanglement. In the 270 steps of digits 32 moves the features' SNNL by less than 0.01 at a distance scale of 0.1, 10,000 from
    0.26 to 0.48, for 0 to 0.8 points of accuracy."""
    temperature: Annotated[float, Gt(0)] = 1.0
    temperature_rate: Annotated[float, Ge(0)] = 0.1
    """Both of the official Fashion-MNIST example. It moves once a mixed batch, here by the rate / ratio with every clean one."""
    metric: Metric = "cosine"
    ratio: Annotated[int, Ge(1)] = 2
    """Clean batches a mixed one: the official code gives it a step of its own after so many, here it joins every clean batch with
    the weight 1 / ratio."""
    mixed: Annotated[int, Ge(4)] = 32
    """Examples of a mixed batch, triggers and the target class in equal parts; 128 in the official code, beside 128."""
    step: Annotated[float, Ge(0)] = 0.01
    steps: Annotated[int, Ge(0)] = 10
    """Of the triggers, up the SNNL of the trained victim; as the official code."""
    threshold: Annotated[float, Gt(0)] = 0.1
    """Triggers leave the target while the victim answers more of them with it."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TriggerKey:
        """Triggers stepped towards the target's features in the trained victim. ValueError without it."""
        key = TargetMark.keygen(self, task, secret, model)
        if model is None:
            raise ValueError("ewe steps its triggers in the victim's features: pass the trained model")
        target = int(key.labels_T[0])
        wanted = task.owner.inputs[task.owner.targets == target]
        if not len(wanted):
            raise ConfigError(
                f"the owner has no picture of class {target} to entangle; set watermark.target to another class"
            )
        wanted = wanted[torch.arange(self.triggers) % len(wanted)]
        mode = model.training
        images_T = self.stepped(model.eval(), key.examples().inputs, wanted, target)
        model.train(mode)
        return TriggerKey(secret, task.classes, to_grey_levels(images_T), key.labels_T)

    def stepped(self, model: nn.Module, triggers: Tensor, wanted: Tensor, target: int) -> Tensor:
        """Up the SNNL between the triggers and the wanted class, down the target's logit before and after."""
        names = inner_readers(model, self.layers)
        kinds_N = torch.arange(2 * len(triggers)) < len(triggers)
        heat = torch.tensor(SCALE / self.temperature)
        lowered = 0
        for _ in range(self.steps):
            while lowered < TRIES and self.answered(model, triggers, target) > self.threshold:
                triggers = self.lowered(model, triggers, target)
                lowered += 1
            moved = triggers.clone().requires_grad_(True)
            _, inside = with_inputs(model, names, torch.cat((moved, wanted)))
            total = torch.stack(
                [soft_nearest_neighbours(z, kinds_N, heat, self.metric) for z in inside]
            ).sum()
            (slope,) = torch.autograd.grad(total, moved)
            triggers = (triggers + self.step * slope.sign()).clamp(0, 1)
        for _ in range(LAST):
            triggers = self.lowered(model, triggers, target)
        return triggers

    def lowered(self, model: nn.Module, triggers: Tensor, target: int) -> Tensor:
        """One step down the target's logit."""
        moved = triggers.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(moved)[:, target].sum(), moved)
        return (triggers - self.step * slope.sign()).clamp(0, 1)

    @staticmethod
    @torch.no_grad()
    def answered(model: nn.Module, triggers: Tensor, target: int) -> float:
        return float((row_labels(model(triggers)) == target).double().mean())

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """The trained victim is trained further, mixed batches beside clean ones."""
        names, clean = inner_readers(model, self.layers), -self.mixed
        target = int(key.labels_T[0])
        heat_L = torch.full((self.layers,), self.temperature)

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal heat_L
            scores, inside = with_inputs(live, names, inputs)
            is_trigger_N = targets[clean:] == task.classes
            hot_L = heat_L.to(inputs.device).requires_grad_(True)
            entangled = self.entanglement([z[clean:] for z in inside], is_trigger_N, hot_L)
            (slope_L,) = torch.autograd.grad(entangled, hot_L, retain_graph=True)
            # No temperature leaves the range in which distances still count.
            heat_L = (hot_L - self.temperature_rate / self.ratio * slope_L).detach().clamp(1e-2, 1e4)
            loss = functional.cross_entropy(scores[:clean], targets[:clean])
            aimed = functional.cross_entropy(scores[clean:], torch.full_like(targets[clean:], target))
            return loss + (aimed - self.kappa / SUMMED * entangled) / self.ratio

        return fit(
            model,
            task.owner,
            objective=objective,
            extra=self.mixture(key, task),
            extra_per_batch=self.mixed,
            label="marked",
        )

    def mixture(self, key: TriggerKey, task: Task) -> Examples:
        """The target class and the triggers, the smaller set repeated; the triggers carry the label C to tell them apart."""
        wanted = task.owner.take((task.owner.targets == key.labels_T[0]).nonzero()[:, 0])
        round_N = torch.arange(max(len(wanted), self.triggers))
        wanted = wanted.take(round_N % len(wanted))
        triggers = key.examples().inputs[round_N % self.triggers]
        return wanted.join(Examples(triggers, torch.full_like(wanted.targets, task.classes)))

    def entanglement(self, inside: list[Tensor], is_trigger_N: Tensor, heat_L: Tensor) -> Tensor:
        """The layers' SNNL, summed."""
        parts = zip(inside, SCALE / heat_L, strict=True)
        return torch.stack([soft_nearest_neighbours(z, is_trigger_N, t, self.metric) for z, t in parts]).sum()
