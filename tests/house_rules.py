"""The rules of the house that import-linter cannot say.

Each rule takes the root of a repository and returns its breaches, one line each, empty when the rule is kept.
`tests/test_house.py` applies them to this repository and plants a breach of each to show that it is seen.
"""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from sys import stdlib_module_names

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LONGEST_FILE = 1000
DEPENDENCY_RECORD = "docs/decisions/0008-licence-and-dependencies.md"
VAGUE_NAMES = frozenset({"utils", "helpers", "common", "manager", "core", "types"})

_TREES = ("src", "tests", "bench", "scripts")
_OPENERS = frozenset(
    {
        "connect",
        "create_pool",
        "create_engine",
        "create_async_engine",
        "engine_from_config",
        "async_engine_from_config",
    }
)
_DRIVERS = frozenset({"asyncpg", "sqlalchemy", "psycopg", "psycopg2", "psycopg_pool"})

# `where ... tenant_id = <a value>`, also in a list and turned round. Two columns compared is a join, not a filter.
_COLUMN = r"(?:\w+\.)?tenant_id"
_TENANT_FILTER = re.compile(
    rf"\bwhere\b[^;]*?(?:{_COLUMN}\s*(?:=|\bin\b)(?!\s*\w+\.\w+)"
    rf"|\(\s*{_COLUMN}\s*,[^)]*\)\s*(?:=|\bin\b)"
    rf"|(?:\$\d+|:\w+)\s*=\s*{_COLUMN})",
    re.IGNORECASE,
)
_EXPLICIT = re.compile(r"(?:--|#) tenant: explicit[^\w\n]+\w+ \w+")

_BACKTICKED = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/?)`")
_TEST_PACKAGES = frozenset({"pytest", "pytest-asyncio", "hypothesis"})
_BROUGHT_BY = {"google": "google-genai", "crypto": "cryptography", "asyncio": "greenlet"}
"""Extra -> the package it brings, where the two have different names."""

_FILE_SUFFIXES = frozenset({".cfg", ".json", ".lock", ".md", ".py", ".sql", ".toml", ".ts", ".yaml", ".yml"})


def sources(root: Path, *trees: str) -> Iterator[Path]:
    """The Python files under some folders of a repository, in a stable order."""
    for tree in trees:
        yield from sorted((root / tree).rglob("*.py"))


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _tree(path: Path) -> ast.Module:
    return _parsed(path.read_text())


def too_long(root: Path) -> list[str]:
    """Files that nobody reads to the end."""
    lengths = ((path, len(path.read_text().splitlines())) for path in sources(root, *_TREES))
    return [f"{path.relative_to(root)}: {lines} lines" for path, lines in lengths if lines > LONGEST_FILE]


def vague_names(root: Path) -> list[str]:
    """Files and folders whose name says nothing about what is in them."""
    return [
        f"{path.relative_to(root)}: name it after what it does"
        for path in sources(root, *_TREES)
        if VAGUE_NAMES & {part.removesuffix(".py") for part in path.relative_to(root).parts}
    ]


def back_entrances(root: Path) -> list[str]:
    """Imports that reach into another room past its door, its `__init__`; `house.py` may import `room.py`."""
    package = root / "src" / "retinue"
    breaches = []
    for path in sources(root, "src/retinue"):
        here = path.relative_to(package).parts
        for line, target in _retinue_imports(path, package):
            room, *inner = target
            if inner and room != here[0] and not (here == ("house.py",) and inner == ["room"]):
                breaches.append(f"{path.relative_to(root)}:{line}: imports retinue.{'.'.join(target)}")
    return breaches


def _retinue_imports(path: Path, package: Path) -> Iterator[tuple[int, list[str]]]:
    """The modules of the product that a file imports, as the parts after `retinue`, with their line."""
    for line, module, names in _imports(path, package.parent):
        parts = module.split(".")
        if parts[0] != "retinue":
            continue
        for name in names or [""]:
            target = [*parts[1:], *([name] if _is_hidden_module(package.joinpath(*parts[1:]), name) else [])]
            if target:
                yield line, target


def _is_hidden_module(parent: Path, name: str) -> bool:
    """Whether a name imported from a package is a file of it that the package's door does not itself give out."""
    if not name or not ((parent / f"{name}.py").exists() or (parent / name).is_dir()):
        return False
    if parent.name == "retinue":
        return True
    return name not in _given_out(parent / "__init__.py")


def _given_out(door: Path) -> set[str]:
    bound: set[str] = set()
    for node in ast.walk(_parsed(door.read_text() if door.exists() else "")):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound.update(alias.asname or alias.name for alias in node.names)
    return bound


def _imports(path: Path, source_root: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Every import of a file: line, absolute module, and the names taken from it (none for a plain `import`)."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(source_root).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield node.lineno, module, [alias.name for alias in node.names]


def connections_elsewhere(root: Path) -> list[str]:
    """Places outside the room `database` that open a database connection."""
    package = root / "src" / "retinue"
    return [
        f"{path.relative_to(root)}:{line}: {what} opens a connection; ask the database room for one"
        for path in sources(root, "src/retinue")
        if path.relative_to(package).parts[0] != "database"
        for line, what in _openings(path, package.parent)
    ]


def _openings(path: Path, source_root: Path) -> Iterator[tuple[int, str]]:
    for line, module, names in _imports(path, source_root):
        if module.partition(".")[0] in _DRIVERS:
            yield from ((line, f"{module}.{name}") for name in names if name in _OPENERS)
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Attribute) and node.attr in _OPENERS and _comes_from_driver(node.value, path):
            yield node.lineno, f"{ast.unparse(node)}"


def _comes_from_driver(value: ast.expr, path: Path) -> bool:
    name = ast.unparse(value).partition(".")[0]
    modules = {
        alias.asname or alias.name.partition(".")[0]: alias.name
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    return modules.get(name, "").partition(".")[0] in _DRIVERS


def tenant_filters(root: Path) -> list[str]:
    """SQL that filters by tenant by hand: row-level security does that, and a filter hides it when it does not.

    Where one is needed all the same, a comment in the SQL, or on a line of it or next to it, says why:
    `-- tenant: explicit, <the reason>` or `# tenant: explicit, <the reason>`.
    """
    migrations = root / "src" / "retinue" / "database" / "migrations"
    return [
        f"{path.relative_to(root)}:{first}: filters by tenant_id by hand"
        for path in sources(root, "src/retinue")
        if migrations not in path.parents
        for first, last, text in _texts(_tree(path))
        if _TENANT_FILTER.search(text) and not _EXPLICIT.search(_lines(path, first - 1, last + 1))
    ]


def _lines(path: Path, first: int, last: int) -> str:
    """Some lines of a file, counted from 1, both ends included."""
    return "\n".join(path.read_text().splitlines()[max(first, 1) - 1 : last])


def _texts(tree: ast.Module) -> Iterator[tuple[int, int, str]]:
    """The string literals of a file but its docstrings, each with its first and last line.

    An f-string is one text with `?` for what is filled in.
    """
    passed_over = _docstrings(tree) | _inside_f_strings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "?" for part in node.values)
            yield node.lineno, node.end_lineno or node.lineno, "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed_over:
            yield node.lineno, node.end_lineno or node.lineno, node.value


def _inside_f_strings(tree: ast.Module) -> set[int]:
    return {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}


def _docstrings(tree: ast.Module) -> set[int]:
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def missing_paths(root: Path, document: str = "ARCHITECTURE.md") -> list[str]:
    """Paths in backticks that a document names and that do not exist, in the repository or in the package."""
    named = dict.fromkeys(_BACKTICKED.findall((root / document).read_text()))
    return [f"{document}: {path}" for path in named if _looks_like_path(path) and not _exists(root, path)]


def _looks_like_path(text: str) -> bool:
    return text.endswith("/") or Path(text).suffix in _FILE_SUFFIXES


def _exists(root: Path, path: str) -> bool:
    if "/" not in path.rstrip("/") and any(next((root / tree).rglob(path), None) for tree in _TREES):
        return True
    return any((base / path).exists() for base in (root, root / "src", root / "src" / "retinue"))


def undeclared_imports(root: Path) -> list[str]:
    """Packages that the product imports though pyproject.toml does not ask for them.

    A conformance suite runs in its user's test environment, so pytest and hypothesis are at hand there.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = chain(*project.get("optional-dependencies", {}).values())
    declared = _asked_for([*project["dependencies"], *extras])
    breaches = []
    for path in sources(root, "src"):
        at_hand = declared | (_TEST_PACKAGES if path.name == "conformance.py" else frozenset())
        for line, module, _ in _imports(path, root / "src"):
            top = module.partition(".")[0]
            if top not in stdlib_module_names and not _ours(root, top) and not _distributors(top) & at_hand:
                breaches.append(f"{path.relative_to(root)}:{line}: {top} is not a dependency in pyproject.toml")
    return breaches


