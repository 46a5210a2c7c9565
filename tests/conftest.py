"""Strictness for the tests only: the package itself never touches JAX's global configuration."""

import ast
import gc
import os
import tempfile
from pathlib import Path

# Before anything imports pyplot; subprocesses inherit it.
os.environ["MPLBACKEND"] = "Agg"
# Nearly all the time of the tests is that of the compiler. Without optimisation, and without a context of MLIR for each
# fused loop, it takes less than half of it; documentation and benchmarks compile as users do. Read when JAX starts.
os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false " + os.environ.get("XLA_FLAGS", "")  # a later one counts
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Tests compile the same programs again and again, in both workers and in child processes: one cache for all of them,
# made by the first process, removed when it ends.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="smilax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jaxtyping
import pytest

# Tracing makes objects by the million, few of them garbage that only a collection finds.
gc.set_threshold(200_000, 20, 20)

SOURCE = Path(__file__).resolve().parent.parent / "src" / "smilax"

# Silent broadcasting and silent promotion are how a float32 sampler goes wrong unnoticed.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def modules_with_shapes() -> list[str]:
    """The modules of smilax that annotate array shapes.

    Only these are type-checked at run time: elsewhere an annotation such as `jax.Array` is documentation, and JAX
    itself passes other objects through pytree constructors (None, ints, NumPy arrays).
    """
    names = []
    for path in sorted(SOURCE.rglob("*.py")):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        if any(node.module == "jaxtyping" for node in imports):
            names.append(".".join(("smilax", *path.relative_to(SOURCE).with_suffix("").parts)))
    return [name.removesuffix(".__init__") for name in names]


jaxtyping.install_import_hook(modules_with_shapes(), "beartype.beartype")


def pytest_collection_modifyitems(config, items):
    """Leaves the tests marked `once` out of a run in float64."""
    if not jax.config.jax_enable_x64:
        return
    once = [item for item in items if item.get_closest_marker("once")]
    if once and "once" not in (config.getoption("markexpr") or ""):
        config.hook.pytest_deselected(items=once)
        items[:] = [item for item in items if not item.get_closest_marker("once")]


@pytest.fixture(autouse=True)
def optimisation(request, monkeypatch):
    """Optimises what is marked `optimised` or `truth`, child processes included."""
    if not any(request.node.get_closest_marker(name) for name in ("optimised", "truth")):
        yield
        return
    before = jax.config.values["jax_disable_most_optimizations"]
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def key():
    """A fixed PRNG key."""
    return jax.random.key(0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Environment variables that give child processes a compilation cache of their own: a killed one may spoil it."""
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
