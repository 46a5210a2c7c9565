"""Strictness for the tests only: the package itself never touches JAX's global configuration."""

import ast
import os
from pathlib import Path

# Before anything imports pyplot; subprocesses inherit it.
os.environ["MPLBACKEND"] = "Agg"
# Nearly all the time of the tests is that of the compiler, which LLVM's first level halves; read when JAX starts.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=1 " + os.environ.get("XLA_FLAGS", "")  # a later one counts

import jax
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache

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


@pytest.fixture
def key():
    """A fixed PRNG key."""
    return jax.random.key(0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A persistent compilation cache, for modules that compile the same few programs in every test.

    Gives the environment variables with which a child process uses it too.
    """
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
