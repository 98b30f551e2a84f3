"""The names that settings have on the command line and in recipes, beside those of the API."""

from __future__ import annotations

# By the name of the field of a configuration, or of the argument, its short name. Both are understood.
SHORT = {
    "enable_per_channel_scale": "per_channel_scale",
    "joint_compression": "joint",
    "minimum_sparsity_percentile": "minimum_sparsity",
    "n_m_ratio": "n_m",
    "nbits": "bits",
    "outlier_fraction": "outliers",
    "target_sparsity": "sparsity",
}
# And the other way round.
API = {short: name for name, short in SHORT.items()}

# The modes of palettization that neural networks have, and what `quantize_weights` calls those.
NETWORK_MODES = {"kmeans": "kmeans", "uniform": "linear_lut"}
