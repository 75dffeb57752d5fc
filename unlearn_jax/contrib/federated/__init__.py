"""Federated learning and unlearning: splits, FedAvg, PUF and its baselines, measures.

Every protocol is a choice of one weight per client and round, see
:mod:`unlearn_jax.contrib.federated.fedavg`. A :class:`Federation` holds the model, the
clients and their samples.
"""

from unlearn_jax.contrib.federated.baselines import (
    ProjectedAscent,
    negate_first_layer,
    projected_ascent,
)
from unlearn_jax.contrib.federated.clients import (
    Clients,
    dirichlet_split,
    gather_clients,
    iid_split,
    owner_split,
    split_client,
)
from unlearn_jax.contrib.federated.fedavg import (
    Federation,
    LocalTraining,
    Recovery,
    ServerState,
    client_update,
    fedavg_weights,
    federated_round,
    init_server,
    run_rounds,
    run_until,
)
from unlearn_jax.contrib.federated.puf import STRENGTH, puf_round, puf_weights
from unlearn_jax.contrib.federated.runs import RecoveryRuns
from unlearn_jax.contrib.federated.scores import (
    Overlap,
    mean_over,
    overlap,
    rounds_to_reach,
    yeom,
)
from unlearn_jax.contrib.federated.shapes import (
    SHAPES,
    Style,
    draw_styles,
    shape_images,
)

__all__ = [
    "SHAPES",
    "STRENGTH",
    "Clients",
    "Federation",
    "LocalTraining",
    "Overlap",
    "ProjectedAscent",
    "Recovery",
    "RecoveryRuns",
    "ServerState",
    "Style",
    "client_update",
    "dirichlet_split",
    "draw_styles",
    "fedavg_weights",
    "federated_round",
    "gather_clients",
    "iid_split",
    "init_server",
    "mean_over",
    "negate_first_layer",
    "overlap",
    "owner_split",
    "projected_ascent",
    "puf_round",
    "puf_weights",
    "rounds_to_reach",
    "run_rounds",
    "run_until",
    "shape_images",
    "split_client",
    "yeom",
]
