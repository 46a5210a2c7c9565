"""Names of leaves, and the containers around them in a form that JSON can hold."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import jax


def leaf_paths(tree: Any) -> list[str]:
    """The path of every leaf, in the order of `jax.tree.leaves`: 'network/layers/0/weight'."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def describe(tree: Any) -> Any:
    """The containers of a pytree, JSON-able; leaves are 0.

    Dictionaries with string keys, lists, tuples and None come back as they are; any other node, such as a module, is
    described as a mapping from the names of its fields.
    """
    if tree is None:
        return None
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: describe(tree[key]) for key in sorted(tree)}}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [describe(child) for child in tree]}
    children = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    if len(children) == 1 and children[0][0] == ():
        return 0
    return {"fields": [[jax.tree_util.keystr(path, simple=True), describe(child)] for path, child in children]}


def is_plain(description: Any) -> bool:
    """Whether `rebuild` gives back the very containers that `describe` saw."""
    if description is None or description == 0:
        return True
    ((kind, children),) = description.items()
    return kind != "fields" and all(map(is_plain, children.values() if kind == "dict" else children))


def rebuild(description: Any, leaves: Iterable[Any]) -> Any:
    """The containers of `describe` around these leaves, in the order of `jax.tree.leaves`.

    Nodes of other kinds become ordered dictionaries, whose leaves have the same order.
    """
    return _rebuild(description, iter(leaves))


def _rebuild(node: Any, leaves: Iterator[Any]) -> Any:
    if node is None:
        return None
    if node == 0:
        return next(leaves)
    ((kind, children),) = node.items()
    if kind == "dict":
        return {key: _rebuild(child, leaves) for key, child in children.items()}
    if kind == "fields":
        return OrderedDict((name, _rebuild(child, leaves)) for name, child in children)
    items = [_rebuild(child, leaves) for child in children]
    return tuple(items) if kind == "tuple" else items
