"""Bundles as files: names, sizes and kinds that are refused, and that nothing is unpacked."""

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from assay.core.errors import ConfigError
from assay.evidence import container


def zipped(
    path: Path, *members: tuple[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda _: None
) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            change(info)
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../up.json",
        "/etc/a.json",
        "a/b.json",
        "a\\b.json",
        "C:a.json",
        "a.sh",
        ".json",
        "A.json",
        "ä.json",
        "",
    ],
)
def test_bundles_hold_plain_names_alone(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no name of a file|no whole zip"):
        container.read(zipped(tmp_path / "b.zip", (name, b"{}")))
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]


def test_bombs_links_and_lies_in_bundles_are_refused(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", ("a.json", b"\0" * (container.MEMBER + 1)))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(ConfigError, match="at most"):
        container.read(bomb)
    many = zipped(tmp_path / "many.zip", *((f"a{i}.json", b"") for i in range(container.MEMBERS + 1)))
    with pytest.raises(ConfigError, match="at most 256 files"):
        container.read(many)
    large = zipped(tmp_path / "large.zip", *((f"a{i}.json", b"\0" * container.MEMBER) for i in range(5)))
    with pytest.raises(ConfigError, match="in all"):
        container.read(large)

    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    with pytest.raises(ConfigError, match="no plain file"):
        container.read(zipped(tmp_path / "link.zip", ("a.json", b"/etc/passwd"), change=link))
    lie = bytearray(zipped(tmp_path / "lie.zip", ("a.json", b"x" * 1000)).read_bytes())
    place = lie.index(b"PK\x01\x02") + 24
    lie[place : place + 4] = (10).to_bytes(4, "little")  # says 10 bytes, unpacks to 1,000
    (tmp_path / "lie.zip").write_bytes(lie)
    with pytest.raises(ConfigError):
        container.read(tmp_path / "lie.zip")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(tmp_path / "twice.zip", ("a.json", b"1"), ("a.json", b"2"))
    with pytest.raises(ConfigError, match="one name"):
        container.read(twice)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.json").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="no plain file"):
        container.read(folder)
    for path in (tmp_path / "nothing", Path(__file__)):
        with pytest.raises(ConfigError):
            container.read(path)
