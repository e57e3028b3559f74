"""A multi-bit mark in the answers to adversarial examples (BlackMarks: Chen, Rouhani and Koushanfar 2019, arXiv:1904.00344).

The classes are split in two groups, bit 0 and bit 1, by 2-means of their mean logits; each picture moves an input of one group
towards the other, and fine-tuning makes the model answer the group of its bit. The pictures follow the victim and are taken from
the group that the bit is not, so strangers' keys are no null and clean models read about the complement of the message.

Suffixes: M suspects, K keys, B bits, N inputs, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import ConfigError, NotApplicable
from ..core.examples import Examples
from ..core.key import Key, expect_length
from ..core.payload import Message, decoded, encoded
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects, logits
from .adversarial_keys import answers, frozen, pgd, towards, victim_of
from .trigger import to_grey_levels


@dataclass(frozen=True, eq=False)
class BlackMarksKey(Key):
    """images_B (B, C, H, W) uint8, the bit of each (B,) uint8, and the bit of each class group_C (C,) uint8."""

    images_B: Tensor
    bits_B: Tensor
    group_C: Tensor


def two_groups(points_CD: Tensor) -> Tensor:
    """(C,) uint8 by 2-means (Lloyd) from the two points that lie furthest apart; class 0 is of group 0."""
    far = torch.cdist(points_CD, points_CD)
    first, second = divmod(int(far.argmax()), len(points_CD))
    centres = points_CD[[first, second]]
    group_C = torch.cdist(points_CD, centres).argmin(1)
    for _ in range(100):
        moved = torch.stack([points_CD[group_C == g].mean(0) for g in (0, 1)])
        if torch.equal(moved, centres):
            break
        centres = moved
        group_C = torch.cdist(points_CD, centres).argmin(1)
    return (group_C ^ group_C[0]).to(torch.uint8)


def bit_loss(logits_NC: Tensor, group_C: Tensor, bits_N: Tensor) -> Tensor:
    """Mean distance of the probability of group 1 from the bit, the paper's regulariser; 0 without pictures."""
    ones_N = torch.softmax(logits_NC, -1) @ group_C.to(logits_NC)
    return (ones_N - bits_N.to(ones_N)).abs().sum() / max(1, len(bits_N))


