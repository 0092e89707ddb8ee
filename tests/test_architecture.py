"""Rules about the package as a whole, read from its source."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.util
import re
import subprocess
import sys
import tarfile
import tokenize
import zipfile
from pathlib import Path

import pytest

import hf_unmask

PACKAGE = Path(hf_unmask.__file__).parent
ROOT = PACKAGE.parent
#: Path in the package (the folder trainers/ is installed as `hf_unmask.trainers`) -> file.
SOURCES = {path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES |= {path.relative_to(ROOT): path for path in sorted((ROOT / "trainers").glob("*.py"))}
FILES = {".".join(name.with_suffix("").parts).removesuffix(".__init__"): path for name, path in SOURCES.items()}
#: The house: a room (a folder, or a file at the package's root) and its floor. It imports from lower floors only.
FLOORS = {
    "denoisers": 1,
    "results": 1,
    "metrics": 1,
    "generation": 2,
    "report": 2,
    "policy": 3,
    "samplers": 4,
    "doors": 5,
    "hub_generate": 5,  # at the root, because repositories on the Hub call it by this name
    "tiny": 6,
    "evaluation": 7,
    "trainers": 8,
    "cli": 9,
    "integrations": 10,
}
#: The package's __init__ names everything lazily; only what it holds itself may be imported from it.
LIGHT = {"__version__"}


def room(module: str) -> str:
    return module.split(".")[0]


@functools.cache
def tree(module: str) -> ast.Module:
    """The source, its relative imports under their full names."""
    found = ast.parse(FILES[module].read_text(encoding="utf-8"))
    folder = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(found):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module, "only modules of the same folder are imported relatively"
            node.module = f"hf_unmask.{folder}.{node.module}"
    return found


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@functools.cache
def imports(node: ast.AST) -> list[tuple[str, tuple[str, ...]]]:
    """Modules imported anywhere below, inside functions and for type checkers too, and the names taken from them."""
    found = []
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            found += [(alias.name, ()) for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            found.append((child.module, tuple(alias.name for alias in child.names)))
    return found


def own_modules(node: ast.AST) -> set[str]:
    found = set()
    for module, names in imports(node):
        if module == "hf_unmask":
            found |= {name for name in names if name not in LIGHT}
        elif module.startswith("hf_unmask."):
            inner = module.removeprefix("hf_unmask.")
            submodules = {f"{inner}.{name}" for name in names if f"{inner}.{name}" in FILES}
            found |= submodules or {inner}
    return found


@pytest.mark.parametrize("module", [m for m in FILES if m != "__init__"])
def test_imports_point_downward(module):
    """Inside a room only cycles matter, see below."""
    others = {name for name in own_modules(tree(module)) if room(name) != room(module)}
    upward = {name for name in others if FLOORS[room(name)] >= FLOORS[room(module)]}
    assert not upward, f"hf_unmask.{module} imports {sorted(upward)} from its own floor or a higher one"


def test_every_room_has_a_floor_and_a_sign():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} | {"trainers"}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert folders | files == set(FLOORS)
    for name in folders:
        sign = ast.get_docstring(tree(name)) or ""
        for word in ("Start", "import"):  # where to start reading, what it may import
            assert word in sign, f"the docstring of hf_unmask.{name} does not say {word!r}"


def test_only_the_command_line_knows_its_libraries():
    for module in FILES:
        known = {name.split(".")[0] for name, _ in imports(tree(module))} & {"typer", "rich", "click"}
        assert not known or room(module) == "cli", f"hf_unmask.{module} imports {known}"


def test_results_are_read_without_torch():
    for module in FILES:
        if room(module) in ("results", "report"):
            heavy = {name.split(".")[0] for name, _ in imports(tree(module))} & {"torch", "transformers"}
            assert not heavy, f"hf_unmask.{module} imports {heavy}"


@pytest.mark.parametrize("module", FILES)
def test_folders_with_two_names_import_themselves_relatively(module):
    """`trainers` is a name of the checkout only, and `hf_unmask.trainers` one of the installed package; a metric is
    loaded from a copy of its folder, under a name that the evaluate library makes up."""
    own = "hf_unmask.trainers" if room(module) == "trainers" else f"hf_unmask.{module.rpartition('.')[0]}."
    two_names = room(module) == "trainers" or re.fullmatch(r"metrics\.\w+\.\w+", module) is not None
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert (node.level > 0) == (two_names and node.module.startswith(own)), ast.unparse(node)
    assert not {name for name, _ in imports(tree(module)) if name.split(".")[0] == "trainers"}


def test_no_import_cycles():
    graph = {module: own_modules(tree(module)) - {module} for module in FILES if module != "__init__"}
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= set(graph)


@pytest.mark.parametrize("module", [m for m in FILES if m != "__init__"])
def test_nothing_needs_the_training_stack(module):
    heavy = {"trl", "datasets", "evaluate", "reasoning_gym"}
    if room(module) not in ("metrics", "evaluation", "trainers") and not module.startswith("cli.train"):
        # extras; loaded by their commands only
        assert not {name.split(".")[0] for name, _ in imports(tree(module))} & heavy


@functools.cache
def calls(module: str) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree(module)) if isinstance(node, ast.Call)}


def test_the_denoiser_is_called_in_one_place():
    callers = {m for m in FILES if any(re.search(r"(^|\.)_?denoiser$", name) for name in calls(m))}
    assert callers == {"generation.advancing", "doors.check_proofs"}  # the second decodes nothing: it compares passes
    assert {m for m in FILES if calls(m) & {"self.model", "denoiser.model", "self.denoiser.model"}} == {
        "denoisers.adapter"
    }


#: Beside other people's programs, where models are told apart by name.
ADAPTERS = ("denoisers.families", "denoisers.compat", "doors.random_canvas")


def code_without_prose(path: Path) -> str:
    """The source without comments and docstrings."""
    source = path.read_text(encoding="utf-8")
    prose = {
        node.body[0].value.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    kept = [t for t in tokens if t.type != tokenize.COMMENT]
    return " ".join(t.string for t in kept if not (t.type == tokenize.STRING and t.start[0] in prose))


def test_family_names_stay_in_the_adapters():
    names = r"llada|dream|sdar|trado|fast_dllm|mdlm|bd3|a2d|gemma|126336|15166[569]|156895"
    family = re.compile(names, re.IGNORECASE)
    holders = {m for m, path in FILES.items() if family.search(code_without_prose(path))}
    assert {m for m in holders if room(m) != "integrations"} <= {*ADAPTERS}
    assert "denoisers.families" in holders


def loaded_by(*statements: str) -> list[set[str]]:
    """The modules that are loaded after each of some statements of one process."""
    code = "import sys; " + "; ".join(f"{statement}; print(*sys.modules)" for statement in statements)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_importing_the_package_costs_nothing():
    heavy = {"torch", "transformers", "trl", "datasets", "evaluate", "accelerate", "typer", "rich", "numpy"}
    (loaded,) = loaded_by("import hf_unmask")
    assert "hf_unmask" in loaded and not loaded & heavy


def test_a_missing_extra_is_named_by_the_trainers(monkeypatch):
    for name in ("config", "trainer"):
        monkeypatch.delitem(sys.modules, f"hf_unmask.trainers.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r"UnmaskingGRPOConfig needs trl: pip install 'hf_unmask\[train\]'"):
        _ = importlib.import_module("hf_unmask.trainers").UnmaskingGRPOConfig


def test_the_trainers_names_are_lazy():
    heavy = {"torch", "transformers", "trl", "datasets", "evaluate", "reasoning_gym"}
    command, trainers = loaded_by("import hf_unmask.cli", "import hf_unmask.trainers")
    assert not command & (heavy | {"hf_unmask.trainers"})
    assert "hf_unmask.trainers" in trainers and not trainers & heavy
    importlib.import_module("hf_unmask.trainers").UnmaskingGRPOTrainer  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = importlib.import_module("hf_unmask.trainers").nothing


@pytest.fixture(scope="module")
def samplers_and_specs():
    return loaded_by("from hf_unmask.samplers import ThresholdSampler", "import hf_unmask.samplers.specs")


@pytest.mark.slow
def test_hand_written_samplers_load_no_policy(samplers_and_specs):
    loaded, _ = samplers_and_specs
    assert "hf_unmask.samplers.threshold" in loaded
    assert not {name for name in loaded if name.startswith("hf_unmask.policy") or name == "hf_unmask.samplers.learned"}
    assert not loaded & {"trl", "datasets", "evaluate"}


@pytest.mark.slow
def test_heuristics_load_no_policy_code(samplers_and_specs):
    _, loaded = samplers_and_specs
    assert "hf_unmask.samplers.specs" in loaded and not [name for name in loaded if "hf_unmask.policy" in name]


def test_every_public_name_resolves_and_is_typed():
    typed = {"__version__"}
    for node in tree("__init__").body:
        if type_checking(node):
            for module, names in imports(node):
                typed |= set(names)
                for name in names:
                    home = importlib.import_module(module)
                    assert getattr(hf_unmask, name) is getattr(home, name)
    assert set(hf_unmask.__all__) == typed == {*hf_unmask._HOME, "__version__"}
    assert dir(hf_unmask) == sorted(hf_unmask.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_unmask.nothing


def interpolates(message: ast.expr) -> bool:
    if isinstance(message, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in message.values)
    if isinstance(message, ast.BinOp):
        return interpolates(message.left) or interpolates(message.right)
    return not isinstance(message, ast.Constant)  # a call or a name builds it


#: Messages about something that is missing: there is no value to show.
NOTHING_TO_SHOW = (
    "`stop_at_eos` is True but the model has no stop token",
    "name the policy first",
    "a frequency table needs at least one token id",
    "pass `max_new_tokens`",
    "say where to: --output FOLDER",
    "this policy is not speed-conditioned",
    "there are no answers to vote on",
    "say where to: --output FOLDER",
    "evaluation needs prompts: pass eval_dataset=...",
    "pass the denoiser's tokenizer: processing_class=..., got None",
)


@pytest.mark.parametrize("module", FILES)
def test_errors_show_the_value(module):
    for node in ast.walk(tree(module)):
        assert not isinstance(node, ast.Assert), f"{module}:{node.lineno}: raise an error that says what is wrong"
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
            continue
        if ast.unparse(node.exc.func) == "ValueError" and node.cause is None:  # a cause shows its own
            message = node.exc.args[0]
            known = any(text in ast.unparse(message) for text in NOTHING_TO_SHOW)
            assert interpolates(message) or known, f"{module}:{node.lineno}: the message shows no value"


def test_the_trainer_stays_small():
    for path in (ROOT / "trainers").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path


#: What a distribution is built from.
SOURCE = (
    *("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile", ".ci"),
    *("hf_unmask", "trainers", "model_cards", "examples", "tests"),
)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The files of the wheel and of the source distribution."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("building offline needs setuptools")
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    source.mkdir()
    for name in SOURCE:
        copy_clean(ROOT / name, source / name)
    build = f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r}); b.build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", build], capture_output=True, text=True, check=False, cwd=source)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        kept = {name.partition("/")[2] for name in files.getnames()}
    return set(zipfile.ZipFile(wheel).namelist()), kept


@pytest.fixture(scope="module")
def wheel(distributions):
    return distributions[0]


@pytest.mark.slow
def test_the_source_distribution_can_be_tested(distributions):
    """Tests, what they read and what they are run with."""
    folders = [ROOT / name for name in SOURCE]
    files = [path for one in folders for path in ([one] if one.is_file() else one.rglob("*")) if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert expected - distributions[1] == set()


def copy_clean(source: Path, target: Path) -> None:
    """So that building leaves nothing behind in the working tree."""
    if source.is_file():
        target.write_bytes(source.read_bytes())
        return
    target.mkdir()
    for child in source.iterdir():
        if child.name != "__pycache__":
            copy_clean(child, target / child.name)


@pytest.mark.slow
def test_the_wheel_holds_everything_once(wheel):
    expected = {f"hf_unmask/{name}" for name in SOURCES}
    expected |= {
        f"hf_unmask/{p.relative_to(PACKAGE)}" for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".pyc"
    }
    assert not expected - wheel
    assert "hf_unmask/py.typed" in wheel and "hf_unmask/trainers/__init__.py" in wheel
    assert "hf_unmask/model_cards/template.md" in wheel
    assert {name.split("/")[0] for name in wheel if ".dist-info" not in name} == {"hf_unmask"}
