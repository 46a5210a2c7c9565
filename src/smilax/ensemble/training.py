"""The training of all members: groups of them in threads, epoch by epoch, until the last has stopped."""

import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from smilax.bnn import NetworkPosterior
from smilax.checks import check_finite, check_key
from smilax.compiling import compiled
from smilax.data import Batches, check_batch_size, on_device
from smilax.ensemble.evaluation import fit_residuals
from smilax.ensemble.member import Trainer
from smilax.grouping import chosen_method, group_indices, num_groups
from smilax.packing import PACKING_LIMIT, pack, packable, unpack
from smilax.posterior import Posterior
from smilax.trees import size
from smilax.validation import check_belongs, check_count, check_data, check_rows_apart

DEFAULT_MEMBERS = 8
DEFAULT_BATCH_SIZE = 64


class History(NamedTuple):
    """How the training of an ensemble went; NumPy arrays, members first, epochs counted from zero.

    Attributes:
        train_loss: mean loss over the batches of each epoch, shape (member, epoch), in nats per example; NaN for epochs
            after a member has stopped.
        valid_loss: minus the mean validation log likelihood after each epoch, likewise; NaN without validation data.
        best_epoch: the epoch whose parameters were kept, shape (member,).
        stopped: whether the member stopped before `max_epochs`, shape (member,).
    """

    train_loss: np.ndarray
    valid_loss: np.ndarray
    best_epoch: np.ndarray
    stopped: np.ndarray


