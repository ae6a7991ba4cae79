"""Code as an input of a stage: the modules it imports, each with a digest.

The digest is that of the syntax tree: comments, docstrings, formatting and ``if TYPE_CHECKING:``
blocks do not count; annotations do, because pydantic runs them. Data files count by their bytes,
where a module next to them names them. Python 3.11 and newer give the same digests.

The stage ``code`` writes one list a stage, ``code_digests/<script>.txt``, on which the stage
depends. A stage that DVC runs compares its list with the sources, see `CodeList`.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import write_text
from histofuse.core.errors import HistofuseError, InputError

SRC: Final = Path(__file__).resolve().parents[2]
LISTS: Final = "code_digests"
# In place of a digest: the folder's modules are left out of the list.
IGNORED: Final = "ignored"
REMEDY: Final = "Run `dvc repro code` first."
_DIGITS: Final = 16

# The context of a name follows from its position; the others hold nothing that is run.
_SKIPPED_FIELDS: Final = {"ctx", "kind", "type_comment", "type_ignores"}
_FILE_NAME: Final = re.compile(r"\w[\w-]*(\.\w+)*")


@dataclass(frozen=True)
class Source:
    """What one file holds."""

    digest: str  # of its syntax tree, or of its bytes where it is no Python file
    # Level (0 is absolute) and dotted name of all that may be a module.
    imports: frozenset[tuple[int, str]] = frozenset()
    texts: frozenset[str] = frozenset()  # strings that may be the name of a file or folder


def read_source(path: Path) -> Source:
    """Read one file; InputError if it is no valid Python; names the file and line."""
    content = path.read_bytes()
    if path.suffix != ".py":
        return Source(_digest(content))
    try:
        return _parse(content)
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}"
        raise InputError.of(where, f"syntax error ({error.msg})", "Python code") from None


@cache
def _parse(content: bytes) -> Source:
    reader = _TreeReader()
    text = reader.describe(ast.parse(content))
    return Source(_digest(text.encode("ascii")), frozenset(reader.imports), frozenset(reader.texts))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


class _TreeReader:
    """Describes a syntax tree as text, and notes imports and strings on the way.

    `ast.dump` will not do: its text differs from one version of Python to the next.
    """

    def __init__(self) -> None:
        self.imports: set[tuple[int, str]] = set()
        self.texts: set[str] = set()

    def describe(self, value: Any) -> str:
        """Describe a node, a list of nodes or a value; fields without content are left out."""
        match value:
            case list():
                return f"[{','.join(map(self.describe, _drop_what_never_runs(value)))}]"
            case ast.Constant(value=content):
                if isinstance(content, str) and _FILE_NAME.fullmatch(content):
                    self.texts.add(content)
                return ascii(content)  # repr depends on the version's Unicode tables
            case ast.JoinedStr():
                return f"JoinedStr({self.describe(_join_texts(value.values))})"
            case ast.AST():
                self._note_import(value)
                fields = [(f, getattr(value, f, None)) for f in value._fields]
                parts = [
                    f"{field}={self.describe(content)}"
                    for field, content in fields
                    if field not in _SKIPPED_FIELDS and content is not None and content != []
                ]
                return f"{type(value).__name__}({','.join(parts)})"
            case _:
                return ascii(value)

    def _note_import(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=aliases):
                self.imports.update((0, alias.name) for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                names = [f"{module}.{a.name}" if module else a.name for a in aliases]
                self.imports.update((level, name) for name in [*names, module] if name)


def _drop_what_never_runs(nodes: list[Any]) -> Iterator[Any]:
    """Drop docstrings, other bare strings and ``if TYPE_CHECKING:`` blocks from statements."""
    for node in nodes:
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                yield from _drop_what_never_runs(node.orelse)
            case _:
                yield node


def _join_texts(values: list[ast.expr]) -> list[ast.expr]:
    """Join the texts between the values of an f-string; Python 3.12 leaves pieces, some empty."""
    joined: list[ast.expr] = []
    for value in values:
        match joined, value:
            case _, ast.Constant(value=""):
                continue
            case [*_, ast.Constant(value=str(before))], ast.Constant(value=str(after)):
                joined[-1] = ast.Constant(before + after)
            case _:
                joined.append(value)
    return joined


def find_code(
    starts: Iterable[Path],
    src: Path = SRC,
    ignored: Iterable[Path] = (),
    known: Iterable[Path] = (),
) -> dict[Path, str]:
    """Map each file that files import, and data file of these, to its digest; `starts` among them.

    Imports inside functions are followed too, and the packages of a module, which Python runs
    before it. Modules from outside `src` are left out.

    `ignored` are folders to leave out, `known` files that are neither read nor followed.
    """
    src, folders = src.resolve(), [path.resolve() for path in ignored]
    waiting = [path.resolve() for path in starts]
    roots = [src, *{path.parent for path in waiting if not path.is_relative_to(src)}]
    passed = set(known)
    reached: dict[Path, str] = {}
    while waiting:
        path = waiting.pop()
        if path in passed or any(path.is_relative_to(folder) for folder in folders):
            continue
        passed.add(path)
        source = read_source(path)
        reached[path] = source.digest
        waiting += [*_find_imports(path, source.imports, roots), *_find_data(path, source.texts)]
    return reached


def _find_imports(
    path: Path, imports: frozenset[tuple[int, str]], roots: list[Path]
) -> Iterator[Path]:
    """Find the files of the imports of a file, and of its package."""
    folder = path.parent.parent if path.name == "__init__.py" else path.parent
    files = [folder / "__init__.py"]
    for level, name in imports:
        for base in [path.parents[level - 1]] if level else roots:
            module = base.joinpath(*name.split("."))
            files += [module / "__init__.py", module.with_name(f"{module.name}.py")]
    yield from filter(Path.is_file, files)


def _find_data(path: Path, texts: frozenset[str]) -> Iterator[Path]:
    """Find the files next to a module that its strings name, or all in a folder of that name."""
    for name in texts & {entry.name for entry in path.parent.iterdir()}:
        named = path.parent / name
        files = [file for file in [named, *named.rglob("*")] if file.is_file()]
        if not any(file.suffix in {".py", ".pyc"} for file in files):
            yield from files


def digest_code(*modules: str) -> str:
    """Compute the digest of imported modules, by name, and of all that they import.

    Tracking, which only shows what ran, does not count.
    """
    files = [Path(file) for name in modules if (file := sys.modules[name].__file__)]
    code = find_code(files, ignored=[SRC / "histofuse" / "tracking"])
    return _digest("\n".join(sorted(f"{d} {file.name}" for file, d in code.items())).encode())


def write_code_list(script: Path, path: Path, ignored: Iterable[str] = ()) -> int:
    """List the code of a stage at `path`, one ``digest path`` a line; return the number of files.

    `script` is in a folder next to ``src``; `ignored` are folders to leave out, from the root.
    """
    root = _find_root(script)
    code = find_code([script], root / "src", [root / folder for folder in ignored])
    digests = {file.relative_to(root).as_posix(): digest for file, digest in code.items()}
    lines = sorted((digests | dict.fromkeys(ignored, IGNORED)).items())
    write_text("".join(f"{digest:{_DIGITS}} {name}\n" for name, digest in lines), path)
    return len(code)


class CodeList:
    """The list of a stage, to compare with what is there and what is imported.

    After ``dvc repro code`` they agree. They differ if that stage was left out (``dvc repro -s``),
    or if the package comes from another checkout.
    """

    def __init__(self, script: Path) -> None:
        self.root = _find_root(script)
        self.path = Path(LISTS, f"{script.stem}.txt")
        path = self.root / self.path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        lines = [line.split(maxsplit=1) for line in text.splitlines()]
        self.digests = {self.root / name: d for d, name in lines if d != IGNORED}
        self.ignored = [self.root / name for d, name in lines if d == IGNORED]

    def check_sources(self) -> None:
        """Compare the digests with the files; HistofuseError if a file differs or is gone."""
        for file, digest in self.digests.items():
            if not file.is_file() or read_source(file).digest != digest:
                name = file.relative_to(self.root)
                raise HistofuseError(f"{name} is not as in {self.path}. {REMEDY}")

    def check_imports(self) -> None:
        """Compare them with the modules imported so far; HistofuseError if one is not listed."""
        imported = _list_imported(self.root / "src")
        shown = [f for f in imported if any(f.is_relative_to(folder) for folder in self.ignored)]
        # What only an ignored module imports is not listed either.
        also = find_code(shown, self.root / "src", known=self.digests)
        for file in sorted(imported - {*self.digests, *also}):
            if not file.is_relative_to(self.root):
                raise HistofuseError(f"imports {file}, which is not in {self.root / 'src'}")
            name = file.relative_to(self.root)
            remedy = f"{REMEDY} If that does not list it, import it with an import statement."
            raise HistofuseError(f"imports {name}, which is not in {self.path}. {remedy}")


def _find_root(script: Path) -> Path:
    return script.resolve().parents[1]


def _list_imported(src: Path) -> set[Path]:
    """List the files of all imported modules that belong to a package in `src`, by name."""
    packages = {path.parent.name for path in src.glob("*/__init__.py")}
    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] in packages]
    return {Path(file).resolve() for m in modules if (file := getattr(m, "__file__", None))}
