"""Several hosts: the processes of one run find one another."""

import jax


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> bool:
    """Joins the processes of a run on several hosts, by `jax.distributed.initialize`; call it before anything else.

    Does nothing if no argument is given and the environment names no cluster that JAX knows (SLURM, Open MPI, Cloud
    TPU, Kubernetes), or if that was done already.

    Args:
        coordinator: "host:port" of process 0, the same for all processes.
        num_processes: how many processes there are.
        process_id: number of this one, from 0.

    Returns:
        Whether this is one of several processes.

    Raises:
        ValueError: if only some of the arguments are given, or they make no sense.
        RuntimeError: if JAX has been used already, or the others cannot be reached.

    Example:
        >>> import smilax as sx
        >>> sx.distributed.initialize()
        False
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        _check(str(coordinator), num_processes, process_id)
    elif len(missing) < len(given):
        raise ValueError(f"coordinator, num_processes and process_id belong together: {' and '.join(missing)} missing")
    if not jax.distributed.is_initialized() and (not missing or _in_cluster()):
        jax.distributed.initialize(coordinator, num_processes, process_id)
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _check(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f'coordinator must be "host:port", got {coordinator!r}')
    if not isinstance(num_processes, int) or num_processes < 1:
        raise ValueError(f"num_processes must be a positive integer, got {num_processes!r}")
    if not isinstance(process_id, int) or not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must be from 0 to {num_processes - 1}, got {process_id!r}")


def _in_cluster() -> bool:
    """Whether `jax.distributed.initialize` would find several processes without being told."""
    # JAX has no public way of asking: without a cluster, `initialize` raises.
    from jax._src.clusters import ClusterEnv

    found = (env for env in ClusterEnv._cluster_types if not env.opt_in_only_method and env.is_env_present())
    cluster = next(found, None)
    return cluster is not None and cluster.get_process_count() > 1
