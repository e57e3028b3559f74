"""What `assay radioactivity` measures: the counts that all arms share, and what each arm is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.errors import ConfigError

LARGEST = (2 - 2**-23) * 2.0**127  # float32


@dataclass(frozen=True)
class Design:
    """What every arm shares. ConfigError for what cannot be measured."""

    texts: int = 1024
    """Of training, marked or not; each of `tokens` ids after a prompt of `prompt`."""
    tokens: int = 112
    prompt: int = 16
    epochs: int = 2
    lr: float = 1e-3
    probes: int = 256
    """Texts the student writes, and texts he reads."""
    strangers: int = 200
    """Keys of strangers that are scored beside the owner's."""

    def __post_init__(self) -> None:
        least = {"texts": 2, "tokens": 1, "prompt": 1, "epochs": 1, "probes": 1, "strangers": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(
                    f"expected at least {low}, got {getattr(self, name)}; set --{name}={low} or more"
                )
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"expected a learning rate above 0, got {self.lr}; set --lr=0.001")

    def marked(self, share: float) -> int:
        """How many texts are marked. ConfigError for a share above 0 that is none of them: that is the control."""
        count = round(share * self.texts)
        if share and not count:
            raise ConfigError(
                f"{100 * share:g} % of {self.texts} texts is none of them; "
                f"set --shares={1 / self.texts:.2g} or more, or --texts higher"
            )
        return count


@dataclass(frozen=True)
class Arm:
    """share: of the training texts that are marked; 0 is the control."""

    share: float
    width: int
    delta: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"expected shares of marked text in [0, 1], got {self.share}; set --shares")
        if not 0 < self.delta <= LARGEST:
            raise ConfigError(
                f"expected a bias above 0 of at most {LARGEST:.2g}, got {self.delta}; set --deltas=2"
            )


def arms(shares: Sequence[float], widths: Sequence[int], deltas: Sequence[float]) -> list[Arm]:
    """The largest share and the control first, so that what is cut short still says something."""
    order = sorted({0.0, *shares}, key=lambda share: (share not in (0.0, max(shares)), -share))
    return [Arm(share, width, delta) for share in order for width in widths for delta in deltas]
