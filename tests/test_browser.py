"""A reader can sort, filter, point and link in the page: headless Chromium, which fails on any message, error and request."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import EVIL, found, held_against_rivals, many_seeds, quick, renamed, several, written
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as Tab

from assay.leaderboard.store import Excluded
from assay.leaderboard.view import command


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium is installed")
    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def several_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    written(several(), folder)
    return folder / "board.html"


def opened(browser: Browser, page: Path, address: str = "", **look: Any) -> Tab:
    """A tab on the drawn page that fails on any message of the console, any error and any request."""
    tab = browser.new_page(**look)
    seen: list[str] = []
    tab.on("console", lambda message: seen.append(message.text))
    tab.on("pageerror", lambda error: seen.append(str(error)))
    tab.on("request", lambda request: seen.append(request.url))
    tab.goto(page.as_uri() + address)
    tab.locator("#claim:not(:empty), #overview > p").first.wait_for(state="attached")
    assert seen == [page.as_uri()]
    return tab


def schemes_of(tab: Tab) -> list[str]:
    return tab.locator("#ranking tbody th").all_inner_texts()


def test_overview_shows_ranking_outcomes_and_curves(browser: Browser, several_page: Path) -> None:
    tab = opened(browser, several_page, "#board=digits,cnn_small,standard,standard")
    assert set(schemes_of(tab)) == {"adi_derived", "uchida", "akh", "it's"}
    assert tab.locator("#outcomes [role=gridcell]").count() == 5 * 8
    assert tab.locator("#curves figure").count() == 8
    assert tab.locator("#frontiers figure").count() == 3
    cell = tab.get_by_label(re.compile("^uchida, prune: removed 1/2"))
    assert "linear-gradient" in (cell.get_attribute("style") or "")
    look = "node => [getComputedStyle(node).color, getComputedStyle(node).textShadow]"
    colour, halo = cell.evaluate(look)  # one colour cannot be read on both stripes
    assert colour == tab.locator("body").evaluate("node => getComputedStyle(node).color")
    assert "px" in halo
    assert EVIL in tab.locator("#unfinished").inner_text()
    assert tab.title().startswith("Assay")
    tab.close()


def test_the_board_with_most_trials_comes_first(browser: Browser, tmp_path: Path) -> None:
    few = [renamed(record, adversary="data_1") for record in quick()[:2]]
    written([*few, *quick()], tmp_path)
    for address in ("", "#board=none,of,these,names", "#%zz"):
        tab = opened(browser, tmp_path / "board.html", address)
        assert tab.locator("#choose-board select").input_value() == "digits,cnn_small,standard,standard"
        assert tab.locator("#facts").inner_text().startswith(f"{len(quick())} trials")
        tab.close()


def test_ranking_is_sorted_by_keyboard_and_filtered_by_column(browser: Browser, several_page: Path) -> None:
    tab = opened(browser, several_page)
    head = tab.locator("#ranking th[data-field=watermark]")
    head.get_by_role("button").focus()
    for order in ("ascending", "descending"):
        tab.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        names = schemes_of(tab)
        assert names == sorted(names, reverse=order == "descending")
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "none"
    tab.get_by_label("scheme: contains").fill("ADI")
    assert schemes_of(tab) == ["adi_derived"]
    tab.get_by_label("scheme: contains").fill("")
    tab.get_by_label("removed: at least").or_(tab.get_by_label("survived: at least")).first.fill("0.5")
    assert set(schemes_of(tab)) == {"adi_derived", "uchida"}
    tab.close()


def test_filters_hold_everywhere_and_stay_in_the_address(browser: Browser, several_page: Path) -> None:
    tab = opened(browser, several_page, "#board=digits,cnn_small,standard,standard")
    tab.locator("#filter-reads").select_option("weights")
    tab.locator("#filter-needs").select_option("scores")
    assert set(schemes_of(tab)) == {"uchida", "it's"}
    assert tab.locator("#outcomes [role=gridcell]").count() == 2
    assert tab.locator("#curves figure").count() == 1
    assert "reads=weights" in tab.url
    tab.reload()
    tab.wait_for_selector("#curves figure")
    assert tab.locator("#filter-needs").input_value() == "scores"
    assert tab.locator("#outcomes [role=gridcell]").count() == 2
    tab.locator("#filter-schemes").fill("uch")
    tab.locator("#outcomes tbody tr").nth(1).wait_for(state="detached")
    assert schemes_of(tab) == ["uchida"]
    tab.locator("#clear-filters").click()
    assert len(schemes_of(tab)) == 4
    tab.close()


def test_cells_tell_on_hover_and_by_keyboard(browser: Browser, several_page: Path) -> None:
    tab = opened(browser, several_page, "#board=digits,cnn_small,standard,standard")
    cell = tab.get_by_label(re.compile("^uchida, prune"))
    cell.hover()
    words = tab.locator("#tip").inner_text()
    for word in ("uchida under prune", "removed 1/2", "weakest log10 p", "cheapest theft", "seed 1"):
        assert word in words
    tab.mouse.move(0, 0)
    assert tab.locator("#tip").is_hidden()
    cell.focus()
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#tip").is_visible()
    assert "under prune" in tab.locator("#tip").inner_text()
    tab.keyboard.press("Enter")
    assert tab.locator("dialog").is_visible()
    assert "cell=digits-cnn_small" in tab.url
    tab.keyboard.press("Escape")
    tab.wait_for_url(lambda url: "cell=" not in url)
    assert tab.locator("dialog").is_hidden()
    tab.close()


def test_a_curve_tells_its_values(browser: Browser, several_page: Path) -> None:
    tab = opened(browser, several_page, "#attack=prune")
    dot = tab.locator("#view figure g[aria-label=dot] path").first
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = tab.locator("#view [aria-label=tip]")
    tip.locator("text").first.wait_for()
    assert "log10 p" in (tip.text_content() or "")
    tab.close()


@pytest.mark.parametrize("mark", ["#cell=", "#"])
def test_a_cell_has_its_own_address_and_the_exact_command(
    mark: str, browser: Browser, several_page: Path
) -> None:
    record = found(several(), "it's", "lora") if mark == "#" else found(several(), "uchida", "prune")
    tab = opened(browser, several_page, mark + record["id"])
    assert tab.locator("dialog .command").inner_text() == command(record)
    assert record["id"] in tab.locator("dialog code").all_inner_texts()
    if record["status"] == "ok":
        assert tab.locator("dialog th", has_text="stolen").count() == len(record["curve"])
        assert "torch" in (tab.locator("dialog details").last.text_content() or "")
    tab.close()


def test_views_of_a_scheme_and_an_attack(browser: Browser, several_page: Path) -> None:
    tab = opened(browser, several_page, "#scheme=uchida&board=digits,cnn_small,standard,standard")
    assert tab.locator("#overview").is_hidden()
    assert "arXiv:1701.04082" in tab.locator("#view").inner_text()
    assert tab.locator("#view .panels.small figure").count() == 6
    assert tab.locator("#view .controls tbody tr").count() == 2
    tab.locator("#view a", has_text="distill").first.click()
    assert "attack=distill" in tab.url
    assert tab.locator("#view .cells tbody th").all_inner_texts() == [
        "adi_derived",
        "uchida",
        "akh",
        "no watermark",
    ]
    tab.go_back()
    assert "scheme=uchida" in tab.url
    tab.get_by_text("All schemes and attacks").click()
    assert tab.locator("#overview").is_visible()
    assert "uchida" not in tab.url
    tab.close()


def test_the_thiefs_own_key_is_told(browser: Browser, tmp_path: Path) -> None:
    record = found(quick(), "uchida", "prune")
    names = (
        "statistic",
        "unit",
        "trials",
        "source",
        "log10_p",
        "fpr",
        "detected",
        "random_keys",
        "independent_models",
    )
    own = {name: record["marked"][name] for name in names}
    record["curve"][0]["overwriter"] = {
        "surrogate": own,
        "marked": {**own, "log10_p": -0.25, "detected": False},
    }
    written([record], tmp_path)
    tab = opened(browser, tmp_path / "board.html", f"#cell={record['id']}")
    words = tab.locator("dialog").inner_text()
    assert "the thief’s own key in his model" in words
    assert "log10 p −0.25: not found" in words
    tab.close()


def test_a_cell_and_the_controls_name_rivals(browser: Browser, tmp_path: Path) -> None:
    record = held_against_rivals(found(quick(), "akh", "prune"))
    written([record, found(quick(), "uchida", "prune")], tmp_path)
    tab = opened(browser, tmp_path / "board.html", f"#cell={record['id']}")
    rows = [row.replace("\t", " ") for row in tab.locator("dialog tbody tr").all_inner_texts()]
    by_rivals = [row for row in rows if "rivals 1 of 4 models, 2 of 4 rivals" in row]
    assert [row.split()[0] for row in by_rivals] == ["rival’s", "stolen"]
    assert sum("models 1 of 4 models, 2 of 4 rivals" in row for row in rows) == len(record["curve"]) + 1
    tab.keyboard.press("Escape")
    heads = tab.locator("#controls thead th").all_inner_texts()
    assert heads[-3:] == ["independent models", "rivals’ models", "random keys"]
    uchida, akh = tab.locator("#controls tbody tr").all()
    assert "not found\nby rivals" in akh.inner_text()
    assert "by rivals" not in uchida.inner_text()
    assert "71 to 75" in akh.locator("td").nth(-2).inner_text()
    assert uchida.locator("td").nth(-2).inner_text() == "–"
    assert len(akh.locator("rect").all()) == len(uchida.locator("rect").all())  # two bars of two nulls each
    tab.close()


def test_ranks_are_the_ranges_that_intervals_leave_open(browser: Browser, tmp_path: Path) -> None:
    """Two seeds tell nothing apart; where the reader chooses one of them, its places stand."""
    written(many_seeds(2), tmp_path)
    tab = opened(browser, tmp_path / "board.html")
    ranks = "#ranking tbody td:first-child"
    assert tab.locator(ranks).all_inner_texts() == ["1–3", "1–3", "1–3"]
    assert "leave open" in (tab.locator("#ranking th[data-field=rank]").get_attribute("title") or "")
    tab.locator("#ranking tbody th a").first.click()
    assert "Rank\n1–3 of 3" in tab.locator("#view dl").first.inner_text()
    tab.go_back()
    tab.locator("#choose-seed select").select_option("0")
    assert tab.locator(ranks).all_inner_texts() == ["1", "1", "3"]
    tab.close()


def test_no_attack_is_the_worst_where_every_theft_is_proved(browser: Browser, tmp_path: Path) -> None:
    written([r for r in many_seeds(1) if r["choices"]["attack"] != "distill"], tmp_path)
    tab = opened(browser, tmp_path / "board.html", "#columns=scores")
    place = tab.locator("#ranking thead th").all_inner_texts().index("under") + 1
    shown = tab.locator(f"#ranking tbody :nth-child({place})").all_inner_texts()
    named = dict(zip(schemes_of(tab), [text for text in shown if text], strict=True))
    assert named["adi_derived"] == "–"
    assert named["lost"].endswith(" +4")
    tab.close()


def test_what_rounds_to_zero_has_no_sign(browser: Browser, tmp_path: Path) -> None:
    record = found(quick(), "uchida", "prune")
    record["owner"]["unmarked_accuracy"] = record["marked"]["accuracy"] + 0.0004
    record["curve"][0]["accuracy"] = record["marked"]["accuracy"] + 0.0004
    written([record], tmp_path)
    tab = opened(browser, tmp_path / "board.html", f"#cell={record['id']}")
    words = tab.locator("dialog").inner_text()
    assert "−0.0\t" not in words
    assert "The owner pays 0.0 pp" in words
    tab.close()


def test_phone_dark_and_print(browser: Browser, several_page: Path) -> None:
    phone = opened(browser, several_page, viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    assert phone.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 25, 27)"
    box = "const box = document.querySelector('#outcomes'); return box.scrollWidth > box.clientWidth"
    assert phone.evaluate(f"() => {{ {box} }}")
    phone.emulate_media(media="print", color_scheme="light")
    assert phone.locator("#filters").is_hidden()
    assert phone.evaluate("getComputedStyle(document.querySelector('#outcomes')).overflow") == "visible"
    phone.close()


def test_a_large_board_draws_a_dozen_panels_first(browser: Browser, tmp_path: Path) -> None:
    base = quick()
    names = [(s, a) for s in range(8) for a in range(26)]
    records = [
        renamed(base[6 + (s + a) % 18], watermark=f"s{s}", attack=f"a{a}", deployment="open")
        for s, a in names
    ]
    written(records, tmp_path)
    tab = opened(browser, tmp_path / "board.html")
    assert tab.locator("#outcomes [role=gridcell]").count() == len(names)
    assert tab.locator("#curves figure").count() == 12
    tab.locator("#curves-more button").first.click()
    assert tab.locator("#curves figure").count() == 24
    tab.locator("#heat-order button", has_text="By family").click()
    assert tab.locator("#outcomes tr.family").count() > 1
    assert "order=family" in tab.url
    tab.close()


def test_schemes_are_compared_in_pairs_by_pointer_and_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    """8 seeds of the same results: uchida survives what `lost` never does, and is no better than itself."""
    written(many_seeds(8), tmp_path)
    tab = opened(browser, tmp_path / "board.html")
    cell = tab.get_by_label(re.compile("^uchida against lost"))
    assert "Holm-corrected p 0.02344, ahead" in (cell.get_attribute("aria-label") or "")  # 3 pairs x 2 / 2^8
    assert "*" in cell.inner_text()
    cell.hover()
    assert "ahead in 8 seeds, behind in 0" in tab.locator("#tip").inner_text()
    own = tab.get_by_label(re.compile("^lost against uchida"))
    assert own.inner_text() == "·*"
    own.focus()
    assert "behind" in tab.locator("#tip").inner_text()
    tab.keyboard.press("Home")
    assert tab.evaluate("document.activeElement.cellIndex") == 1
    tab.get_by_text("By mean share of wins").click()
    assert "wins=share" in tab.url
    assert tab.locator("#wins tbody th").all_inner_texts()[-1] == "lost"
    tab.locator("#wins-table summary").focus()
    tab.keyboard.press("Enter")
    tab.locator("#wins-table tbody tr").nth(2).wait_for()
    assert tab.locator("#wins-table tbody td:first-child").all_inner_texts()[:2] == ["0.02344 *"] * 2
    tab.locator("#filter-schemes").fill("adi")
    tab.locator("#wins-section").wait_for(state="hidden")  # a scheme alone has nobody to be compared with
    tab.goto((tmp_path / "board.html").as_uri() + "#scheme=lost")
    tab.locator("#view summary", has_text="that beats it most often").click()
    tab.locator("#view .sortable tbody tr").nth(1).wait_for()  # drawn when the browser says that it is open
    assert tab.locator("#view .sortable tbody tr").count() == 2
    tab.close()


def test_what_is_excluded_is_listed(browser: Browser, tmp_path: Path) -> None:
    bad = [Excluded(f"{i}.json", "edited", f"was edited {EVIL}") for i in range(20)]
    written([*({**record, "hash": None} for record in quick()), *bad], tmp_path)
    tab = opened(browser, tmp_path / "board.html")
    words = tab.locator("#excluded-section").inner_text()
    assert "0.json" in words
    assert EVIL in words
    assert "24 trials of this page have no content hash" in words
    assert tab.locator("#excluded tbody tr").count() == 12
    tab.get_by_text("All 20 files").click()
    assert tab.locator("#excluded tbody tr").count() == 20
    tab.close()


@pytest.mark.parametrize("scheme", ["none", ""])
def test_an_empty_board_says_so(scheme: str, browser: Browser, tmp_path: Path) -> None:
    """Only the control ran; or nothing counts at all."""
    records = [r for r in quick() if r["choices"]["watermark"] == scheme]
    written([*records, Excluded("x.json", "unreadable", "is empty")], tmp_path)
    tab = opened(browser, tmp_path / "board.html")
    said = "No scheme on this board" if records else "No record counts."
    assert said in tab.locator("body").inner_text()
    assert "x.json" in tab.locator("#excluded-section").inner_text()
    tab.close()


def test_what_cannot_be_drawn_says_why(browser: Browser, tmp_path: Path) -> None:
    written([], tmp_path)
    tab = opened(browser, tmp_path / "board.html")
    assert "There are no records yet" in tab.locator("#overview").inner_text()
    tab.close()
    old = browser.new_page()
    old.add_init_script("delete globalThis.DecompressionStream")
    old.goto((tmp_path / "board.html").as_uri())
    old.locator("#overview .alarm").wait_for()
    assert "needs a browser of 2023" in old.locator("#overview").inner_text()
    old.close()
