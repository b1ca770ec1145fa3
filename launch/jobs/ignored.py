"""Which files a project's .gitignore and .rayignore name: gitignore(5), without git.

A job's package is packed from folders that need not be repositories, and on machines that need not have git.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FILES = (".gitignore", ".rayignore")


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    base: PurePosixPath
    wanted: bool
    folders_only: bool


class Ignored:
    """The rules that hold in a folder: its own, and those of the folders above it. Later rules win."""

    def __init__(self, rules: Sequence[_Rule] = ()) -> None:
        self._rules = tuple(rules)

    def below(self, folder: Path, place: PurePosixPath) -> "Ignored":
        """These and the folder's own. `place`: the folder, seen from where all paths are counted from."""
        added = [rule for name in FILES for rule in _read(folder / name, place)]
        return Ignored([*self._rules, *added]) if added else self

    def __call__(self, path: PurePosixPath, *, is_folder: bool) -> bool:
        """Is this one left out? The folders above it are not: who walks does not enter those."""
        for rule in reversed(self._rules):
            if rule.folders_only and not is_folder:
                continue
            if rule.pattern.fullmatch(path.relative_to(rule.base).as_posix()):
                return not rule.wanted
        return False


def ignored_in(root: Path) -> tuple[Ignored, PurePosixPath]:
    """The rules for `root` from the repository around it, if there is one, and where `root` lies in that."""
    top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)
    place = PurePosixPath(root.relative_to(top).as_posix())
    rules = Ignored()
    for above in reversed(place.parents):  # of the top itself there are none
        rules = rules.below(top / above, above)
    return rules, place


def _read(path: Path, base: PurePosixPath) -> list[_Rule]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [rule for line in lines if (rule := _parse(line, base)) is not None]


def _parse(line: str, base: PurePosixPath) -> _Rule | None:
    text = re.sub(r"(?<!\\) +$", "", line)
    if not text or text.startswith("#"):
        return None
    wanted = text.startswith("!")
    text = text.removeprefix("!")
    folders_only = text.endswith("/")
    text = text.removesuffix("/")
    anchored = "/" in text
    text = text.removeprefix("/")
    if not text:
        return None
    expression = _translate(text) if anchored else f"(?:.*/)?{_translate(text)}"
    try:
        return _Rule(re.compile(expression, re.DOTALL), base, wanted, folders_only)
    except re.error:  # such as [z-a]: it matches nothing, as in git
        return None


_PIECES = re.compile(r"^\*\*/|/\*\*/|/\*\*$|\*+|\?|\[[!^]?\]?(?:\\.|[^\]\\])*\]|\\.|.", re.DOTALL)


def _translate(text: str) -> str:
    return "".join(_piece(piece) for piece in _PIECES.findall(text))


def _piece(piece: str) -> str:
    special = {"**/": "(?:.*/)?", "/**/": "/(?:.*/)?", "/**": "/.+", "?": "[^/]"}
    if piece in special:
        return special[piece]
    if piece.startswith("*"):
        return "[^/]*"
    if len(piece) > 1 and piece.startswith("["):
        inside = piece[1:-1]
        negated = inside.startswith(("!", "^"))
        inside = inside[1:] if negated else inside
        return f"(?!/)[{'^' if negated else ''}{inside.replace('[', chr(92) + '[')}]"
    return re.escape(piece[1:] if piece.startswith("\\") else piece)
