"""The training of one member, an epoch at a time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from smilax.ensemble.evaluation import mean_log_likelihood, take
from smilax.packing import unpack
from smilax.shuffling import BESIDE, permuted
from smilax.trees import where


class Member(NamedTuple):
    """Training state of one member."""

    key: jax.Array
    params: Any
    opt_state: Any
    best: Any
    best_score: jax.Array
    best_epoch: jax.Array
    stopped: jax.Array
    lost_epoch: jax.Array


class Trainer:
    """One member's training, to be vectorised."""

    def __init__(self, posterior, batches, batch_size, optimizer, patience, objective, validated):
        self.posterior, self.batches, self.batch_size = posterior, batches, batch_size
        self.optimizer = optax.with_extra_args_support(optimizer)
        self.patience, self.objective, self.validated = patience, objective, validated

    def init(self, key, params, stopped):
        score = jnp.full((), -jnp.inf, jnp.result_type(float))
        none = jnp.full((), -1, jnp.int32)
        # Two copies, because the state is donated and a buffer can be given away only once.
        best = jax.tree.map(jnp.copy, params)
        return Member(key, params, self.optimizer.init(params), best, score, none, stopped, none)

    def epochs(self, method):
        """`epoch` of several members."""
        if method == "vectorized":
            return jax.vmap(self.epoch, in_axes=(0, None, None, None))
        return lambda members, *rest: jax.lax.map(lambda member: self.epoch(member, *rest), members)

    def loss(self, params, batch):
        if self.objective == "posterior":
            return -self.posterior.log_density(params, batch) / self.posterior.num_data
        return -jnp.mean(self.posterior.log_likelihood(unpack(params), batch))

    def epoch(self, member, data, valid, epoch):
        """The member after one more epoch, and its training and validation loss."""
        num_rows, batch_size = self.batches.num_rows, self.batch_size
        steps = -(-num_rows // batch_size)
        epoch_key = jax.random.fold_in(member.key, epoch)
        positions = jnp.arange(steps * batch_size, dtype=jnp.int32) % num_rows
        beside = jax.random.fold_in(epoch_key, BESIDE)
        rows = permuted(epoch_key, positions, num_rows).reshape(steps, batch_size)

        def step(carry, inputs):
            params, opt_state = carry
            number, rows = inputs
            batch = take(data, rows)
            if self.batches.transform is not None:
                batch = self.batches.transform(jax.random.fold_in(beside, number), batch)
            loss, gradient = jax.value_and_grad(self.loss)(params, batch)
            extra = {"value": loss, "grad": gradient, "value_fn": lambda params: self.loss(params, batch)}
            # Optax counts on NumPy's promotion; this holds while tracing, and only in this thread.
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                updates, opt_state = self.optimizer.update(gradient, opt_state, params, **extra)
                params = optax.apply_updates(params, updates)
            return (params, opt_state), loss

        numbers = jnp.arange(1, steps + 1, dtype=jnp.int32)
        (params, opt_state), losses = jax.lax.scan(step, (member.params, member.opt_state), (numbers, rows))
        train_loss = jnp.mean(losses).astype(member.best_score.dtype)
        finite = jnp.isfinite(train_loss)
        for leaf in jax.tree.leaves(params):
            finite &= jnp.all(jnp.isfinite(leaf))
        if self.validated:
            score = mean_log_likelihood(self.posterior, params, valid).astype(train_loss.dtype)
            finite &= jnp.isfinite(score)
        else:
            score = epoch.astype(train_loss.dtype)
        better = finite & (score > member.best_score)
        best_epoch = jnp.where(better, epoch, member.best_epoch)
        out_of_patience = epoch - best_epoch >= self.patience
        new = Member(
            key=member.key,
            params=params,
            opt_state=opt_state,
            best=where(better, params, member.best),
            best_score=jnp.where(better, score, member.best_score),
            best_epoch=best_epoch,
            stopped=out_of_patience | ~finite,
            lost_epoch=jnp.where(finite, -1, epoch),
        )
        frozen = Member(member.key, *where(member.stopped, member[1:], new[1:]))
        report = jnp.stack([train_loss, -score if self.validated else jnp.full_like(score, jnp.nan)])
        return frozen, jnp.where(member.stopped, jnp.nan, report)