def train_ensemble(
    key: jax.Array,
    posterior: Posterior,
    train: Any,
    valid: Any = None,
    *,
    num_members: int | None = None,
    optimizer: optax.GradientTransformation | None = None,
    max_epochs: int = 200,
    patience: int = 10,
    batch_size: int | None = None,
    objective: Literal["likelihood", "posterior"] = "likelihood",
    init_params: Any = None,
    max_seconds: float | None = None,
    return_history: bool = False,
    progress_bar: bool = False,
) -> Any:
    """Trains networks from independent starts: a deep ensemble, and the warm start of as many chains.

    All members run in one compiled program, vectorised (convolutional networks on CPU: one member after another), each
    with its own initialisation and its own order of the data; small models on CPU use all cores. Member k is the same
    whatever the number of members. With validation data a member stops once its validation log likelihood has not
    risen for `patience` epochs, and its best parameters are kept.
    Where the likelihood learns parameters of its own, they are finally set to those of largest likelihood for the
    residuals on the training data.

    Args:
        key: a JAX random key.
        posterior: from `sx.bnn`; any other `Posterior` as well if `init_params` is given.
        train: the training data, `(x, y)` or `(x, y, weight)`, or an `sx.Batches`, whose `transform` is then used.
        valid: validation data, `(x, y)` or `(x, y, weight)` as the network takes them: no transform is applied. None:
            no early stopping, the last parameters are kept.
        num_members: how many; by default 8, or as many as `init_params` has.
        optimizer: any Optax optimiser; by default `optax.adamw(1e-2, weight_decay=5e-3)`, the paper's.
        max_epochs: the most passes over the data. Every row is visited in every epoch; the last batch is completed with
            rows from the beginning of the epoch.
        patience: epochs without improvement after which a member stops.
        batch_size: rows in a batch, B; None: 64, or all where they are fewer.
        objective: `"likelihood"`: the loss is minus the mean log likelihood; `"posterior"`: minus the log posterior
            over N.
        init_params: parameters to start from, with a leading member axis, in place of `posterior.init`.
        max_seconds: no epoch is begun later than this after the first one; None for no such limit.
        return_history: whether to return a `History` as well.
        progress_bar: whether to show one.

    Returns:
        The members' parameters, a pytree with a leading member axis, ready for `sx.sample` and `sx.predict`; with
        `return_history=True` the pair `(members, history)`.

    Raises:
        ValueError: for data that `posterior.check_data` refuses, a batch larger than the data, arguments out of range,
            a network that lets the rows of a batch depend on one another.
        TypeError: for arguments of the wrong type, or a posterior without `init` when `init_params` is not given.
        FloatingPointError: if the loss of a member was not finite in any epoch. A member that is lost later keeps its
            best parameters, with a RuntimeWarning.

    Example:
        >>> import jax, numpy as np, smilax as sx
        >>> x = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
        >>> posterior = sx.bnn(sx.models.mlp(2, 1), sx.likelihoods.Gaussian(), sx.priors.Normal(0.0, 1.0), num_data=60)
        >>> members, history = sx.train_ensemble(
        ...     jax.random.key(0), posterior, (x[:60], x[:60, 0]), (x[60:], x[60:, 0]),
        ...     num_members=4, max_epochs=5, batch_size=16, return_history=True,
        ... )
        >>> members["likelihood"]["log_scale"].shape, history.train_loss.shape
        ((4,), (4, 5))
    """
    max_epochs = check_count("max_epochs", max_epochs, 1)
    patience = check_count("patience", patience, 1)
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive or None, got {max_seconds!r}")
    check_key("key", key)
    if objective not in ("likelihood", "posterior"):
        raise ValueError(f'objective must be "likelihood" or "posterior", got {objective!r}')
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an Optax optimiser, got {type(optimizer).__name__}")
    batches = _check_data(posterior, train, valid)
    if batch_size is None:
        batch_size = min(DEFAULT_BATCH_SIZE, batches.num_rows)
    batch_size = check_batch_size(batch_size, batches)
    starts, num_members = _starts(posterior, num_members, init_params)
    # Parameters in one buffer make the many small operations of an optimiser few. Only of our own optimiser do we know
    # that it treats all parameters alike.
    packing, given = optimizer is None, optimizer
    optimizer = optax.adamw(1e-2, weight_decay=5e-3) if optimizer is None else optimizer
    trainer = Trainer(posterior, batches, batch_size, optimizer, patience, objective, valid is not None)
    data, valid = jax.tree.map(jnp.asarray, (batches.data, valid))

    def start(key, index, params):
        member_key = jax.random.fold_in(jax.random.fold_in(key, index), 1)
        params = pack(params) if packing and packable(params) else params
        return trainer.init(member_key, params, index >= num_members)

    one = jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], starts(key, jnp.zeros(1, jnp.int32))))
    num_params, method = size(one), chosen_method(one)
    groups = group_indices(num_members, num_groups(num_members, num_params, method), method)
    settings = (batches.num_rows, batches.transform, batch_size, given, patience, objective, valid is not None)

    def jitted_start():
        return jax.jit(lambda key, indices: jax.vmap(start, in_axes=(None, 0, 0))(key, indices, starts(key, indices)))

    numbers = [jnp.asarray(indices, jnp.int32) for indices in groups]
    if init_params is None:
        start_group = compiled(posterior, ("start", num_members, *settings), jitted_start, key, numbers[0], quick=True)
    else:
        start_group = jitted_start()
    states = [start_group(key, indices) for indices in numbers]
    check_rows_apart(posterior, _unpacked(jax.tree.map(lambda x: x[:1], states[0].best)), batches.first(batch_size))
    run_epoch = compiled(
        posterior,
        ("epoch", *settings),
        lambda: jax.jit(trainer.epochs(method), donate_argnums=0),
        states[0], data, valid, jnp.zeros((), jnp.int32),
        quick=num_params <= PACKING_LIMIT,
    )  # fmt: skip
    results = _drive(run_epoch, states, data, valid, max_epochs, num_members, progress_bar, max_seconds)

    states = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num_members], *(state for state, _ in results))
    history = _history([losses for _, losses in results], states, num_members)
    _check_members(states, history)
    members = _unpacked(states.best)
    if isinstance(posterior, NetworkPosterior) and posterior.likelihood.learned:
        members = {**members, "likelihood": fit_residuals(posterior, members, data, batches.transform)}
    return (members, history) if return_history else members


# One function, so that it is compiled once for each shape.
_unpacked = jax.jit(jax.vmap(unpack))


def _check_data(posterior: Posterior, train: Any, valid: Any) -> Batches:
    """The training data as shuffled epochs, once both data sets have passed."""
    raw = not isinstance(train, Batches)
    if isinstance(posterior, NetworkPosterior):
        if raw:
            posterior.check_data(train, name="train")
        if valid is not None:
            posterior.check_data(valid, name="valid", whole=False)
    if valid is not None:
        # Refuses what has no rows, as lists.
        valid = Batches(valid).data
    batches = replace(on_device("train", train), order="epochs", replacement=False)
    if not isinstance(posterior, NetworkPosterior) or not raw:
        check_data(posterior, batches, name="train")
    if not isinstance(posterior, NetworkPosterior):
        for path, leaf in jax.tree_util.tree_leaves_with_path(valid):
            check_finite(f"valid{jax.tree_util.keystr(path)}", np.asarray(leaf))
    return batches


