"""Adaptive misinformation (Kariyappa and Qureshi, CVPR 2020, arXiv:1911.07100): what is unlike the owner's data is answered by a
model that was trained to be wrong.

y' = (1 - a) f(x) + a g(x) with a = 1 / (1 + exp(nu (max f(x) - tau))) (equations 4 and 5): above tau the model answers, below it g
does, which learnt to give the right class as little as it can, loss -log(1 - g_y) (equation 6). As in the official code, g learns
that of the owner's inputs and of as many outliers, whose class is what f says of them; here the outliers are uniform noise. The
paper trains f too with outliers, so that it is unsure of strangers' inputs; here f is the model as it is served.

All the owner's data trained f, so f is surer of the pictures that set tau than of a customer's, and more than `share` of queries
fall below tau: of digits 5.3 to 6.6 % where 5 % are declared (three seeds of customers, pictures of the test split). A record's
`utility` tells what the filter costs. Suffixes: N inputs, C classes.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.suspects import labels, logits
from .customers import customers, pools
from .defences import Defence, Filter
from .home import Home


def wrong_loss(found_NC: Tensor, labels_N: Tensor) -> Tensor:
    """-log(1 - p_y), by the log-probability of all other classes together."""
    log_NC = torch.log_softmax(found_NC, 1)
    others_NC = log_NC.scatter(1, labels_N[:, None], -torch.inf)
    return -others_NC.logsumexp(1).mean()


def outliers(home: Home, seed: int) -> Examples:
    """Uniform noise, as much as the owner has inputs, of the classes that the model answers."""
    generator = torch.Generator().manual_seed(seed_for(seed, "outliers"))
    noise = torch.rand(home.task.owner.inputs.shape, generator=generator)
    return Examples(noise, labels(home.victim, noise, home.device))


@dataclass(frozen=True)
class Misinformation(Defence):
    coarse = False
    paper = "Kariyappa and Qureshi, CVPR 2020, arXiv:1911.07100"

    share: Annotated[float, Gt(0), Lt(1)] = 0.05
    """tau is this quantile of the model's confidence in customers' queries, with pictures of the owner's second half."""
    sharpness: Annotated[float, Gt(0)] = 1000.0
    """nu."""
    per_kind: int = 5
    """Customers of each kind by whose queries tau is set."""

    def ready(self, home: Home) -> Filter:
        (pool, _), seed = pools(home.task), seed_for(home.seed, "misinformation")
        found = customers(pool, home.victim, self.per_kind, seed, home.device)
        asked = torch.cat([request.inputs for one in found for request in one.requests])
        sure_N = torch.softmax(logits(home.victim, asked, home.device), 1).amax(1)
        strange = outliers(home, seed)
        wrong = home.fit(
            home.task.fresh(seed),
            home.task.owner,
            loss=wrong_loss,
            extra=strange,
            extra_per_batch=home.task.recipe.batch_size,
            label="misinformation",
        )
        return Misled(wrong, float(sure_N.double().quantile(self.share)), self.sharpness, home.device)


@dataclass(frozen=True)
class Misled:
    wrong: nn.Module
    tau: float
    sharpness: float
    device: str = "cpu"

    def __call__(self, inputs: Tensor, scores: Tensor) -> Tensor:
        other_NC = torch.softmax(logits(self.wrong, inputs, self.device), 1)
        share_N1 = torch.sigmoid(-self.sharpness * (scores.amax(1, keepdim=True) - self.tau))
        return (1 - share_N1) * scores + share_N1 * other_NC
