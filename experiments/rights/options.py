"""The options of `assay rights`."""

import argparse


def rights_options(sub: argparse.ArgumentParser) -> None:
    actions = ["offer", "close", "buy", "ask", "take", "revoke", "meter", "withdraw", "show"]
    text = "ask: let another account take your licence at a price; meter: count queries; withdraw: all that you are due"
    sub.add_argument("action_", metavar="ACTION", choices=actions, help=f"{', '.join(actions)}; {text}")
    sub.add_argument("--book", required=True, metavar="FILE", help="the book of rights, an SQLite file")
    text = "chain: the book is a contract's, on an EVM in this process (extra `chain`); a book keeps its first (default: sqlite)"
    sub.add_argument("--ledger", choices=["sqlite", "chain"], default="sqlite", help=text)
    sub.add_argument("--account", help="who acts")
    text = "an id of your own: the same request again gives the same answer and changes nothing (default: a fresh one)"
    sub.add_argument("--request", help=text)
    for name, text in (
        ("offer", "its number"),
        ("licence", "its number"),
        ("price", "of the offer, or what is paid, in whole minor units"),
        ("quota", "queries that a licence grants"),
        ("days", "that a licence lasts"),
        ("queries", "to meter"),
    ):
        sub.add_argument(f"--{name}", type=int, help=text)
    text = "basis points of a resale's price that go to the shares (default: %(default)s)"
    sub.add_argument("--royalty", type=int, default=0, help=text)
    text = (
        "of the revenue, in basis points; all shares add up to 10,000, and the last gets what rounding leaves"
    )
    sub.add_argument("--share", action="append", metavar="ACCOUNT:POINTS", help=text)
    sub.add_argument("--certificate", help="digest of the certificate of the model or work, 64 hex digits")
    sub.add_argument("--conditions", help="digest of the text that both sides agree to, 64 hex digits")
    sub.add_argument("--to", help="who may take the licence")
    sub.add_argument("--json", action="store_true")
