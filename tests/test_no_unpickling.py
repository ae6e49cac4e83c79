"""No code of the project runs what it reads: looked for in the syntax tree, not in the text."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, must

_PICKLES = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
_FORBIDDEN = {
    *(f"{module}.{name}" for module in _PICKLES for name in ("load", "loads", "Unpickler", "open")),
    *(f"pickle._{name}" for name in ("load", "loads", "Unpickler")),
    *(f"yaml.{name}" for name in ("load", "load_all", "full_load", "unsafe_load")),
    "yaml.unsafe_load_all",
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("pandas.read_pickle", "numpy.core.multiarray._reconstruct"),
}  # fmt: skip
# Arguments that let a library run what a file brings; only the literal False is harmless.
_SWITCHES = {"allow_pickle", "trust_remote_code"}
_SANDBOXED = "pedigree/sandbox/workers/"
# They hold a hostile setting, and a worker that unpickles to show that the sandbox holds it.
_PLANTED = {"tests/unit/admission/test_scan.py", "tests/unit/sandbox/small_workers.py"}


def _python_files() -> list[str]:
    names = must("git", "ls-files", "-co", "--exclude-standard", "*.py", cwd=REPOSITORY)
    return [name for name in names.splitlines() if (REPOSITORY / name).is_file()]


def find_unsafe(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each use of what runs code out of data."""
    tree = ast.parse(text)
    names = _imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            if (dotted := _dotted(node, names)) in _FORBIDDEN:
                yield node.lineno, dotted
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (dotted := f"{node.module}.{alias.name}") in _FORBIDDEN:
                    yield node.lineno, dotted
                elif alias.name == "*" and node.module in (*_PICKLES, "yaml", "torch"):
                    yield node.lineno, f"{node.module}.*"
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in _SWITCHES and not _off(value):
                    yield node.lineno, str(key.value)
        elif isinstance(node, ast.Call):
            yield from _unsafe_call(node, names)


def _unsafe_call(node: ast.Call, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    for keyword in node.keywords:
        if keyword.arg in _SWITCHES and not _off(keyword.value):
            yield node.lineno, keyword.arg
    function = _dotted(node.func, names)
    words = [one.value for one in node.args if isinstance(one, ast.Constant)]
    if function == "getattr" and len(node.args) > 1 and words:
        if (dotted := f"{_dotted(node.args[0], names)}.{words[0]}") in _FORBIDDEN:
            yield node.lineno, dotted
    elif function in ("__import__", "importlib.import_module") and words:
        if words[0] in _PICKLES:
            yield node.lineno, f"import of {words[0]}"
    elif function == "numpy.load" and len(node.args) > 2:
        yield node.lineno, "numpy.load with positional arguments"


def _off(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name stands for, wherever it is imported."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                found[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return ""


@pytest.mark.parametrize("name", sorted(set(_python_files()) - _PLANTED))
def test_nothing_that_is_read_is_run(name: str) -> None:
    found = list(find_unsafe((REPOSITORY / name).read_text(encoding="utf-8")))
    if name.startswith(_SANDBOXED):
        found = [one for one in found if one[1] != "torch.load"]
    assert found == [], f"{name}: use JSON, Arrow or safetensors, or open it in the sandbox"


def test_the_sandboxed_loader_takes_weights_only() -> None:
    for path in (REPOSITORY / _SANDBOXED).glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _dotted(node.func, {}) == "torch.load":
                switches = {one.arg: ast.unparse(one.value) for one in node.keywords}
                assert switches["weights_only"] == "True"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b)",
        "from pickle import loads",
        "from pickle import loads as read\nread(b)",
        "from pickle import *",
        "import pickle\nread = pickle.loads",
        "import pickle\npickle.Unpickler(f).load()",
        "def f():\n    import pickle\n    return getattr(pickle, 'lo' 'ads')(b)",
        "import importlib\nimportlib.import_module('pickle')",
        "__import__('dill')",
        "import torch\ntorch . load (f, weights_only=True)",
        "import torch as t\nt.load(f)",
        "from torch import load",
        "import torch.jit\ntorch.jit.load(f)",
        "import yaml\nyaml.load(f, Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load",
        "import joblib\njoblib.load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, None, True)",
        "import numpy as np\nnp.load(f, allow_pickle=flag)",
        "import pandas as pd\npd.read_pickle(f)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, **{'trust_remote_code': True})",
    ],
)
def test_the_lint_sees(code: str) -> None:
    assert list(find_unsafe(code))


@pytest.mark.parametrize(
    "code",
    [
        "import json\njson.load(f)",
        "import yaml\nyaml.safe_load(f)",
        "import pickletools\npickletools.genops(b)",
        "import pickle\npickle.dumps(x)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "text = 'pickle.loads(b) and trust_remote_code=True'  # torch.load",
        "AutoModel.from_pretrained(x, trust_remote_code=False)",
        "class pickle_reader:\n    pass\npickle_reader.load()",
    ],
)
def test_the_lint_lets_pass(code: str) -> None:
    assert list(find_unsafe(code)) == []


def test_the_lint_looks_at_every_package() -> None:
    packages = {Path(name).parts[0] for name in _python_files()}
    assert packages >= {"pedigree", "assets", "checks", "pipelines", "tests", "benchmarks"}
    assert set(_python_files()) >= _PLANTED
