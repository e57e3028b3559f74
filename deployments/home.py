"""What the owner has when a deployment is set up: data, the victim, means to train."""

from dataclasses import dataclass

from torch import nn

from ..core.contracts import Fit, Task


@dataclass(frozen=True)
class Home:
    """victim: the model that is served. Monitors and filters see the owner's data and nothing of the thief's."""

    task: Task
    victim: nn.Module
    fit: Fit
    seed: int
    device: str = "cpu"
