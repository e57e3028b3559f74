"""The options of `assay works`."""

import argparse

from ..trace.options import registry_options


def works_options(sub: argparse.ArgumentParser) -> None:
    text = "add: put the work into the registry; find: look for it there"
    sub.add_argument("action_", metavar="ACTION", choices=["add", "find"], help=text)
    sub.add_argument("work", help="a file; of a video the folder of its frames, of many texts their folder")
    registry_options(sub)
    kinds = "text, labels, image, video, audio"
    sub.add_argument("--kind", help=f"{kinds} (default: by the file's ending)")
    sub.add_argument("--every", type=int, default=1, help="of a video, every so many frames (default: all)")
    text = "nobody's work, which says how near works come by chance"
    sub.add_argument("--stranger", action="store_true", help=text)
