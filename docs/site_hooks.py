"""What mkdocs does not do by itself: reference pages from the code, links to files outside docs/, names as links."""

import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "rl2jax"
# Page of the reference -> the rooms whose modules it shows. tests/house/test_docs.py wants every module on one page.
ROOMS: dict[str, tuple[str, ...]] = {
    "Ground": ("types", "settings", "files", "devices", "xla", "kinds"),
    "Task distributions": ("envs",),
    "Reference agents": ("agents",),
    "Limits": ("limits",),
    "Trials": ("trials",),
    "Engines": ("engines",),
    "Networks": ("networks",),
    "Slow RL": ("slow_rl",),
    "Training": ("training",),
    "Runs and trained agents": ("runs",),
    "Results": ("results",),
}
# The command line has a page of its own.
ELSEWHERE = ("rl2jax", "__main__", "cli")
_LINK = re.compile(r"(\]\()([^)#\s:]+)([)#])")
_NAME = re.compile(r"(?<!\[)`(rl2jax(?:\.\w+)+)(?:\(\))?`")
_OUTSIDE = "repository"


def module_names() -> list[str]:
    """All modules of the package, relative to it; a package's name stands for its __init__.py."""
    paths = [path.relative_to(SOURCE).with_suffix("").parts for path in sorted(SOURCE.rglob("*.py"))]
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "rl2jax" for parts in paths]


def modules_of(page: str) -> list[str]:
    """The modules that a page of the reference shows: a room's in the order of their names."""
    rooms = ROOMS[page]
    return [name for room in rooms for name in module_names() if name == room or name.startswith(f"{room}.")]


def slug(room: str) -> str:
    """File of a page of the reference."""
    return "api/" + room.lower().replace(" ", "-") + ".md"


def reference_page(room: str) -> str:
    """Markdown that mkdocstrings fills in."""
    return f"# {room}\n\n" + "".join(f"::: rl2jax.{module}\n\n" for module in modules_of(room))


def command_page() -> str:
    """The command line's options, read off the functions that are its commands."""
    from rl2jax.cli.main import app

    lines = [
        "# Command line",
        "",
        "A mistake in a command gets one line that says what is allowed, and exit code 2.",
        "",
    ]
    for command in app.registered_commands:
        function: Any = command.callback
        lines += [f"## rl2jax {command.name or function.__name__}", "", inspect.getdoc(function) or "", ""]
        for name, parameter in inspect.signature(function).parameters.items():
            kind, info = get_args(parameter.annotation)
            kind = next((part for part in get_args(kind) if part is not type(None)), kind)  # of X | None, X
            is_option = type(info).__name__ == "OptionInfo"
            # `Annotated` leaves an option's first name in the field that otherwise holds its default.
            named = [part for part in (info.default, *(info.param_decls or ())) if isinstance(part, str)]
            spelled = ", ".join(named) or "--" + name.strip("_").replace("_", "-")
            value = info.metavar or (name.upper() if kind is not bool else "")
            shown = " ".join(filter(None, [spelled, value])) if is_option else value
            given = parameter.default not in (inspect.Parameter.empty, None, False)
            default = f" Default: `{parameter.default}`." if given else ""
            lines.append(f"- `{shown}`: {info.help}{default}")
        lines.append("")
    return "\n".join(lines)


def outside_links(text: str, folder: Path) -> Iterator[Path]:
    """Files of the repository outside docs/ to which a page links; a link to nothing is left for mkdocs to find."""
    for _, target, _ in _LINK.findall(text):
        path = (folder / target).resolve()
        if path.is_file() and not path.is_relative_to(ROOT / "docs"):
            yield path.relative_to(ROOT)


def on_config(config: Any) -> Any:
    """The reference's pages, in the navigation."""
    pages = [{room: slug(room)} for room in ROOMS]
    config.nav.append({"Reference": [{"Command line": "api/command-line.md"}, *pages]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the reference, and what pages link to outside docs/, with what that links to."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "api/command-line.md", content=command_page()))
    for room in ROOMS:
        files.append(File.generated(config, slug(room), content=reference_page(room)))
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if not file.src_uri.startswith("api/")]
    while waiting:
        page = waiting.pop()
        for path in outside_links(page.read_text(), page.parent):
            uri = f"{_OUTSIDE}/{path.as_posix()}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
                waiting += [ROOT / path] if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links that leave docs/ at the copies, and makes `rl2jax.module.name` a link to the reference."""
    uri = page.file.src_uri
    if uri.startswith("api/"):
        return markdown
    source = ROOT / uri.removeprefix(f"{_OUTSIDE}/") if uri.startswith(f"{_OUTSIDE}/") else ROOT / "docs" / uri

    def relink(match: re.Match) -> str:
        path = (source.parent / match[2]).resolve()
        if not path.is_file():
            return match[0]
        inside = path.is_relative_to(ROOT / "docs")
        wanted = path.relative_to(ROOT / "docs").as_posix() if inside else f"{_OUTSIDE}/{path.relative_to(ROOT)}"
        return match[1] + posixpath.relpath(wanted, posixpath.dirname(uri) or ".") + match[3]

    blocks = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    blocks[::2] = [_NAME.sub(r"[`\1`][\1]", _LINK.sub(relink, text)) for text in blocks[::2]]
    return "".join(blocks)
