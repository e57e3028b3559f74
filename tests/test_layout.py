"""The shape of the house: links, imports, the wheel."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKS = (
    "conf",
    "core",
    "watermarks",
    "attacks",
    "kernels",
    "zoo",
    "deployments",
    "evidence",
    "experiments",
    "leaderboard",
)
# Each folder may import itself and those named here.
MAY_IMPORT = {
    "kernels": set(),
    "core": {"kernels"},
    "zoo": {"core", "kernels"},
    "deployments": {"core", "kernels"},
    "evidence": {"core", "kernels"},
    "watermarks": {"core", "kernels", "zoo", "deployments", "evidence"},
    "attacks": {"core", "kernels", "zoo", "deployments", "evidence"},
    "leaderboard": {"core", "kernels"},
    "experiments": {
        "core",
        "kernels",
        "zoo",
        "deployments",
        "evidence",
        "watermarks",
        "attacks",
        "leaderboard",
    },
}
GROUND = {"torch", "numpy", "scipy", "triton"}
FILES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def place(path: Path) -> tuple[str, ...]:
    """The folders below the root: ("experiments", "launch")."""
    return path.relative_to(ROOT).parts[:-1]


@pytest.mark.parametrize("name", LINKS)
def test_links_point_to_their_folders(name: str) -> None:
    link = ROOT / "src" / "assay" / name
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / name


def test_the_links_are_all_there_is_under_src() -> None:
    assert {path.name for path in (ROOT / "src" / "assay").iterdir()} - {"__pycache__"} == {
        "__init__.py",
        *LINKS,
    }


def test_no_other_init_files() -> None:
    found = {path.relative_to(ROOT) for folder in LINKS for path in (ROOT / folder).rglob("__init__.py")}
    assert found == {Path("conf/__init__.py")}


def imports(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import statement, also those inside functions."""
    out = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            out += [(node.level, name or "") for name in names]
        elif isinstance(node, ast.Import):
            out += [(0, alias.name) for alias in node.names]
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_direction(path: Path) -> None:
    folder, depth = place(path)[0], len(place(path))
    for level, module in imports(path):
        assert not (level == 0 and module.split(".")[0] == "assay"), (
            f"{path}: import across folders relatively"
        )
        if level == depth + 1 and module != "__version__":
            assert module.split(".")[0] in MAY_IMPORT[folder] | {folder}, f"{path} imports {module}"


@pytest.mark.parametrize("folder", ["core", "kernels"])
def test_the_ground_imports_only_the_four_libraries(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for level, module in imports(path):
            top = module.split(".")[0]
            assert level > 0 or top in GROUND or top in sys.stdlib_module_names, f"{path} imports {module}"


def test_schemes_and_attacks_never_import_each_other() -> None:
    for folder, other in (("watermarks", "attacks"), ("attacks", "watermarks")):
        for path in (ROOT / folder).rglob("*.py"):
            assert not any(other in module.split(".") for _, module in imports(path)), path


def test_functions_and_files_keep_the_size_budget() -> None:
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                budget = 60 if place(path)[0] == "kernels" else 50
                assert length <= budget, f"{path}: {node.name} has {length} lines"


@pytest.mark.slow
def test_the_wheel_contains_only_the_package(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--installer",
        "uv",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"assay"}
    for needed in (
        "conf/config.yaml",
        "conf/task/digits.yaml",
        "core/contracts.py",
        "evidence/canonical.py",
        "leaderboard/board.html",
    ):
        assert f"assay/{needed}" in names
