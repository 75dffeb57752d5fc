"""Federated learning and unlearning: clients' splits, FedAvg, PUF and what it is compared with, what is measured.

Every protocol is a weight per client and round, see
:mod:`unlearn_jax.federated.fedavg`.
"""

from unlearn_jax.federated.baselines import negate_first_layer, projected_ascent
from unlearn_jax.federated.clients import (
    Clients,
    dirichlet_split,
    gather_clients,
    iid_split,
    owner_split,
    split_client,
)
from unlearn_jax.federated.fedavg import (
    LocalTraining,
    Recovery,
    ServerState,
    client_sgd,
    client_update,
    fedavg_weights,
    federated_round,
    init_server,
    recover,
    run_rounds,
)
from unlearn_jax.federated.puf import STRENGTH, puf_round, puf_weights
from unlearn_jax.federated.runs import RecoveryRuns
from unlearn_jax.federated.scores import (
    Overlap,
    mean_over,
    overlap,
    rounds_to_reach,
    yeom,
)
from unlearn_jax.federated.shapes import SHAPES, Style, draw_styles, shape_images

__all__ = [
    "SHAPES",
    "STRENGTH",
    "Clients",
    "LocalTraining",
    "Overlap",
    "Recovery",
    "RecoveryRuns",
    "ServerState",
    "Style",
    "client_sgd",
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
    "recover",
    "rounds_to_reach",
    "run_rounds",
    "shape_images",
    "split_client",
    "yeom",
]
