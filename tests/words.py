"""Measure the language of the repository, for `make words`: names, docstrings, prose, comments, imports.

    python -m tests.words

Each figure has a limit; the exit code is 1 when one is passed. The limits are those of the projects that read well:
procrastinate, stamina, psycopg, cosmos and filelock.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_safecopy"


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PREPOSITIONS = _set_of(
    "about above across after against along among around at before behind below beneath beside between beyond by "
    "down during except for from in inside into near of off on onto out outside over past since through throughout "
    "till to toward under until up upon with within without"
)
_IRREGULAR = _set_of(
    "become begun bound broken brought built caught chosen come cut dealt done drawn driven eaten fallen felt forgotten "
    "found given gone grown heard held hidden kept known laid learnt led left lent lost made meant met paid proven said "
    "seen sent set shown shut sold spoken spent spoilt stood stuck swept taken taught told thought thrown understood "
    "used waited won worn written"
)
_NO_PARTICIPLES = _set_of("embed feed feeds need seed set shed shred speed weed")
"""Verbs and nouns that only look like participles."""

_RIDDLES = re.compile(r"\b(?:nobody|somebody|whoever|anybody|everybody)\b", re.IGNORECASE)
_OPENINGS = ("What", "Who", "Whether", "How")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


@dataclass(frozen=True)
class Figure:
    """A figure, its limit, and the places that make it up."""

    name: str
    value: float
    limit: float
    places: tuple[str, ...] = ()
    at_least: bool = False
    goal: float | None = None
    """Where the figure is to come to; its limit keeps it from going back."""

    @property
    def holds(self) -> bool:
        """Whether the figure keeps to its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def measure(paths: Iterable[Path], documents: Iterable[Path]) -> list[Figure]:
    """Return all figures of these modules and documents."""
    texts = {path: path.read_text() for path in paths}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions = [(path, name) for path, tree in trees.items() for name in read_function_names(tree)]
    bare = [f"{path.relative_to(ROOT)}: {name}" for path, name in functions if is_bare(name)]
    docstrings = [(path, text) for path, tree in trees.items() for text in read_docstrings(tree)]
    openings = [f"{path.relative_to(ROOT)}: {text.splitlines()[0]}" for path, text in docstrings if opens_badly(text)]
    comments = {path: list(read_comments(text)) for path, text in texts.items()}
    prose = [text for _, text in docstrings] + [line for lines in comments.values() for line in lines]
    prose += [path.read_text() for path in documents]
    words = sum(len(_WORD.findall(text)) for text in prose)
    riddles = [line for text in prose for line in text.splitlines() if _RIDDLES.search(line)]
    lines = sum(len(text.splitlines()) for text in texts.values())
    imports = sum(count_import_lines(tree) for tree in trees.values())
    return [
        Figure("functions named by a bare participle or preposition, %", _percent(bare, functions), 1.0, tuple(bare)),
        Figure(
            "docstrings that open with What, Who, Whether or How, %",
            _percent(openings, docstrings),
            3.0,
            tuple(openings),
        ),
        Figure("nobody, somebody, whoever, per 1,000 words", 1000 * len(riddles) / words, 0.1, tuple(riddles)),
        Figure(
            "own-line comments, % of lines",
            100 * sum(map(len, comments.values())) / lines,
            1.4,
            at_least=True,
            goal=2.0,
        ),
        Figure("import lines, % of lines", 100 * imports / lines, 8.6, goal=6.0),
    ]


def is_bare(name: str) -> bool:
    """Whether a function's name is nothing but a participle or a preposition, or both in a row."""
    words = name.strip("_").split("_")
    kinds = [_is_participle(word) or word in _PREPOSITIONS for word in words]
    return name.strip("_") != "" and not name.startswith("__") and len(words) <= 2 and all(kinds)


def _is_participle(word: str) -> bool:
    return word in _IRREGULAR or (word.endswith("ed") and word not in _NO_PARTICIPLES)


def opens_badly(docstring: str) -> bool:
    """Whether a docstring opens as a riddle."""
    return docstring.split(maxsplit=1)[0].rstrip(",:") in _OPENINGS


def read_function_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of all functions and methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def read_docstrings(tree: ast.AST) -> Iterator[str]:
    """Yield all docstrings that are not empty."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def read_comments(text: str) -> Iterator[str]:
    """Yield the comments that stand on lines of their own."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            yield token.string


def count_import_lines(tree: ast.AST) -> int:
    """Return the number of lines that import statements take."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in found)


def _percent(part: list[str], whole: list[tuple[Path, str]]) -> float:
    return 100 * len(part) / len(whole)


def main(say: Callable[[str], None] = print) -> int:
    """Print each figure with its limit, and the places of one that passes it."""
    documents = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if not path.name.endswith(".ko.md")]
    figures = measure(sorted(PACKAGE.rglob("*.py")), documents)
    for figure in figures:
        sign = "at least" if figure.at_least else "at most"
        goal = "" if figure.goal is None else f", goal {figure.goal:g}"
        say(f"{figure.value:6.2f}  {figure.name} ({sign} {figure.limit:g}{goal})")
        if not figure.holds:
            say("\n".join(f"        {place}" for place in figure.places))
    return int(not all(figure.holds for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
