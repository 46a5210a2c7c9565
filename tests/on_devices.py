"""Run by tests/test_devices.py in a process of its own: the number of devices is fixed when JAX starts."""

import contextlib
import os
import re
import sys

if __name__ == "__main__":
    # Most of the time goes into compiling.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    if sys.argv[1] != "process":
        os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

import smilax as sx  # noqa: E402
from smilax import chains, feeds  # noqa: E402
from smilax.geometry.choice import NAMES  # noqa: E402

N, B = 400, 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
Y = X @ np.array([1.0, -0.5, 0.3]) + 0.3 * RNG.normal(size=N)
POSTERIOR = sx.Posterior(
    log_prior=lambda p: -0.5 * jnp.sum(p["w"] ** 2) - 0.5 * p["b"] ** 2,
    log_likelihood=lambda p, batch: -0.5 * ((batch[1] - batch[0] @ p["w"] - p["b"]) / 0.3) ** 2,
    num_data=N,
)
# NumPy: nothing may use JAX before the processes have found one another.
START = {"w": np.zeros(3), "b": np.zeros(())}
ALGORITHMS = {
    "psmile": lambda: sx.psmile(POSTERIOR, 1e-2),
    "smile": lambda: sx.smile(POSTERIOR, 1e-2),
    "psmile_naive": lambda: sx.psmile_naive(POSTERIOR, 1e-2),
    "smile_naive": lambda: sx.smile_naive(POSTERIOR, 1e-2),
    "mclmc": lambda: sx.mclmc(POSTERIOR, 1e-2),
    "sgld": lambda: sx.sgld(POSTERIOR, 1e-5),
    "sghmc": lambda: sx.sghmc(POSTERIOR, 1e-5),
} | {f"ismile-{g}": (lambda g=g: sx.ismile(POSTERIOR, geometry=g)) for g in NAMES}


def run(name, num_chains=3, start=START, **changes):
    # The first geometry is made after twenty steps.
    settings = {"data": (X, Y), "num_warmup": 24, "num_samples": 4, "batch_size": B, "progress_bar": False} | changes
    if name == "mclmc":
        settings["batch_size"] = None
    algorithm = ALGORITHMS[name]()
    return sx.sample(jax.random.key(3), algorithm, params=start, num_chains=num_chains, **settings)


def mesh(*shape, names=("chain", "data")):
    return jax.make_mesh(shape, names)


