"""`FakePalettize`: on its way to the network a weight becomes entries of tables, softly, so that it can be trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from corepress.algorithms.learned.dkm import Options, first_centroids, nearest, rounded, separate, soft_kmeans
from corepress.algorithms.lut import quantize_lut
from corepress.errors import ConfigError, CorepressError, DataError
from corepress.torch.distributed import shared_seed
from corepress.torch.metadata import array_of
from corepress.torch.training import Part
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse

__all__ = ["FakePalettize"]


class FakePalettize(Part):
    """The weight as DKM sees it: in training a soft mixture of table entries, in evaluation the nearest ones.

    `DKMPalettizer.prepare` makes it. Its buffers are `centroids`, float32 (groups, 2**n_bits, cluster_dim), and
    `scale`, float32, one for each output channel. Source: Cho et al. 2022, arXiv 2108.12659.

    Args:
        config: A `ModuleDKMPalettizerConfig` with all fields set.
        shape: Of the weight.
        output_axis: Of its output channels.
        name: Of the weight, for messages.

    Raises:
        ConfigError: If groups or vectors don't divide the weight.

    Examples:
        >>> from corepress.torch.palettization import DKMPalettizer, DKMPalettizerConfig, FakePalettize
        >>> config = DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2, "weight_threshold": 0}})
        >>> prepared = DKMPalettizer(torch.nn.Linear(64, 64), config).prepare()
        >>> [tuple(part.centroids.shape) for part in prepared.modules() if isinstance(part, FakePalettize)]
        [(1, 4, 1)]
    """

    stage: ClassVar[int] = 2
    centroids: Tensor
    scale: Tensor

    def __init__(self, config: Any, shape: torch.Size, output_axis: int = 0, name: str = "weight"):
        super().__init__(name)
        self.config, self.output_axis = config, output_axis
        self.axis = _axis(config, len(shape), output_axis)
        self.groups = _groups(config, shape[self.axis], math.prod(shape))
        self.steps, self.enabled, self.started = 0, config.milestone == 0, False
        self.register_buffer("centroids", torch.zeros(self.groups, 2**config.n_bits, config.cluster_dim))
        channels = [size if axis == output_axis else 1 for axis, size in enumerate(shape)]
        self.register_buffer("scale", torch.ones(channels) if config.enable_per_channel_scale else torch.ones(()))

    def enable_fake_palett(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def disable_fake_palett(self) -> None:
        self.enabled = False

    @property
    def n_clusters(self) -> int:
        return int(2**self.config.n_bits)

    @property
    def options(self) -> Options:
        c = self.config
        lut: Any = {torch.int8: "int8", torch.uint8: "uint8"}.get(c.lut_type)
        return Options(
            c.palett_mode, c.palett_tau, c.kmeans_max_iter, c.palett_epsilon, c.zero_threshold, c.prune_threshold,
            c.enforce_zero, self.keep_zeros, lut,
        )  # fmt: skip

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled or self.idle:
            return weight
        # How many values are distinct is known only when it runs, so that there is nothing to compile.
        from corepress.torch.uncompiled import uncompiled

        palettized: Tensor = uncompiled(self._palettized, weight)
        return palettized

    def _palettized(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False), self._naming():
            rows = self._rows(weight)
            if self.training:
                dense, found = self._soft(rows)
                self.centroids.copy_(found)
            else:
                table = self._table()
                indices = nearest(rows, table, self.options).long()
                dense = torch.stack([entries[each] for entries, each in zip(table, indices, strict=True)])
                dense = self._with_zeros(dense, rows).to(weight.dtype)
            if self.config.lut_type in (torch.float16, torch.bfloat16):
                dense = dense.to(self.config.lut_type).to(weight.dtype)
            return (self._join(dense, weight.shape) * self.scale).to(weight.dtype)

    def _soft(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        starts = separate(self.centroids, self.config.palett_cluster_tol)
        learning = max(1, int(self.config.percentage_palett_enable * self.groups))
        with self._shared_noise():
            dense, found = soft_kmeans(rows[:learning], starts[:learning].clone(), self.options)
        if learning == self.groups:
            return dense, found
        fixed = nearest(rows[learning:], starts[learning:], self.options).long()
        others = torch.stack([table[each] for table, each in zip(starts[learning:], fixed, strict=True)])
        others = self._with_zeros(others, rows[learning:].detach())
        return torch.cat([dense, others.to(dense.dtype)]), torch.cat([found, starts[learning:]])

    @contextmanager
    def _shared_noise(self) -> Iterator[None]:
        """All processes of a training draw the same numbers, so that their tables stay the same."""
        if self.config.palett_mode != "gsm":
            yield
            return
        seed = shared_seed()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield

    def _rows(self, weight: Tensor) -> Tensor:
        """Scaled, (groups, vectors of a group, cluster_dim); the first time, find scales and tables too."""
        if not self.started and self.config.enable_per_channel_scale:
            self.scale.copy_(_scale(weight.detach(), self.output_axis, self.config.per_channel_scaling_factor_scheme))
        scaled = weight / self.scale if self.config.enable_per_channel_scale else weight
        rows = _split(scaled, self.axis, self.groups, self.config.cluster_dim)
        if not self.started:
            self.centroids.copy_(first_centroids(rows, self.n_clusters, self.options))
            self.started = True
        return rows

    def _join(self, rows: Tensor, shape: torch.Size) -> Tensor:
        moved = torch.Size([shape[self.axis], *shape[: self.axis], *shape[self.axis + 1 :]])
        vectors = rows.reshape(moved[0] // self.config.cluster_dim, -1, self.config.cluster_dim)
        return vectors.movedim(-1, 1).reshape(moved).movedim(0, self.axis)

    def _with_zeros(self, dense: Tensor, rows: Tensor) -> Tensor:
        return dense * rows.any(dim=-1, keepdim=True) if self.keep_zeros else dense

    def _table(self) -> Tensor:
        """What evaluation and the finished weight look entries up in."""
        return torch.stack([rounded(table, self.options.lut) for table in self.centroids])

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Errors inside name the weight."""
        try:
            yield
        except CorepressError as error:
            raise DataError(f"{self.name}: {error}") from error

    @torch.no_grad()
    def form(self, weight: Tensor) -> CompressedWeight:
        """The finished form of a trained weight, each element the nearest entry; sparse if zeros are kept."""
        with self._naming():
            rows = self._rows(weight)
            indices = nearest(rows, self._table(), self.options).cpu()
            kept = rows.any(dim=-1).cpu()
        tables = self.centroids.float().cpu()
        if self.config.cluster_dim == 1:
            tables, order = tables.sort(dim=1)
            ranks = order[..., 0].argsort(dim=1)
            indices = ranks.gather(1, indices.long()).to(torch.uint8)
        if self.config.lut_type in (torch.float16, torch.bfloat16):
            tables = tables.to(self.config.lut_type).float()
        palettized = self._form(indices * kept if self.keep_zeros else indices, tables, weight)
        form: Any = palettized
        if self.options.lut:
            form = quantize_lut(palettized, None, self.options.lut)
        if self.config.enable_per_channel_scale:
            form = Quantized(form, array_of(self.scale).astype(palettized.dtype))
        if not self.keep_zeros:
            return form  # type: ignore[no-any-return]
        mask = self._join(kept[..., None].expand(*kept.shape, self.config.cluster_dim), weight.shape)
        return Sparse(mask.contiguous().numpy(), form)

    def _form(self, indices: Tensor, tables: Tensor, weight: Tensor) -> Palettized:
        vector = self.config.cluster_dim > 1
        shape = list(weight.shape)
        shape[self.axis] //= self.config.cluster_dim
        moved = [shape[self.axis], *shape[: self.axis], *shape[self.axis + 1 :]]
        places = indices.reshape(moved).movedim(0, self.axis).contiguous().numpy()
        groups = [self.groups if axis == self.axis else 1 for axis in range(weight.ndim)]
        kind = np.float16 if weight.dtype == torch.float16 else np.float32
        lut = tables.numpy().astype(kind).reshape(*groups, *tables.shape[1:])
        return Palettized(places, lut, self.axis if vector else None)

    def step(self) -> None:
        if self.steps == self.config.milestone:
            self.enabled = True
        self.steps += 1

    def numbers(self) -> dict[str, float]:
        c = self.config
        kind = {"n_bits": c.n_bits, "cluster_dim": c.cluster_dim, "groups": self.groups}
        return {**kind, "steps": self.steps, "enabled": self.enabled, "started": self.started}

    def set_numbers(self, numbers: dict[str, float]) -> None:
        for key, own in list(self.numbers().items())[:3]:
            if numbers[key] != own:
                raise ConfigError(
                    f"the state of {self.name} is of another configuration: its {key} is {numbers[key]:.0f}, not {own}"
                )
        self.steps = int(numbers["steps"])
        self.enabled, self.started = bool(numbers["enabled"]), bool(numbers["started"])

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        # First the numbers: of tables of another shape PyTorch only says that.
        if f"{prefix}_extra_state" in state_dict:
            self.set_extra_state(state_dict[f"{prefix}_extra_state"])
        super()._load_from_state_dict(state_dict, prefix, *others)


