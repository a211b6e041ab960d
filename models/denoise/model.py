"""StasModel: STAS denoising, on the signal subspace of a scene, blind to the noise level, or on bands as in the paper.

Domain "subspace" (the shipped models). Noise, whitening W and axes U of a scene are estimated once
(`signal/subspace.py`). Then, in each pixel, z = U^T W y has white noise of standard deviation 1 in every coefficient,
for any sensor and noise:

    z' = wiener(dct(z))         on the axes of the signal: `signal/dct_shrinkage.py`, then `signal/spectral_wiener.py`
         - t_k c_k              c = STAS(features) corrects the first K of them, and t_k (`trust`) is near 1 where
                                there is signal, 0 where there is noise alone
         + long waves           from means of 4x4 pixels (`dct_shrinkage.low_frequency_residual`)
    r' = g r                    the rest of the whitened pixel, outside the axes: noise, but for a spectrum that is rare
                                in the scene (`rare_share`)
    y' = W^-1 (U z' + r')       all of it: `subspace_denoiser.py`

Every correction is a multiple of the noise: it vanishes with the noise, and no signal is cut off. A low-noise scene
gets the conservative restorer (`low_noise.py`), a clean scene is returned bit for bit (`NoiseGate`).

Domain "bands": y' = scale * STAS(y / scale) in windows of as many bands as the network was built for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NotRequired, TypedDict, cast

import numpy as np
import torch

from hypermend.models.arrays import F32, F64
from hypermend.models.card import BadCard, ModelCard, setting
from hypermend.models.denoise import low_noise
from hypermend.models.denoise.stas import Genotype, Stas, fold
from hypermend.models.denoise.subspace_denoiser import CONTEXT_PX, SubspaceDenoiser
from hypermend.models.denoise.uncertainty import MORE, ErrorJson, ErrorSums, ErrorTable, bootstrap, mean_square, redone
from hypermend.models.restorer import (
    ArrayJson,
    Identity,
    Restorer,
    SceneStatistics,
    Window,
    array_from_json,
    array_to_json,
)
from hypermend.models.signal.masked_estimate import MaskedWindow, estimate_masked
from hypermend.models.signal.masked_fit import MaskedFit
from hypermend.models.signal.spectral_wiener import REACH_PX
from hypermend.models.signal.subspace import Subspace, SubspaceStatistics, moments, signal_axes, subspace

LEAST_HALO = max(low_noise.HALO, CONTEXT_PX + REACH_PX)
"""Pixels on each side that the estimates without the network depend on."""


@dataclass(frozen=True, kw_only=True)
class NoiseGate:
    """Thresholds that choose the restorer of a scene, by its noise as a share of its bright value."""

    of_scene: float
    """Noise of the median band above which the scene is restored in full."""
    of_noisiest: float
    """Noise of the second noisiest band (one alone may be broken) above which it is restored conservatively."""
    of_band: float
    """In a scene restored in full, a band below `of_scene` is restored if its noise is above this share of its RMS."""

    def noisy_bands(self, s: Subspace) -> list[bool]:
        """Return, for each band, whether it is restored in full. A band that does not vary never is."""
        live = s.noise_std > 0
        if not live.any() or np.median(s.noise_std[live]) <= self.of_scene * s.input_scale:
            return [False] * len(live)
        noisy = (s.noise_std > self.of_scene * s.input_scale) | (s.noise_std > self.of_band * s.rms)
        return [bool(b) for b in noisy & live]

    def low_noise_bands(self, s: Subspace) -> list[bool]:
        """Return, for each band, whether it is restored conservatively: all that vary, or none."""
        live = s.noise_std > 0
        noisy = live.sum() > 1 and np.sort(s.noise_std)[-2] > self.of_noisiest * s.input_scale
        return [bool(b) for b in noisy & live]


def network(config: Mapping[str, object]) -> Stas:
    """Build the network of a card's `config`: keys domain, genotype, channels, width, activate (and gate).

    Raises:
        BadCard: keys that are unknown or missing, or values that are out of range.
    """
    known = {"domain", "genotype", "channels", "width", "activate", "gate"}
    if set(config) - known or config.get("domain") not in ("subspace", "bands"):
        raise BadCard(
            f"stas config with keys {sorted(config)} and domain {config.get('domain')!r}: keys are {sorted(known)}, "
            "domain is 'subspace' or 'bands'"
        )
    if missing := known - {"gate"} - set(config):
        raise BadCard(f"stas config without {', '.join(sorted(missing))}")
    channels = setting(config, "channels")
    try:
        genotype = Genotype.from_dict(cast("Mapping[str, object]", config["genotype"]))
    except (ValueError, TypeError, KeyError, OverflowError) as e:
        raise BadCard(f"stas config with no genotype: {type(e).__name__}: {e}") from e
    return Stas(
        genotype,
        channels,
        width=None if config["width"] is None else setting(config, "width"),
        extra=3 * channels if config["domain"] == "subspace" else 0,
        activate=bool(config["activate"]),
    )


def _gate(config: Mapping[str, object]) -> NoiseGate:
    """The gate of a card's `config`.

    Raises:
        BadCard: none, or one with other keys or values than shares.
    """
    gate, names = config.get("gate"), {"of_scene", "of_noisiest", "of_band"}
    if (
        not isinstance(gate, Mapping)
        or set(gate) != names
        or not all(isinstance(v, int | float) for v in gate.values())
    ):
        raise BadCard(f"stas config with gate {repr(gate)[:80]}; it has {', '.join(sorted(names))}")
    return NoiseGate(**gate)


def _channels_last(net: Stas) -> Stas:
    """Lay out weights channels-last, for which CPU convolutions are 1.5x faster."""
    for p in net.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return net


class BandStatistics(TypedDict):
    """Scene statistics of domain "bands"."""

    kind: Literal["bands"]
    input_scale: float


class Untouched(TypedDict):
    """Scene statistics of a scene that is returned as it is."""

    kind: Literal["untouched"]
    reason: str
    input_scale: NotRequired[float]
    noise_level: NotRequired[float]
    bands_restored: NotRequired[int]
    bands: NotRequired[int]
    noise_std: NotRequired[ArrayJson]
    """Noise of each band, where it is known."""


NO_PIXEL: Untouched = {"kind": "untouched", "reason": "no valid pixel"}
NO_SUBSPACE: Untouched = {"kind": "untouched", "reason": "too few bands or pixels to tell noise from texture"}


class NoiseStatistics(SubspaceStatistics):
    """Scene statistics of domain "subspace"."""

    kind: Literal["subspace", "careful"]
    """"careful": for the conservative restorer."""
    noise_level: float
    """Noise of the median band, as a share of `input_scale`."""
    bands_restored: int
    bands: int
    restored: list[int]
    """For each band, 1 if it is restored and 0 if not."""
    errors: NotRequired[ErrorJson]
    band_errors: NotRequired[ArrayJson]
    """Of a scene restored in full, and of one restored conservatively, where uncertainty was asked for: see
    `uncertainty.py`."""


class StasModel:
    """Architecture `stas`."""

    scale = 1

    def __init__(self, card: ModelCard, state: Mapping[str, torch.Tensor]) -> None:
        """Build, load and fold the network.

        Raises:
            BadCard: an invalid config, or weights, a halo or a window that do not fit it.
        """
        self.card = card
        with torch.device("meta"):  # without memory: that of the network is that of its weights
            net = network(card.config)
        try:
            weights = {k: (v.float() if v.is_floating_point() else v).clone() for k, v in state.items()}
            net.load_state_dict(weights, assign=True)
        except RuntimeError as e:
            raise BadCard(f"model {card.name!r}: weights do not fit the config: {e}") from e
        self.net = _channels_last(fold(net)).requires_grad_(False)
        self.on_bands = card.config["domain"] == "bands"
        self.halo = net.halo if self.on_bands else max(net.halo + CONTEXT_PX, LEAST_HALO)
        if card.halo != self.halo:
            raise BadCard(f"model {card.name!r}: card says halo {card.halo}, its genotype reaches {self.halo}")
        if card.window_bands != (net.channels if self.on_bands else None):
            raise BadCard(f"model {card.name!r}: window_bands {card.window_bands} is not what the config takes")
        self.gate = None if self.on_bands else _gate(card.config)

    def estimate(self, windows: Iterable[Window]) -> BandStatistics | Untouched | NoiseStatistics:
        """Estimate the input scale; for domain "subspace" also noise, axes and the bands to restore."""
        m = moments(windows)
        if m is None:
            return NO_PIXEL
        if self.gate is None:
            return {"kind": "bands", "input_scale": m.bright}
        s = subspace(m)
        return NO_SUBSPACE if s is None else self._statistics(s, signal_axes(m, s), s.noise_std)

    @property
    def margin(self) -> int:
        """Pixels around a window of `estimate_errors`: the network's reach. What reaches farther takes less harm."""
        return self.net.halo

    @property
    def repairs(self) -> bool:
        """Whether defects of a scene can be repaired before it: in its subspace."""
        return not self.on_bands

    def estimate_masked(
        self, windows: Callable[[], Iterable[MaskedWindow]], *, defective: bool
    ) -> tuple[Untouched | NoiseStatistics, MaskedFit | None]:
        """Estimate from windows in which numbers are missing, or hit by spikes; and the fit that predicts these.

        The fit is None where there are none; the statistics are then those of `estimate`.

        Args:
            windows: gives a sample of the scene, the same in each call.
            defective: whether numbers may be missing elsewhere in the scene.
        """
        found = estimate_masked(windows, defective=defective)
        if found is None:
            return NO_PIXEL, None
        if found.space is None or found.signal is None:
            return NO_SUBSPACE, None
        fit = found.fit
        return self._statistics(found.space, found.signal, found.space.noise_std if fit is None else fit.noise), fit

    def _statistics(self, s: Subspace, signal: Subspace, noise_std: F64) -> Untouched | NoiseStatistics:
        """Choose the restorer of a scene, by the noise of each band (b,); its axes come with it."""
        assert self.gate is not None
        own = replace(s, noise_std=noise_std)
        full = self.gate.noisy_bands(own)
        restored = full if any(full) else self.gate.low_noise_bands(own)
        # Median over bands, as a share of the bright value: the figure that reports show.
        level = float(np.median(noise_std)) / s.input_scale if s.input_scale > 0 else 0.0
        if not any(restored):
            reason = "the scene's noise is below what the model was shown to improve"
            return {
                "kind": "untouched",
                "reason": reason,
                "input_scale": s.input_scale,
                "noise_level": level,
                "bands_restored": 0,
                "bands": len(restored),
                "noise_std": array_to_json(noise_std),
            }
        facts = {
            "kind": "subspace" if any(full) else "careful",
            "noise_level": level,
            "bands_restored": sum(restored),
            "bands": len(restored),
            "restored": [int(r) for r in restored],
            **(signal if any(full) else s).to_json(),
        }
        return cast(NoiseStatistics, facts)

    def estimate_errors(self, statistics: SceneStatistics, windows: Iterable[F32]) -> SceneStatistics:
        """The statistics, with what `with_std` of their restorer needs.

        Args:
            statistics: of domain "subspace".
            windows: some of the scene, physical values (b, m + h + m, m + w + m) without defects, m the `margin`.
        """
        scene = cast(Untouched | NoiseStatistics, statistics)
        if scene["kind"] == "untouched":
            return scene
        s, h = Subspace.from_json(scene), self.margin
        clean, noisy = bootstrap(windows, self.bind(scene), s.noise_std, h)
        m = moments((w, np.ones(w.shape[1:], bool)) for w in noisy)
        found = subspace(m) if m else None
        if m is None or found is None:
            return scene
        if scene["kind"] == "careful":
            careful = low_noise.ConservativeDenoiser(s, h)
            errors = (error for _, error in redone(careful, clean, noisy, s.noise_std, h))
            return {**statistics, "band_errors": array_to_json(MORE * mean_square(errors))}
        again = SubspaceDenoiser(self.net, signal_axes(m, found), [True] * len(s.noise_std), h)
        sums = ErrorSums(again.axes)
        for x, error in redone(again, clean, noisy, s.noise_std, h):
            sums.add(
                again.estimated(x)[..., h : -h or None, h : -h or None],
                torch.einsum("bj,nbhw->njhw", again.unit, error),
                error,
            )
        return {**statistics, "errors": sums.table().to_json()}

    def bind(self, statistics: SceneStatistics) -> Restorer:
        """Return the restorer of the scene; the identity for an untouched one."""
        scene = cast(BandStatistics | Untouched | NoiseStatistics, statistics)
        if scene["kind"] == "untouched":
            return Untouching(halo=self.halo, noise=scene.get("noise_std"))
        if scene["kind"] == "bands":
            return BandDenoiser(self.net, float(scene["input_scale"]))
        s = Subspace.from_json(scene)
        if scene["kind"] == "careful":
            share = array_from_json(scene["band_errors"]) if "band_errors" in scene else None
            return low_noise.ConservativeDenoiser(s, self.halo, share)
        errors = ErrorTable.from_json(scene["errors"]) if "errors" in scene else None
        return SubspaceDenoiser(self.net, s, [bool(r) for r in scene["restored"]], self.halo, errors)


@dataclass(frozen=True, kw_only=True)
class Untouching(Identity):
    """Returns a scene bit for bit; its error is its noise."""

    noise: ArrayJson | None = None
    """(bands,) None where it is not known."""

    def with_std(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x -> x, and the noise of each band, NaN where it is not known."""
        noise = np.full(x.shape[1], np.nan, np.float32) if self.noise is None else array_from_json(self.noise)
        return x, torch.from_numpy(noise).to(x.device)[:, None, None].expand_as(x)


class BandDenoiser:
    """Domain "bands", bound to a scene."""

    scale = 1

    def __init__(self, net: Stas, input_scale: float) -> None:
        self.net, self.halo = net, net.halo
        self.input_scale = input_scale if input_scale > 0 else 1.0

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, window_bands, H, W) -> the same shape."""
        x = (x / self.input_scale).contiguous(memory_format=torch.channels_last)
        y: torch.Tensor = self.net.to(x.device)(x) * self.input_scale
        return y.contiguous()
