"""The options of `assay serve`, by action."""

import argparse


def serve_options(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(dest="action_", required=True, metavar="ACTION")
    for name, text, add in (
        (
            "start",
            "answer over HTTP until interrupted; overrides choose the deployment: deployment=api_label",
            _start,
        ),
        ("key", "a new API key for an account, shown once", _key),
        ("revoke", "answer an account no longer, from now on and for ever", _revoke),
        ("status", "accounts, what they asked, and whether the book holds", _status),
    ):
        one = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.add_argument(
            "--folder", default="serving", help="keys, book and state of the service (default: %(default)s)"
        )
        add(one)


def _start(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", metavar="MODEL", help="a model of `assay run save=`, or a package of one")
    one.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    one.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    one.add_argument(
        "--body", type=int, default=8, metavar="MIB", help="of a request at most (default: %(default)s)"
    )
    one.add_argument("--samples", type=int, default=4096, help="of a request at most (default: %(default)s)")
    one.add_argument("--key", metavar="FILE", help="of a package: your own key, NAME.key")
    one.add_argument("--issuer", metavar="FILE", help="of a package: whose signature is trusted, OWNER.pub")
    one.add_argument("--licence", metavar="FILE", help="of a package: under which it is served")
    one.add_argument(
        "--revoked", metavar="FILE", help="of a package: the issuer's list, read again when it changes"
    )


def _key(one: argparse.ArgumentParser) -> None:
    one.add_argument("account", metavar="ACCOUNT")
    one.add_argument("--budget", type=int, metavar="N", help="samples in all (default: the deployment's)")


def _revoke(one: argparse.ArgumentParser) -> None:
    one.add_argument("account", metavar="ACCOUNT")


def _status(one: argparse.ArgumentParser) -> None:
    one.add_argument("--json", action="store_true")