def _axis(config: Any, rank: int, output_axis: int) -> int:
    """That of groups and vectors."""
    if config.cluster_permute is not None and len(config.cluster_permute) == rank:
        return int(config.cluster_permute[0])
    return min(1, rank - 1) if config.cluster_dtype == "oc_last" else output_axis


def _groups(config: Any, channels: int, size: int) -> int:
    group_size = config.group_size or channels
    if channels % group_size:
        raise ConfigError(f"groups of {group_size} don't divide its {channels} channels")
    if group_size % config.cluster_dim:
        raise ConfigError(f"vectors of {config.cluster_dim} don't divide a group of {group_size} channels")
    groups = channels // group_size
    if size // groups < 2**config.n_bits * config.cluster_dim:
        raise ConfigError(f"a group has {size // groups} elements, too few for {2**config.n_bits} clusters")
    return int(groups)


def _split(weight: Tensor, axis: int, groups: int, dim: int) -> Tensor:
    moved = weight.movedim(axis, 0)
    if dim == 1:
        return moved.reshape(groups, -1, 1)
    return moved.reshape(len(moved) // dim, dim, -1).movedim(1, -1).reshape(groups, -1, dim)


def _scale(weight: Tensor, axis: int, scheme: str) -> Tensor:
    others = [each for each in range(weight.ndim) if each != axis]
    if scheme == "abs":
        scale = weight.abs().amax(others, keepdim=True)
    else:
        scale = (weight.amax(others, keepdim=True) - weight.amin(others, keepdim=True)) / 2
    return scale.where(scale > 0, torch.ones_like(scale))


def __dir__() -> list[str]:
    return __all__
