"""Attacks one after the other, the first on an API's texts: imitation, say, then fine-tuning on clean text, which wears off what
the student learnt of the mark (Sander et al., NeurIPS 2024, arXiv:2402.14904, section 5)."""

from dataclasses import dataclass

from ..sequence import Sequence


@dataclass(frozen=True)
class OnTexts(Sequence):
    needs = "texts"
    data = "labelled"