def _starts(posterior: Any, num_members: int | None, init_params: Any) -> tuple[Callable, int]:
    """A function from key and member numbers to starting parameters, and the number of members."""
    if num_members is not None:
        num_members = check_count("num_members", num_members, 1)
    if init_params is None:
        init = getattr(posterior, "init", None)
        if init is None:
            raise TypeError("posterior has no init function; give init_params, with a leading member axis")

        def fresh(key, indices):
            return jax.vmap(lambda k: init(jax.random.fold_in(jax.random.fold_in(key, k), 0)))(indices)

        return fresh, DEFAULT_MEMBERS if num_members is None else num_members
    if isinstance(posterior, NetworkPosterior) and isinstance(init_params, (list, tuple)):
        raise TypeError(
            f"init_params must be one pytree with a leading member axis, got a {type(init_params).__name__} of "
            f"{len(init_params)}: stack the members, jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)"
        )
    init_params = jax.tree.map(jnp.asarray, init_params)
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(init_params)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"init_params needs one leading member axis in every leaf, got lengths {lengths}; of one network, "
            "jax.tree.map(lambda leaf: leaf[None], params)"
        )
    check_belongs(posterior, init_params, None, name="init_params")
    length = jax.tree.leaves(init_params)[0].shape[0]
    if length != (num_members or length):
        raise ValueError(f"init_params has {length} members, but num_members is {num_members}")
    return lambda key, indices: jax.tree.map(lambda leaf: leaf[jnp.minimum(indices, length - 1)], init_params), length


def _drive(run_epoch, states, data, valid, max_epochs, num_members, progress_bar, max_seconds):
    """Runs every group of members, each in its own thread, until all its members have stopped."""
    interrupted = threading.Event()
    deadline = np.inf if max_seconds is None else time.perf_counter() + max_seconds
    bar = None
    if progress_bar:
        from tqdm.auto import tqdm

        bar = tqdm(total=len(states) * max_epochs, unit="epoch", desc=f"training {num_members} members")

    def drive(state):
        losses = []
        for epoch in range(max_epochs):
            state, report = run_epoch(state, data, valid, jnp.asarray(epoch, jnp.int32))
            losses.append(np.asarray(report))
            if bar is not None:
                bar.update()
            if interrupted.is_set() or bool(np.all(state.stopped)) or time.perf_counter() > deadline:
                break
        return state, np.stack(losses, axis=1)

    try:
        if len(states) == 1:
            return [drive(states[0])]
        with ThreadPoolExecutor(len(states)) as pool:
            try:
                return list(pool.map(drive, states))
            except BaseException:
                # Leaving the `with` waits for the threads.
                interrupted.set()
                raise
    finally:
        if bar is not None:
            bar.close()


def _history(losses, states, num_members):
    length = max(group.shape[1] for group in losses)
    padded = [np.pad(group, ((0, 0), (0, length - group.shape[1]), (0, 0)), constant_values=np.nan) for group in losses]
    train_loss, valid_loss = np.moveaxis(np.concatenate(padded)[:num_members], -1, 0)
    return History(train_loss, valid_loss, np.asarray(states.best_epoch), np.asarray(states.stopped))


def _check_members(states, history):
    lost_epoch, best_epoch = np.asarray(states.lost_epoch), history.best_epoch
    never = np.flatnonzero(best_epoch < 0)
    if len(never):
        raise FloatingPointError(
            f"members {never.tolist()} had no epoch in which the loss and all parameters were finite; "
            "a smaller learning rate, or standardised features and targets, may help"
        )
    lost = np.flatnonzero(lost_epoch >= 0)
    if len(lost):
        warnings.warn(
            f"the loss or the parameters of members {lost.tolist()} were not finite in epochs "
            f"{lost_epoch[lost].tolist()}; their parameters of epochs {best_epoch[lost].tolist()} are kept",
            RuntimeWarning,
            stacklevel=3,
        )
