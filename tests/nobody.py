"""Models of nobody, for tests that score keys on some."""

from torch import nn

from assay.experiments.population import together
from assay.experiments.trial import Trial


def clean_models(trial: Trial, count: int) -> list[nn.Module]:
    return [together(trial, i)[0] for i in range(count)]
