"""The promises of the top-level package: documented names, a quick import, no global side effects."""

import importlib.metadata
import inspect
import json
import os
import re
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

import smilax as sx

ROOT = Path(__file__).resolve().parent.parent
# The planned names that exist so far.
PROMISED = """Posterior Network from_equinox bnn smile smile_naive psmile psmile_naive mclmc train_ensemble sample
predict""".split()
PROMISED_MODULES = "likelihoods metrics models priors".split()
# Users are given these by the function named, whose docstring has the example; they do not construct them.
GIVEN_BY = {"Prediction": "predict", "Result": "sample"}
PYTREE_METHODS = {"tree_flatten", "tree_unflatten", "tree_flatten_with_keys"}
# Loaded on first use, never by `import smilax`.
HEAVY = "matplotlib sklearn pandas arviz arviz_base xarray typer pydantic blackjax flax optax".split()


def public_objects():
    """Every public function and class under its dotted name: those of `__all__` and of the modules in it."""
    found = {}
    for name in sx.__all__:
        value = getattr(sx, name, None)
        if isinstance(value, types.ModuleType):
            for inner in getattr(value, "__all__", vars(value)):
                item = getattr(value, inner)
                # A module without `__all__` also holds what it imports for its own use.
                if not inner.startswith("_") and callable(item) and item.__module__.startswith(value.__name__):
                    found[f"{name}.{inner}"] = item
        elif callable(value):
            found[name] = value
    return found


def is_ours(value):
    return callable(value) and (getattr(value, "__module__", None) or "").startswith("smilax")


def is_protocol(value):
    return getattr(value, "_is_protocol", False)


PUBLIC = public_objects()
pytestmark = pytest.mark.once
each_public = pytest.mark.parametrize("name", sorted(PUBLIC))


def in_subprocess(code, **environment):
    """Runs `code` in a fresh interpreter and returns what it prints, read as JSON."""
    # Without JAX_* and XLA_FLAGS of the test run, so that what is seen is JAX's own default.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", sorted({*sx.__all__, *PROMISED, *PROMISED_MODULES}))
def test_name_exists_and_is_documented(name):
    assert name in sx.__all__
    assert name in dir(sx)
    value = getattr(sx, name)
    if callable(value) or isinstance(value, types.ModuleType):
        assert inspect.getdoc(value), f"sx.{name} has no docstring"


@each_public
def test_docstring_explains_every_parameter(name):
    value = PUBLIC[name]
    if name in GIVEN_BY:
        pytest.skip(f"made by sx.{GIVEN_BY[name]}")
    own = value.__doc__ or ""
    # A class may explain its parameters itself or in `__init__`; a subclass may leave them to its base.
    if inspect.isclass(value):
        documented = "\n".join(
            text for base in value.__mro__ if is_ours(base) for text in (base.__doc__, base.__init__.__doc__) if text
        )
    else:
        documented = own
    assert own.strip(), f"sx.{name} has no docstring"
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:  # a class without a signature of its own
        return
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [p for p in named if p != "self" and not re.search(rf"\b{re.escape(p)}\b", documented)]
    assert not missing, f"the docstring of sx.{name} does not mention {missing}"


@each_public
def test_public_methods_are_documented(name):
    value = PUBLIC[name]
    if not inspect.isclass(value):
        return
    members = [k for k, v in vars(value).items() if inspect.isfunction(v) or isinstance(v, property | classmethod)]
    wanted = [k for k in members if not k.startswith("_") and k not in PYTREE_METHODS]
    # `getdoc` follows an override to the method it overrides; a protocol speaks for the classes beside it.
    beside = [v for k, v in PUBLIC.items() if is_protocol(v) and k.rpartition(".")[0] == name.rpartition(".")[0]]
    missing = [k for k in wanted if not any(inspect.getdoc(getattr(v, k)) for v in (value, *beside) if hasattr(v, k))]
    assert not missing, f"sx.{name} has methods without a docstring: {missing}"


@each_public
def test_docstring_shows_an_example(name):
    # Whether the examples work is for `make check`, which runs them.
    value = PUBLIC[GIVEN_BY.get(name, name)]
    if inspect.isclass(value) and (issubclass(value, tuple) or inspect.isabstract(value) or is_protocol(value)):
        pytest.skip("a record or an interface, shown by what returns or implements it")
    assert ">>>" in value.__doc__, f"sx.{name} has no example in its docstring"


def test_every_public_module_is_in_the_documentation():
    page = (ROOT / "docs" / "api.md").read_text()
    modules = [name for name in sx.__all__ if isinstance(getattr(sx, name), types.ModuleType)]
    missing = [name for name in ["", *modules] if f"automodule:: {f'smilax.{name}'.rstrip('.')}\n" not in page]
    assert not missing, f"docs/api.md has no automodule for {missing}"


def test_version_is_the_installed_one():
    assert sx.__version__ == importlib.metadata.version("smilax")


def test_import_is_quick():
    def seconds(module):
        # Of the processor: busy neighbours make a wall clock run, and this less.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    jax, smilax = zip(*((seconds("jax"), seconds("smilax")) for _ in range(4)), strict=True)
    assert min(smilax) <= 2 * min(jax), f"import smilax takes {min(smilax):.2f} s, import jax {min(jax):.2f} s"


@pytest.mark.parametrize("order", [pytest.param("sorted", marks=pytest.mark.truth), "reversed"])
def test_names_mean_the_same_whatever_is_loaded_first(order):
    # Importing a submodule binds its name in the package, over a function of the same name that is loaded lazily.
    code = f"""
import json, importlib, pkgutil, smilax
for name in {order}(smilax.__all__):
    getattr(smilax, name)
before = {{name: repr(type(getattr(smilax, name))) for name in smilax.__all__}}
for name in {order}([m.name for m in pkgutil.iter_modules(smilax.__path__) if m.name not in ("demo", "cli")]):
    importlib.import_module("smilax." + name)
modules = [n for n in smilax.__all__ if "module" in repr(type(getattr(smilax, n)))]
changed = [n for n in smilax.__all__ if repr(type(getattr(smilax, n))) != before[n]]
print(json.dumps([modules, changed]))
"""
    modules, changed = in_subprocess(code)
    assert changed == []
    assert set(modules).isdisjoint(PROMISED)
    assert set(modules).issuperset(PROMISED_MODULES)


def test_import_leaves_heavy_libraries_alone():
    code = f"import sys, json, smilax; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    assert in_subprocess(code) == []


SNAPSHOT = """
import json, os
import jax
def snapshot():
    return {
        **{k: repr(v) for k, v in jax.config.values.items()},
        **{k: v for k, v in os.environ.items() if k.startswith(("JAX", "XLA", "TF_"))},
    }
before = snapshot()
import smilax
"""


def test_import_changes_no_global_configuration():
    changed = in_subprocess(
        SNAPSHOT + "after = snapshot(); print(json.dumps([k for k in after if before.get(k) != after[k]]))"
    )
    assert changed == []


def test_import_does_not_start_the_backend():
    # Which devices there are can still be decided, and jax.distributed initialised, after `import smilax`.
    code = "import jax, smilax; jax.config.update('jax_num_cpu_devices', 3); print(jax.device_count())"
    assert in_subprocess(code, JAX_PLATFORMS="cpu") == 3
