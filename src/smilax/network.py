"""What smilax asks of a neural network: two pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Network(NamedTuple):
    """A neural network as two pure functions.

    Attributes:
        init: `init(key) -> params`, a pytree of floating-point arrays.
        apply: `apply(params, x) -> outputs`, where `x` is a batch with its examples on the leading axis and
            `outputs` has shape `(B,)` or `(B, num_outputs)`.

    Example:
        >>> import jax, jax.numpy as jnp, smilax as sx
        >>> network = sx.Network(
        ...     init=lambda key: {"w": jax.random.normal(key, (3,))},
        ...     apply=lambda params, x: x @ params["w"],
        ... )
        >>> params = network.init(jax.random.key(0))
        >>> network.apply(params, jnp.ones((5, 3))).shape
        (5,)
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, Any], jax.Array]
