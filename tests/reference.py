"""Write the reference page of the options from their declarations: ``make reference``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from airflow_provider_safecopy.cli.entry import safecopy
from airflow_provider_safecopy.display import format_seconds
from airflow_provider_safecopy.option import Option
from airflow_provider_safecopy.spec import CopySpec

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "options.md"
_HEAD = """\
# Options

The options of a copy, as `SafeCopyOperator`, `CopySpec.of` and the command take them. `make reference` writes this page
from the declarations in `spec.py` and `spec.py`: change them there.

What is marked *templated* may be a template or another task's result in Airflow. What is marked *all tables* holds for all
tables of a call; the others may be given for one table of `tables` alone. The command reads times such as `90s`, `15min`
or `4h`, and sizes such as `512MiB` or `20MB`; Python takes seconds and bytes.
"""


def page(kind: type[CopySpec] = CopySpec) -> str:
    """Return the reference page of the options that `kind` declares."""
    return "\n".join([_HEAD, *_groups(kind), *_old_names(kind), *_other_flags(kind)])


def _groups(kind: type[CopySpec]) -> Iterator[str]:
    for group in dict.fromkeys(each.group for each in kind.options()):
        yield f"## {group}\n\n| Python | Command | Type | Default | Meaning |\n|---|---|---|---|---|"
        yield from (_row(each) for each in kind.options() if each.group == group)
        yield ""


def _row(each: Option) -> str:
    marks = [mark for mark, holds in (("templated", each.templated), ("all tables", each.shared)) if holds]
    in_command = each.kind.in_command.replace(": see below", "")
    notes = [each.meaning, _in("Airflow", each.in_airflow), _in("the command", in_command)]
    notes.append(f"*({', '.join(marks)})*" if marks else "")
    cells = (f"`{each.name}`", f"`{each.flag}`", _type(each), _default(each), " ".join(filter(None, notes)))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _in(place: str, note: str) -> str:
    return f"In {place}: {note[:1].lower()}{note[1:]}" if note else ""


def _type(each: Option) -> str:
    if each.kind.words:
        return ", ".join(f"`{word}`" for word in each.kind.words)
    return f"`{each.kind.written}`"


def _default(each: Option) -> str:
    if each.default_text:
        return each.default_text
    if each.required:
        return "required"
    if each.kind.name == "seconds" and each.default is not None:
        return f"`{each.default:g}` ({format_seconds(each.default)})"
    return "" if each.default is None else f"`{each.default!r}`"


def _old_names(kind: type[CopySpec]) -> Iterator[str]:
    yield "## Old names\n\nAccepted with a warning for one version, in Python, in lists of tables and by the command.\n"
    yield "| Old | Now |\n|---|---|"
    for each in kind.options():
        yield from (f"| `{alias.name}` | `{alias.replacement or each.name}` |" for alias in each.aliases)
    yield ""


def _other_flags(kind: type[CopySpec]) -> Iterator[str]:
    declared = {each.name for each in kind.options()}
    yield "## Other flags of `safecopy copy`\n\n| Command | Meaning |\n|---|---|"
    for each in safecopy.commands["copy"].params:
        if isinstance(each, click.Option) and not each.hidden and each.name not in declared:
            yield f"| {', '.join(f'`{flag}`' for flag in each.opts)} | {each.help} |"
    yield ""


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), "utf-8")