def _ours(root: Path, top: str) -> bool:
    return (root / "src" / top).is_dir()


def unrecorded_dependencies(root: Path) -> list[str]:
    """Where pyproject.toml and the tables of the decision on dependencies name different packages."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    requirements = [*project["project"]["dependencies"], *chain(*project.get("dependency-groups", {}).values())]
    wanted = {canonicalize_name(Requirement(text).name) for text in requirements}
    rows = re.findall(r"^\| ([^|]+) \|", (root / DEPENDENCY_RECORD).read_text(), flags=re.MULTILINE)
    recorded = {canonicalize_name(name) for row in rows for name in row.split(", ")} - {"dependency"}
    return [
        *(f"{DEPENDENCY_RECORD}: {name} has no line" for name in sorted(wanted - recorded)),
        *(f"{DEPENDENCY_RECORD}: {name} is no longer asked for" for name in sorted(recorded - wanted)),
    ]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _distributors(top: str) -> set[str]:
    return {canonicalize_name(name) for name in _distributions().get(top, [])}


def _asked_for(requirements: Iterable[str]) -> set[str]:
    """The packages that requirements name, and those their extras bring: `pydantic-ai-slim[openai]` brings openai."""
    parsed = [Requirement(text) for text in requirements]
    extras = {extra for requirement in parsed for extra in requirement.extras}
    names = {requirement.name for requirement in parsed} | {_BROUGHT_BY.get(extra, extra) for extra in extras}
    return {canonicalize_name(name) for name in names}


def entangled_client(root: Path) -> list[str]:
    """Files of the Python client that import the server: the client is installed without it."""
    return [
        f"{path.relative_to(root)}:{line}: imports {module}"
        for path in sources(root, "src/retinue_client")
        for line, module, _ in _imports(path, root / "src")
        if module.partition(".")[0] == "retinue"
    ]