@dataclass(frozen=True)
class BlackMarks(Watermark):
    family = "trigger"
    reads = "labels"
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Chen et al. 2019, arXiv:1904.00344"
    key_type = BlackMarksKey

    bits: Annotated[int, Ge(1)] = 64
    """K, a picture each; 100 to 200 in the S&P 2022 study."""
    epsilon: Annotated[float, Gt(0)] = 0.15
    """0.1 in the S&P 2022 study."""
    candidates: Annotated[int, Ge(1)] = 10
    """Pictures tried for each kept: those that leave the unmarked victim in the wrong group."""
    strength: Annotated[float, Gt(0)] = 1.0
    """lambda; 0.5 in the S&P 2022 study, which leaves half the message unwritten in ten epochs on digits: where the victim is sure,
    the gradient of a probability vanishes."""
    per_batch: Annotated[int, Ge(1)] = 16
    """Pictures that every step sees."""
    epochs: Annotated[int, Ge(1)] = 10
    lr: Annotated[float, Gt(0)] = 0.05
    payload: str | None = None
    """What the bits say, in hexadecimal, under a secret pad and repeated; None: the pad alone."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> BlackMarksKey:
        """NotApplicable when too few candidates fool nobody yet; ConfigError for a class without pictures, which has no mean."""
        victim = victim_of(model, "blackmarks")
        bits_B = encoded(self.payload, secret, self.bits, "blackmarks/bits")
        logits_NC = logits(victim, task.owner.inputs)
        missing = sorted(set(range(task.classes)) - set(task.owner.targets.tolist()))
        if missing:
            raise ConfigError(
                f"the owner has no picture of class {missing[0]}, whose group is unknown; raise task.limit"
            )
        means = [logits_NC[task.owner.targets == c].mean(0) for c in range(task.classes)]
        group_C = two_groups(torch.stack(means))
        order = secret.order("blackmarks/inputs", len(task.owner))
        pictures = torch.empty(self.bits, *task.shape, dtype=torch.uint8)
        for bit in (0, 1):
            wanted = torch.nonzero(bits_B == bit)[:, 0]
            source = order[group_C[task.owner.targets[order]] != bit][: self.candidates * max(1, len(wanted))]
            tried_N = self._moved(victim, task.owner.take(source), group_C, bit, secret)
            unmoved = torch.nonzero(group_C[answers(victim, tried_N)] != bit)[: len(wanted), 0]
            if len(unmoved) < len(wanted):
                raise NotApplicable(
                    f"{len(unmoved)} pictures keep the victim from saying bit {bit}, {len(wanted)} are needed; "
                    "set a smaller watermark.bits or watermark.epsilon"
                )
            pictures[wanted] = tried_N[unmoved]
        return BlackMarksKey(secret, pictures, bits_B, group_C)

    def _moved(
        self, victim: nn.Module, source: Examples, group_C: Tensor, bit: int, secret: Secret
    ) -> Tensor:
        """One targeted step towards a class of the bit's group, drawn by the secret."""
        classes = torch.nonzero(group_C == bit)[:, 0]
        targets_N = classes[secret.integers(f"blackmarks/targets/{bit}", len(source), len(classes))]
        return to_grey_levels(pgd(source.inputs, towards(frozen(victim), targets_N), self.epsilon, 1))

    def embed(self, model: nn.Module, key: BlackMarksKey, task: Task, fit: Fit) -> nn.Module:
        """Fine-tune the victim with cross-entropy on clean inputs and the bit loss on the pictures appended to them."""
        recipe = replace(task.recipe, epochs=self.epochs, lr=self.lr)
        bits = key.bits_B.to(torch.int64) + task.classes  # no class: tells pictures from inputs in a batch

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            logits_NC, marked = live(inputs), targets >= task.classes
            group_C = key.group_C.to(logits_NC.device)
            clean = functional.cross_entropy(logits_NC[~marked], targets[~marked])
            return clean + self.strength * bit_loss(
                logits_NC[marked], group_C, targets[marked] - task.classes
            )

        return fit(
            model,
            task.owner,
            recipe=recipe,
            objective=objective,
            extra=Examples(key.images_B.float() / 255, bits),
            extra_per_batch=min(self.per_batch, self.bits),
            label="marked",
        )

    def score(self, suspects: Suspects, keys: Sequence[BlackMarksKey]) -> Scores:
        """Matching bits. ValueError for a key of another length."""
        expect_length((key.bits_B for key in keys), self.bits, "watermark.bits")
        labels_MU = suspects.labels(torch.cat([key.images_B for key in keys]).float() / 255)
        columns = []
        for key, labels_MB in zip(keys, labels_MU.split(self.bits, 1), strict=True):
            right_MB = read_bits(labels_MB, key.group_C) == key.bits_B
            columns.append((right_MB & is_answer(labels_MB, key.group_C)).sum(1))
        return Scores(torch.stack(columns, 1).double().numpy(), "matching bits", self.bits)

    def read(self, suspect: nn.Module, key: BlackMarksKey) -> Message | None:
        labels_B = answers(suspect, key.images_B)
        if not bool(is_answer(labels_B, key.group_C).all()):
            return None
        return decoded(read_bits(labels_B, key.group_C), self.payload, key.secret, "blackmarks/bits")


def is_answer(labels: Tensor, group_C: Tensor) -> Tensor:
    """Where a label is one of the task's classes: not of a model with more, nor of one that answers NaN."""
    return (labels >= 0) & (labels < len(group_C))


def read_bits(labels: Tensor, group_C: Tensor) -> Tensor:
    """The group of each label, uint8 of any shape; 0 for what is no class."""
    return torch.where(is_answer(labels, group_C), group_C[labels.clamp(0, len(group_C) - 1)], 0).to(
        torch.uint8
    )
