"""How the processes that train one model together on the JAX backend are found and started."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import keras

from tf_segformer.errors import SegformerError
from tf_segformer.training.distributed import count_processes

HEARTBEAT_TIMEOUT = 30  # seconds until a silent process counts as dead
SHUTDOWN_TIMEOUT = 120  # seconds in which all leave; tf.data's tuning thread can hold one back for 60
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # JAX reads all


@dataclass(frozen=True)
class ProcessGroup:
    """How a process finds the others.

    Args:
        coordinator: "HOST:PORT" of process 0; None lets JAX find it.
        num_processes: How many there are; None lets JAX find it.
        process_id: Number of this one; None lets JAX find it.
        detection: Argument `cluster_detection_method` of `jax.distributed.initialize`.

    Example:
        >>> ProcessGroup("10.0.0.1:8476", 2, 0).detection
        'deactivate'
    """

    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    detection: str | None = "deactivate"


def find_process_group(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> ProcessGroup | None:
    """The processes that train together, by arguments or environment variables.

    What no argument says is read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, the number of a
    process from JOB_COMPLETION_INDEX of an indexed Kubernetes job, and under SLURM's `srun` all of it from SLURM_*.

    Args:
        coordinator: "HOST:PORT" of process 0.
        num_processes: How many there are; 1 is one process whatever the environment says.
        process_id: Number of this one, from 0.
        environment: Variables; None for those of this process.

    Returns:
        The group, or None where one process trains.

    Raises:
        SegformerError: A part is missing, or TF_CONFIG describes several workers.
        ValueError: A number is none, or out of range.

    Example:
        >>> variables = {"JAX_COORDINATOR_ADDRESS": "job-0.job:8476", "JAX_NUM_PROCESSES": "4"}
        >>> find_process_group(environment={**variables, "JOB_COMPLETION_INDEX": "3"}).process_id
        3
        >>> find_process_group(environment={}) is None
        True
    """
    variables = os.environ if environment is None else environment
    _reject_tf_config(variables)
    coordinator = coordinator or variables.get("JAX_COORDINATOR_ADDRESS") or None
    num_processes = _number(num_processes, variables, "JAX_NUM_PROCESSES")
    named = process_id is not None or "JAX_PROCESS_ID" in variables
    process_id = _number(process_id, variables, "JAX_PROCESS_ID" if named else "JOB_COMPLETION_INDEX")
    in_slurm = all(name in variables for name in _SLURM) and int(variables["SLURM_NTASKS"]) > 1
    if num_processes == 1 or not (coordinator or num_processes or named or in_slurm):
        return None
    if in_slurm:
        return ProcessGroup(coordinator, num_processes, process_id if named else None, "slurm")
    if coordinator is None and "JOB_COMPLETION_INDEX" in variables and "KUBERNETES_SERVICE_HOST" in variables:
        return ProcessGroup(None, num_processes, process_id, None)  # JAX asks Kubernetes, by the package kubernetes
    parts = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in parts.items() if value is None]
    if missing:
        raise SegformerError(
            f"several processes train together, but {' and '.join(missing)} is missing: give --coordinator HOST:PORT, "
            "--num-processes and --process-id, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        )
    if not 0 <= (process_id or 0) < (num_processes or 0):
        raise ValueError(f"process_id={process_id} must be at least 0 and below num_processes={num_processes}")
    return ProcessGroup(coordinator, num_processes, process_id)


def start_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> int:
    """Connects this process with the others; to be called before the model is built, once. See `find_process_group`.

    Args:
        coordinator: "HOST:PORT" of process 0.
        num_processes: How many there are.
        process_id: Number of this one.

    Returns:
        The number of processes.

    Raises:
        SegformerError: The backend is not JAX, JAX was used before, or the others cannot be reached.

    Example:
        >>> start_processes(num_processes=1)
        1
    """
    group = find_process_group(coordinator, num_processes, process_id)
    _reject_torchrun()
    if group is None or count_processes() > 1:
        return count_processes()
    if keras.backend.backend() != "jax":
        raise SegformerError(
            f"several processes train on the backend JAX alone, this is {keras.backend.backend()}: --backend jax, or "
            "KERAS_BACKEND=jax before the first import; --num-processes 1 trains in this process alone"
        )
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.num_processes,
            group.process_id,
            cluster_detection_method=group.detection,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise SegformerError(f"the processes of {group} do not come together: {error}") from error
    if jax.default_backend() == "cpu":
        _warn_of_unreachable_name(group.coordinator)
    return count_processes()


def _number(given: int | None, variables: Mapping[str, str], name: str) -> int | None:
    """An argument, or else the number in an environment variable."""
    if given is not None or name not in variables:
        return given
    try:
        return int(variables[name])
    except ValueError as error:
        raise ValueError(f"{name}={variables[name]!r} is not a number") from error


def _reject_tf_config(variables: Mapping[str, str]) -> None:
    """TensorFlow's own way to several workers does not work with Keras 3."""
    try:
        cluster = json.loads(variables.get("TF_CONFIG", "{}")).get("cluster", {})
    except (ValueError, AttributeError):
        return
    if sum(len(hosts) for hosts in cluster.values()) > 1:
        raise SegformerError(
            "TF_CONFIG describes several workers, and Keras 3 does not train with tf.distribute's "
            "MultiWorkerMirroredStrategy: unset it, and use --backend jax with --coordinator, --num-processes and "
            "--process-id"
        )


def _warn_of_unreachable_name(coordinator: str | None) -> None:
    """CPUs exchange by gloo, which listens at the address that the name of its host has on that host."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
        reached = socket.gethostbyname((coordinator or "").rpartition(":")[0] or name)
    except OSError:
        return
    if address.startswith("127.") and (coordinator is None or not reached.startswith("127.")):
        warnings.warn(
            f"the name of this host, {name}, is {address} here, where processes on other hosts do not reach it: give "
            "it its own address in /etc/hosts",
            stacklevel=3,
        )


def _reject_torchrun() -> None:
    """Keras has no data parallelism for torch before 3.16."""
    if keras.backend.backend() == "torch" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SegformerError(
            f"torchrun started several processes, and Keras {keras.__version__} trains with torch in one: Keras 3.16 "
            "is to be the first with data parallelism for torch; until then use --backend jax with --coordinator, "
            "--num-processes and --process-id"
        )
