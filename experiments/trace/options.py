"""The options of `assay trace`, and those of every registry."""

import argparse

from ..options import own_options


def trace_options(sub: argparse.ArgumentParser) -> None:
    text = "SUSPECT, the model to trace; or add MODEL: put a model into the registry"
    sub.add_argument("words", nargs="+", metavar="SUSPECT", help=text)
    registry_options(sub)
    sub.add_argument("--key", help="of add: the owner's key, tested in suspects that come near this model")
    text = "of add: nobody's model, which says how near models come by chance"
    sub.add_argument("--stranger", action="store_true", help=text)
    own_options(sub)


def registry_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--registry", required=True, metavar="DIR", help="the registry's folder")
    sub.add_argument("--title", help="what an entry is called (default: the file's name)")
    sub.add_argument("--fpr", type=float, default=0.01, help="false-positive rate (default: %(default)s)")
    sub.add_argument("--top", type=int, default=5, help="how many of the nearest (default: %(default)s)")
    sub.add_argument("--json", action="store_true")
