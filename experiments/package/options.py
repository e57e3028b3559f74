"""The options of `assay package`, by action."""

import argparse

DAY = "a day, or a day and a time: 2030-01-31T12:00 (UTC)"


def package_options(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(dest="action_", required=True, metavar="ACTION")
    for name, text, add in (
        ("keys", "a party's keys: NAME.key to keep, NAME.pub to hand out", _keys),
        ("create", "seal a model for its recipients, marked for a buyer or not", _create),
        ("licence", "what one recipient may do with a package, until when", _licence),
        ("rewrap", "other recipients for the same sealed content", _rewrap),
        ("open", "the model of a package, as a recipient", _open),
        ("revoke", "the issuer's next revocation list", _revoke),
        ("inspect", "what a package says of itself", _inspect),
        ("trace", "whose copy is it? the buyers whose marks a leaked model carries", _trace),
    ):
        one = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        add(one)


def _keys(one: argparse.ArgumentParser) -> None:
    one.add_argument("name", metavar="NAME")


def _issuer(one: argparse.ArgumentParser, private: bool) -> None:
    text = "your own key, OWNER.key" if private else "whose signature is trusted, OWNER.pub"
    one.add_argument("--issuer", required=True, metavar="FILE", help=text)


def _to(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--to", action="append", default=[], metavar="FILE", help="a recipient, NAME.pub; may be repeated"
    )


def _create(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", metavar="MODEL.safetensors")
    one.add_argument("package", metavar="NEW.wmpkg")
    _issuer(one, private=True)
    _to(one)
    one.add_argument("--chunk", type=int, default=4, metavar="MIB", help="1 to 16 (default: %(default)s)")
    one.add_argument(
        "--buyer", type=int, metavar="N", help="mark this copy for buyer N, from 1; needs --mark"
    )
    one.add_argument(
        "--mark", metavar="KEY", help="the owner's key of a multi-bit scheme: watermark=deepmarks, say"
    )


def _licence(one: argparse.ArgumentParser) -> None:
    one.add_argument("package", metavar="PACKAGE.wmpkg")
    one.add_argument("licence", metavar="NEW.jwt")
    _issuer(one, private=True)
    one.add_argument("--to", required=True, metavar="FILE", help="the licensee, NAME.pub")
    one.add_argument("--until", required=True, metavar="DAY", help=f"{DAY}; excluded")
    one.add_argument("--from", dest="since", metavar="DAY", help=f"{DAY} (default: now)")
    text = "query: answer from memory; weights: the model as a file (default: query)"
    one.add_argument("--operations", nargs="+", default=["query"], choices=["query", "weights"], help=text)
    one.add_argument("--queries", type=int, metavar="N", help="samples answered in all (default: no limit)")
    one.add_argument(
        "--output", default="labels", choices=["labels", "scores"], help="(default: %(default)s)"
    )
    one.add_argument("--decimals", type=int, help="of scores (default: all)")
    one.add_argument("--irrevocable", action="store_true", help="opens without a revocation list")


def _rewrap(one: argparse.ArgumentParser) -> None:
    one.add_argument("package", metavar="PACKAGE.wmpkg")
    one.add_argument("target", metavar="NEW.wmpkg", help="may be the same file")
    _issuer(one, private=True)
    _to(one)
    one.add_argument("--licence", metavar="FILE", help="the only licence that is to open it for the one --to")
    one.add_argument("--drop", action="append", default=[], metavar="FILE", help="NAME.pub; may be repeated")


def _open(one: argparse.ArgumentParser) -> None:
    one.add_argument("package", metavar="PACKAGE.wmpkg")
    one.add_argument("model", metavar="NEW.safetensors")
    one.add_argument("--key", required=True, metavar="FILE", help="your own key, NAME.key")
    _issuer(one, private=False)
    one.add_argument("--licence", metavar="FILE", help="the issuer himself needs none")
    one.add_argument("--revoked", metavar="FILE", help="the issuer's current revocation list")
    one.add_argument("--seen", metavar="FILE", help="which lists were seen (default: beside the key)")


def _revoke(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "list",
        metavar="LIST.jwt",
        help="the last list, replaced by the next; a new file begins with number 1",
    )
    _issuer(one, private=True)
    one.add_argument(
        "--licence", action="append", default=[], metavar="FILE", help="to revoke; may be repeated"
    )
    one.add_argument("--until", required=True, metavar="DAY", help=f"when the next list is due: {DAY}")


def _inspect(one: argparse.ArgumentParser) -> None:
    one.add_argument("package", metavar="PACKAGE.wmpkg")
    one.add_argument("--issuer", metavar="FILE", help="whose signature is expected, OWNER.pub")
    one.add_argument("--json", action="store_true")


def _trace(one: argparse.ArgumentParser) -> None:
    one.add_argument("suspect", metavar="SUSPECT.safetensors")
    one.add_argument("packages", nargs="+", metavar="PACKAGE.wmpkg", help="every copy that was handed out")
    _issuer(one, private=False)
    one.add_argument(
        "--mark", required=True, metavar="KEY", help="the owner's key, with which copies were marked"
    )
    one.add_argument(
        "--fpr", type=float, default=0.01, help="P[some innocent is named] (default: %(default)s)"
    )
    one.add_argument("--json", action="store_true")
