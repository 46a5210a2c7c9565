"""Imports point upwards only: a module uses what is more basic than itself, and there are no cycles."""

import ast
import itertools
import re
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"

# The package map, most basic first. At module level each entry may import from those above it; a package is one entry,
# less the modules of it that have their own, and may import from itself. A new module has to be given its place here.
ORDER = """
    threefry
    trees
    distributed
    structure
    conditional
    compiling
    packing
    shuffling
    checks
    network
    interop.freezing
    interop.equinox
    interop.flax
    models
    priors
    likelihoods
    posterior
    bnn
    noise
    friction
    geometry
    microcanonical
    tuning
    mile
    samplers
    places
    streams
    data
    augment
    datasets
    result
    validation
    progress
    feeds
    interrupts
    buffers
    store
    grouping
    chains
    meshes
    recording
    running
    sizing
    persistence
    loading
    exporting
    distributed resuming
    sampling
    ensemble
    predict
    metrics
    diagnostics
    plots
    reporting
    interop
    estimators
    smilax
    demo
    experiments
    cli
    __main__
""".split()
# The core may be used, and read, without the machinery that runs it.
CORE = """threefry trees structure conditional packing network priors likelihoods posterior noise friction geometry
    microcanonical tuning mile""".split()
MACHINERY = """samplers places streams data augment validation progress feeds interrupts buffers store grouping chains
    meshes result recording running sizing persistence loading exporting resuming sampling ensemble predict metrics
    diagnostics plots reporting smilax demo cli __main__""".split()
# Import name -> name of the distribution that pyproject.toml lists.
DISTRIBUTION = {"PIL": "pillow", "arviz_base": "arviz-base", "sklearn": "scikit-learn"}


def name_of(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((SOURCE / "smilax").rglob("*.py"))}


def layer(module):
    """The entry of ORDER that a module belongs to, or else its own name; the top-level `__init__` is "smilax"."""
    parts = module.split(".")[1:] or ["smilax"]
    prefixes = [".".join(parts[: n + 1]) for n in reversed(range(len(parts)))]
    return next((prefix for prefix in prefixes if prefix in ORDER), parts[0])


def module_level(tree):
    """Import statements that run when the module is imported: not those in functions or under TYPE_CHECKING."""
    todo = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
        else:
            todo.extend(ast.iter_child_nodes(node))


def targets(module, node):
    """The modules named by an import statement; `from a import b` is a.b where that is a module, else a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if inner in MODULES else base


@cache
def imports(module):
    tree = ast.parse(MODULES[module].read_text())
    return {target for node in module_level(tree) for target in targets(module, node)}


def ours(module):
    return {target for target in imports(module) if target.split(".")[0] == "smilax"}


pytestmark = pytest.mark.once
each_module = pytest.mark.parametrize("module", MODULES)


def test_every_module_has_its_place():
    unplaced = [module for module in MODULES if layer(module) not in ORDER]
    assert not unplaced, f"add {unplaced} to ORDER in {Path(__file__).name}"


@each_module
def test_imports_point_upwards(module):
    unknown = [target for target in ours(module) if target not in MODULES]
    assert not unknown, f"{module} imports {unknown}, which do not exist"
    allowed = ORDER[: ORDER.index(layer(module)) + 1] if layer(module) in ORDER else ORDER
    wrong = [target for target in ours(module) if layer(target) not in allowed]
    assert not wrong, f"{module} imports {wrong}, which come after it in ORDER"


@each_module
def test_core_does_not_know_the_machinery(module):
    # Also inside functions, where ORDER does not look.
    if layer(module) not in CORE:
        return
    nodes = [n for n in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
    used = {layer(t) for node in nodes for t in targets(module, node) if t.split(".")[0] == "smilax"}
    assert used.isdisjoint(MACHINERY), f"{module} imports {used.intersection(MACHINERY)}"


def test_there_are_no_cycles():
    # `static_order` raises CycleError, which names the cycle.
    order = list(TopologicalSorter({module: ours(module) - {module} for module in MODULES}).static_order())
    assert set(order) == set(MODULES)


# Timed in an environment of its own, because it pins a BlackJAX that smilax does not work with.
ELSEWHERE = {"bde"}


@each_module
def test_third_party_imports_are_declared(module):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][extra] for extra in ("arviz", "bench", "flax", "openml", "tables"))
    requirements = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    declared = {re.split("[>=]=", requirement)[0] for requirement in requirements} | ELSEWHERE
    nodes = [n for n in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
    used = {t.split(".")[0] for node in nodes for t in targets(module, node)}
    undeclared = {DISTRIBUTION.get(name, name) for name in used - sys.stdlib_module_names - {"smilax"}} - declared
    assert not undeclared, f"{module} imports {undeclared}, missing from pyproject.toml"