def distance(a, b):
    pairs = zip(jax.tree.leaves(a.draws), jax.tree.leaves(b.draws), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def agreement(name, num_chains, shapes):
    """Results on meshes are those without, and say how far they are apart."""
    reference = run(name, num_chains)
    for shape in shapes:
        spread = run(name, num_chains, chain_method="parallel", mesh=mesh(*shape))
        assert jax.tree.map(np.shape, spread.draws) == jax.tree.map(np.shape, reference.draws)
        assert distance(reference, spread) < 1e-9, (name, num_chains, shape, distance(reference, spread))


def collectives(text):
    """Kind, dtype, shape and replica groups of every collective of a compiled program."""
    pattern = r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\((.*)"
    return re.findall(pattern, text)


@contextlib.contextmanager
def watching(look):
    """Within, `look(program's text, data, new states)` is called for every chunk."""
    original = chains.Phase.run

    def watched(self, pool, states, data, bounds):
        new = original(self, pool, states, data, bounds)
        look(self._compiled.as_text(), data[0], new[0][0])
        return new

    chains.Phase.run = watched
    try:
        yield
    finally:
        chains.Phase.run = original


def programs():
    """What the compiled programs say to one another: over "data" only, and never all of the data or parameters."""
    texts = []
    with watching(lambda text, data, states: texts.append(text)):
        run("psmile", 8, chain_method="parallel", mesh=mesh(4, 2))
    for text in texts:
        found = collectives(text)
        kinds = {kind for _, kind, _ in found}
        assert "all-reduce" in kinds, found
        assert all(
            "replica_groups=[4,2]<=[8]" in rest or "{{0,1},{2,3},{4,5},{6,7}}" in rest for _, _, rest in found
        ), found
        gathered = [shape for shape, kind, _ in found if kind == "all-gather"]
        assert not any(str(N) in shape or str(N // 2) in shape or "f64" in shape for shape in gathered), gathered
    texts.clear()
    with watching(lambda text, data, states: texts.append(text)):
        run("psmile", 8, chain_method="parallel", mesh=mesh(8, names=("chain",)))
    assert texts and not any(collectives(text) for text in texts)


def sharded():
    """Leaves of one chain over further axes of the mesh."""
    P = jax.sharding.PartitionSpec
    start = {"w": jnp.zeros((4, 6)), "b": jnp.zeros(6)}
    posterior = sx.Posterior(
        lambda p: -0.5 * jnp.sum(p["w"] ** 2) - 0.5 * jnp.sum(p["b"] ** 2),
        lambda p, batch: -0.5 * jnp.sum((batch[1] - batch[0] @ p["w"] - p["b"]) ** 2, axis=-1),
        N,
    )
    x, y = RNG.normal(size=(N, 4)), RNG.normal(size=(N, 6))
    settings = {"num_chains": 2, "num_warmup": 6, "num_samples": 4, "batch_size": B, "progress_bar": False}
    algorithm = sx.psmile(posterior, 1e-2)

    def spread_over(shape, names, shard_params):
        return sx.sample(
            jax.random.key(3), algorithm, (x, y), start, chain_method="parallel", mesh=mesh(*shape, names=names),
            shard_params=shard_params, **settings,
        )  # fmt: skip

    # Velocities are drawn leaf by leaf where the leaves are not packed.
    reference = spread_over((2,), ("chain",), lambda path, leaf: None)
    placed = {}
    names = ("chain", "data", "model")
    with watching(lambda text, data, states: placed.update(states.params)):
        spread = spread_over((2, 2, 2), names, lambda path, leaf: P(None, "model") if path == "w" else P("model"))
    assert distance(reference, spread) < 1e-9
    assert placed["w"].sharding.spec == P("chain", None, "model") and placed["w"].addressable_shards[0].data.shape == (
        1,
        4,
        3,
    )


def placed():
    """Parameters and data that have been put on some device take the run there, whatever ran before."""
    algorithm, settings = sx.sgld(POSTERIOR, 1e-5), {"num_warmup": 4, "num_samples": 4, "batch_size": B}

    def draws(put=lambda tree: tree, data=(X, Y), **changes):
        members = put({"w": jnp.zeros((4, 3)), "b": jnp.zeros(4)})
        return sx.sample(jax.random.key(3), algorithm, data, members, progress_bar=False, **settings, **changes)

    reference = draws()
    for device in jax.devices()[1:3]:
        assert distance(reference, draws(lambda tree, d=device: jax.device_put(tree, d))) < 1e-12
    assert distance(reference, draws(data=jax.device_put((X, Y), jax.devices()[1]))) < 1e-12
    explicit = jax.make_mesh((4,), ("member",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:4])
    over = jax.sharding.NamedSharding(explicit, jax.sharding.PartitionSpec("member"))
    for method in ("vectorized", "parallel"):
        spread = draws(lambda tree: jax.device_put(tree, over), chain_method=method)
        assert distance(reference, spread) < 1e-9, method


def epochs(number):
    """A stream's batches, in pieces that are cut anew."""
    for rows in np.array_split(np.random.default_rng(number).permutation(N), 7):
        yield X[rows], Y[rows]


def noisy(key, batch):
    return batch[0] + 0.1 * jax.random.normal(key, batch[0].shape), batch[1]


def from_host():
    """Batches from the host on meshes are those without, be it rows that stay there or a stream."""
    feeds.MOST_STEPS = 5

    def compare(name, source, reference, shape, whole, part):
        shapes, texts = set(), []

        def look(text, data, states):
            (x, _), _ = data
            shapes.add((x.shape, x.addressable_shards[0].data.shape))
            texts.append(text)

        with watching(look):
            spread = run(name, data=source, chain_method="parallel", mesh=mesh(*shape))
        apart = distance(run(name, data=reference), spread)
        assert apart < 1e-9, (name, shape, apart)
        # Devices hold their part of a block, and tell one another nothing of it.
        assert shapes == {(whole, part)}, shapes
        said = [shape for text in texts for shape, kind, _ in collectives(text) if kind != "all-reduce"]
        assert not any("f64" in shape for shape in said), said

    rows = {"data": (X, Y), "order": "epochs", "transform": noisy}
    host, device = (sx.Batches(**rows, on_host=on_host) for on_host in (True, False))
    compare("sgld", host, device, (4, 2), (4, 5, B, 3), (1, 5, B // 2, 3))
    stream = sx.Stream(epochs, N, transform=noisy)
    compare("psmile", stream, stream, (2, 4), (5, B, 3), (5, B // 4, 3))


def process(number, address, folder):
    """One of two processes, which find the same draws, and write one store."""
    assert sx.distributed.initialize(address, 2, int(number)) and sx.distributed.initialize()
    assert jax.process_count() == 2 and jax.device_count() == 2
    reference = run("psmile", chain_method="parallel", mesh=mesh(2, names=("chain",)))
    for shape in ((2, 1), (1, 2)):
        path = f"{folder}/{shape[0]}"
        # Each process reads the rows for its own device.
        data = sx.Batches((X, Y), on_host=shape == (1, 2))
        settings = {"chain_method": "parallel", "mesh": mesh(*shape), "store": sx.Store(path, interval=0), "data": data}
        stored = run("psmile", **settings, num_samples=2)
        assert stored.draws["w"].shape == (3, 2, 3) and stored.info.accepted.shape == (3, 2)
        longer = sx.resume(path, ALGORITHMS["psmile"](), data, num_samples=4, mesh=mesh(*shape), progress_bar=False)
        assert distance(reference, longer) < 1e-9
        assert sx.load(path).draws["w"].shape == (3, 4, 3)
    print(*(value.hex() for value in np.concatenate([reference.draws["w"].ravel(), reference.draws["b"].ravel()])))


if __name__ == "__main__":
    if sys.argv[1] == "process":
        process(*sys.argv[2:])
    for case in sys.argv[1:] if sys.argv[1] != "process" else ():
        what, *args = case.split(":")
        if what in ALGORITHMS:
            agreement(what, int(args[0]), [tuple(map(int, shape.split("x"))) for shape in args[1:]])
        else:
            globals()[what]()
        print(case, "done")
