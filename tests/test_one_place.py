"""What each goes through one place: loading a checkpoint, opening a user's file, printing."""

import ast
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent


@cache
def calls(*folders: str) -> list[tuple[str, str, ast.Call]]:
    """Return every call in the code of some folders: the file, what is called, the call."""
    return [
        (path.relative_to(REPO).as_posix(), ast.unparse(node.func), node)
        for folder in folders
        for path in sorted((REPO / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


# This package's own, which go on to `load_pretrained`; a table of torch's; settings, no code.
OWN = {"ImageTransform", "PatchEncoder", "TextEncoder", "nn.Embedding", "GenerationConfig"}
HIDDEN = ("pipeline", "torch.hub.load", "AutoPeftModel", "SentenceTransformer", "exec", "eval")


@pytest.mark.parametrize("folder", ["llava_sea", "playground", "scripts"])
def test_no_checkpoint_is_loaded_around_the_one_place(folder):
    around, asked = [], 0
    for path, called, call in calls(folder):
        owner, _, method = called.rpartition(".")
        asked += called.endswith("load_pretrained")
        refuses = any(
            keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) == "False"
            for keyword in call.keywords
        )
        loads = method in ("from_pretrained", "from_config") and owner not in OWN
        if (loads and not refuses) or called in HIDDEN:
            around.append(f"{path}:{call.lineno}: {called}")
        if method == "from_pretrained" and owner not in OWN:
            assert path == "llava_sea/pretrained.py"
    assert around == [] and asked


# What opens a file by itself, and why nothing else can be there.
OPENS = {
    ("alignment/label_rows.py", "os.open"),  # without waiting, and compares what it finds
    ("data/images.py", "Image.open"),  # bytes
    ("report/charts.py", "Image.open"),  # bytes that it has just drawn
    ("report/charts.py", "(files('llava_sea.report') / 'style.css').read_text"),  # the package's
    ("labels/claims.py", "open"),  # a claim, which a process like it has made
    ("labels/claims.py", "self._held.read_text"),  # its own
    ("model/write_files.py", "open"),  # what it has just written
    ("labels/claims.py", "open"),  # its own claims, which may vanish at any moment
    ("labels/claims.py", "self._held.read_text"),
}


def test_no_file_is_read_around_the_one_place():
    around = set()
    for path, called, call in calls("llava_sea"):
        name = path.removeprefix("llava_sea/")
        # train: what the run itself wrote
        if name != "files.py" and not name.startswith("train/") and reads(called, call):
            around.add((name, called))
    assert around == OPENS


def reads(called: str, call: ast.Call) -> bool:
    owner, _, last = called.rpartition(".")
    if last in ("read_text", "read_bytes"):
        return bool(owner) and owner != "files"
    if last != "open" or owner.endswith("opener"):
        return False
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return not any(set(mode) & set("wa+") for mode in modes)


def test_nothing_is_printed_around_the_one_place():
    around = set()
    for path, called, _ in calls("llava_sea"):
        raw = called in ("print", "logging.basicConfig", "Console", "logging.StreamHandler")
        if raw or called.endswith(("stdout.write", "stderr.write", "self.out.write")):
            around.add((path.removeprefix("llava_sea/"), called))
    assert around == {
        ("terminal.py", "print"),
        ("terminal.py", "logging.basicConfig"),
        ("serve/chat.py", "self.out.write"),  # as it is into a pipe, printable on a terminal
    }


def test_packages_do_not_import_in_circles():
    """Nothing below training knows of it, and the arrows between packages never lead back."""
    below: dict[str, set[str]] = {}
    for path in (REPO / "llava_sea").glob("*/**/*.py"):
        package = path.relative_to(REPO / "llava_sea").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            module = getattr(node, "module", None) or ""
            if isinstance(node, ast.ImportFrom) and module.count(".") > 1:
                below.setdefault(package, set()).add(module.split(".")[1])
    assert not any("train" in below[name] for name in ("data", "model", "alignment", "labels"))

    def reached(package: str) -> set[str]:
        found: set[str] = set()
        left = below.get(package, set()) - {package}
        while left:
            found |= left
            left = set().union(*(below.get(name, set()) - {name} for name in left)) - found
        return found

    assert [name for name in below if name in reached(name)] == []
