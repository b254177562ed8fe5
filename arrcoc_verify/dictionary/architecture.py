"""Dictionaries: sparse codes of activations, with the query as an offset of the thresholds.

Six ways to be sparse over one set of parameters:

    standard    ReLU, L1 penalty                      Bricken et al. 2023
    gated       gate and magnitude apart              Rajamanoharan et al., arXiv 2404.16014
    topk        the k largest of each sample          Gao et al., arXiv 2406.04093
    batchtopk   the k x samples largest of a batch    Bussmann et al., arXiv 2412.06410
    jumprelu    a learned threshold for each latent   Rajamanoharan et al., arXiv 2407.14435
    matryoshka  batchtopk whose prefixes reconstruct  Bussmann et al., arXiv 2503.17547

A *query-conditional* dictionary adds `query @ W_query` to what is compared with the threshold. When
the activation does not depend on the query once its features are known, Bayes puts the query into
an additive term of each feature's log odds and nowhere else, so the decoder never sees it. Where
directions themselves turn with the query, `turns` gives encoder and decoder a low-rank part.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arrcoc_verify.errors import ShapeMismatch, UnknownName, UsageError

Architecture = Literal["standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
BATCHWISE = ("batchtopk", "matryoshka")
"""Select over a batch while they train and by a threshold afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryConfig:
    """What a dictionary is, without its weights.

    Attributes:
        architecture: one of `ARCHITECTURES`.
        d_in: channels that are encoded.
        latents: size of the dictionary.
        k: active latents of a sample; what topk keeps, a target for the others. May be fractional
            except for topk.
        d_out: channels that are decoded, of a transcoder; None for an autoencoder.
        skip: a transcoder with a linear path beside its latents.
        query: channels of the query; 0 for an unconditional dictionary.
        turns: rank of the query-dependent part of the directions; 0 for none.
        prefixes: sizes of the nested dictionaries of matryoshka; the last is `latents`.
        blocks: channels of each stage of a crosscoder, whose input is the stages side by side.
    """

    architecture: Architecture = "batchtopk"
    d_in: int
    latents: int
    k: float = 32.0
    d_out: int | None = None
    skip: bool = False
    query: int = 0
    turns: int = 0
    prefixes: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be built; fill in the prefixes of matryoshka."""
        if self.architecture not in ARCHITECTURES:
            raise UnknownName("architecture", self.architecture, ARCHITECTURES)
        if self.architecture == "matryoshka" and not self.prefixes:
            object.__setattr__(self, "prefixes", default_prefixes(self.latents))
        for wrong, why in self._wrong():
            if wrong:
                raise UsageError(why)

    def _wrong(self) -> tuple[tuple[bool, str], ...]:
        latents, k, sizes = self.latents, self.k, self.prefixes
        short = min(self.d_in, latents, self.d_out or 1) < 1 or min(self.query, self.turns) < 0
        rising = sizes == tuple(sorted(set(sizes))) and (sizes or (latents,))[-1] == latents
        blocks = sum(self.blocks or (self.d_in,)) == self.d_in and not (self.blocks and self.d_out)
        return (
            (short, "d_in, d_out and latents must be at least 1, query and turns at least 0, "
                    f"got {self}"),
            (not 0 < k <= latents, f"k must lie in (0, {latents}], the latents, got {k}"),
            (self.architecture == "topk" and k != int(k),
             f"topk keeps a whole number of latents, got k={k}; use batchtopk"),
            (self.skip and self.d_out is None,
             "only a transcoder has a skip path: give d_out, or leave skip out"),
            (bool(self.turns and not self.query),
             "directions turn with a query: give its channels, or leave turns out"),
            (not blocks, f"the blocks {self.blocks} must add up to d_in={self.d_in}"),
            (not rising, f"prefixes must rise up to the {latents} latents, got {sizes}"),
        )  # fmt: skip

    @property
    def transcoder(self) -> bool:
        """Whether it predicts one site from another; then its input is not centred."""
        return self.d_out is not None

    @property
    def outputs(self) -> int:
        """Channels that are decoded."""
        return self.d_in if self.d_out is None else self.d_out

    def plain(self) -> dict[str, Any]:
        """Return the configuration as JSON data."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def default_prefixes(latents: int) -> tuple[int, ...]:
    """Return nested sizes: a 32nd, 16th, 8th, 4th, half and all of the latents."""
    return tuple(sorted({max(1, latents // part) for part in (32, 16, 8, 4, 2, 1)}))


class Dictionary(nn.Module):
    """Encoder, selection and decoder.

    Row i of `W_enc` is what latent i reads, row i of `W_dec` what it writes; rows of `W_dec` have
    norm 1, so a code is in the unit of the activations.

    Attributes:
        config: what it is.
        W_enc: `[latent, d_in]`.
        b_enc: `[latent]`; of gated the gate's bias; absent from dictionaries that turn, where a
            positive bias would let the query in without any image.
        W_dec: `[latent, d_out]`.
        b_dec: `[d_out]`; an autoencoder's input is centred by it.
        threshold: jumprelu: `[latent]`, trained, in float32; batchtopk and matryoshka: one number,
            compared with a code times its weight (see `weights`); else 0.
        b_mag, r_mag: gated only: bias and log scale of the magnitude, `[latent]`.
        W_query: conditional only: `[query, latent]`.
        W_skip: skip transcoder only: `[d_out, d_in]`.
        turn_query, enc_turn, dec_turn: with turns only: `[query, turn]`, `[turn, latent, d_in]` and
            `[turn, latent, d_out]`.
    """

    threshold: Tensor

    def __init__(self, config: DictionaryConfig, *, seed: int = 0) -> None:
        """Draw unit directions; `initial.start` fits them to data before training."""
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        c, latents = config, config.latents

        def drawn(*shape: int) -> Tensor:
            rows: Tensor = torch.randn(*shape, generator=generator)
            return rows.div_(rows.norm(dim=-1, keepdim=True))

        self.W_dec = nn.Parameter(drawn(latents, c.outputs))
        tied = self.W_dec.detach().clone()
        self.W_enc = nn.Parameter(drawn(latents, c.d_in) if c.transcoder else tied)
        self.b_enc = nn.Parameter(torch.zeros(latents), requires_grad=not c.turns)
        self.b_dec = nn.Parameter(torch.zeros(c.outputs))
        if c.architecture == "jumprelu":
            self.threshold = nn.Parameter(torch.zeros(latents))
        else:
            self.register_buffer("threshold", torch.zeros(()))
        if c.architecture == "gated":
            self.b_mag = nn.Parameter(torch.zeros(latents))
            self.r_mag = nn.Parameter(torch.zeros(latents))
        if c.query:
            self.W_query = nn.Parameter(torch.zeros(c.query, latents))
        if c.skip:
            self.W_skip = nn.Parameter(torch.zeros(c.outputs, c.d_in))
        if c.turns:
            self.turn_query = nn.Parameter(drawn(c.turns, c.query).T.contiguous())
            self.enc_turn = nn.Parameter(torch.zeros(c.turns, latents, c.d_in))
            self.dec_turn = nn.Parameter(
                torch.randn(c.turns, latents, c.outputs, generator=generator) * 0.01
            )

    # Encoding

    def centred(self, x: Float[Tensor, "*lead d_in"]) -> Float[Tensor, "*lead d_in"]:
        """Return what the encoder reads: the input less `b_dec`, a transcoder's as it is."""
        if x.shape[-1] != self.config.d_in:
            raise ShapeMismatch(
                f"the dictionary encodes {self.config.d_in} channels, got shape {tuple(x.shape)}"
            )
        centred: Tensor = x if self.config.transcoder else x - self.b_dec
        return centred

    def evidence(
        self, x: Float[Tensor, "*lead d_in"], query: Tensor | None = None
    ) -> Float[Tensor, "*lead latent"]:
        """Return what the activation alone says of each latent, before the query moves anything."""
        centred = self.centred(x)
        found: Tensor = centred @ self.W_enc.T + self.b_enc
        if self.config.turns:
            turn = self.turned(query, x.ndim)
            for at in range(self.config.turns):
                found = found + turn[..., at, None] * (centred @ self.enc_turn[at].T)
        return found

    def shift(self, query: Tensor | None, ndim: int) -> Tensor | float:
        """Return what the query adds, `[..., latent]`, or 0 of an unconditional dictionary.

        Args:
            query: `[image, query]`, or with the same leading axes as the activation.
            ndim: axes of the activation; missing ones are put in before the last.

        Raises:
            UsageError: a conditional dictionary got no query.
        """
        if not self.config.query:
            return 0.0
        return _widened(self._query(query) @ self.W_query, ndim)

    def turned(self, query: Tensor | None, ndim: int) -> Tensor:
        """Return the coordinates along which directions turn, `[..., turn]`."""
        return _widened(self._query(query) @ self.turn_query, ndim)

    def _query(self, query: Tensor | None) -> Tensor:
        if query is None or query.shape[-1] != self.config.query:
            got = "none" if query is None else f"shape {tuple(query.shape)}"
            raise UsageError(
                f"this dictionary wants a query of {self.config.query} channels, got {got}"
            )
        return query

    def weights(self) -> Tensor | float:
        """Return what a code counts for when latents compete, `[latent]`.

        1, as decoder rows have norm 1; of a crosscoder the sum over stages of the rows' norms
        (Lindsey et al. 2024; Minder et al., arXiv 2504.02922).
        """
        if not self.config.blocks:
            return 1.0
        parts = self.W_dec.split(self.config.blocks, dim=1)
        return torch.stack([part.norm(dim=1) for part in parts]).sum(0)

    def encode(
        self, x: Float[Tensor, "*lead d_in"], query: Tensor | None = None
    ) -> Float[Tensor, "*lead latent"]:
        """Return the codes, each sample by itself: what is used once training is over.

        Args:
            x: activations.
            query: `[image, query]` or with the leading axes of `x`; of a conditional dictionary.
        """
        evidence, shift = self.evidence(x, query), self.shift(query, x.ndim)
        kind = self.config.architecture
        if kind == "gated":
            return self.magnitude(evidence) * (evidence + shift > 0)
        if kind == "jumprelu":
            return evidence.relu() * (evidence + shift > self.threshold)
        codes = (evidence + shift).relu()
        if kind == "topk":
            return keep_topk(codes, int(self.config.k), self.weights())
        if kind in BATCHWISE:
            return codes * (codes * self.weights() > self.threshold)
        return codes

    def magnitude(self, evidence: Tensor) -> Tensor:
        """Return gated's magnitudes from its gate's evidence (one matrix serves both)."""
        return (self.r_mag.exp() * (evidence - self.b_enc) + self.b_mag).relu()

    # Decoding

    def decode(
        self,
        codes: Float[Tensor, "*lead latent"],
        *,
        query: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Float[Tensor, "*lead d_out"]:
        """Return what the codes stand for.

        Args:
            codes: of `encode`.
            query: only where directions turn with it.
            x: the input, of a skip transcoder.
        """
        decoded = codes @ self.W_dec + self.b_dec
        if self.config.turns:
            turn = self.turned(query, codes.ndim)
            for at in range(self.config.turns):
                decoded = decoded + turn[..., at, None] * (codes @ self.dec_turn[at])
        if self.config.skip:
            if x is None:
                raise UsageError("a skip transcoder decodes with its input: give x")
            decoded = decoded + x @ self.W_skip.T
        return decoded

    def forward(
        self, x: Float[Tensor, "*lead d_in"], query: Tensor | None = None
    ) -> Float[Tensor, "*lead d_out"]:
        """Return the reconstruction (of a transcoder: the prediction)."""
        return self.decode(self.encode(x, query), query=query, x=x)

    # Keeping in shape

    @torch.no_grad()
    def normalise_(self) -> None:
        """Give decoder rows norm 1, and take from the turning parts what only scales a row."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12))
        if self.config.turns:
            along = (self.dec_turn * self.W_dec).sum(-1, keepdim=True)
            self.dec_turn.sub_(along * self.W_dec)

    @torch.no_grad()
    def rescale_(self, inputs: float, outputs: float | None = None) -> None:
        """Make a dictionary of `inputs * x` one of `x`; exact but for rounding.

        Everything is positively homogeneous, so only biases and thresholds change, and the encoder
        where input and output have different scales.

        Args:
            inputs: what the activations were multiplied by when it was trained.
            outputs: the same of a transcoder's targets; default as the inputs.
        """
        out = inputs if outputs is None else outputs
        ratio = inputs / out
        if self.config.skip:
            self.W_skip.mul_(ratio)
        for name, parameter in [*self.named_parameters(), *self.named_buffers()]:
            if name in ("W_enc", "enc_turn"):
                parameter.mul_(ratio)
            elif name in ("b_enc", "b_mag", "threshold", "W_query", "b_dec"):
                parameter.div_(out)

    def parameter_count(self) -> int:
        """Return the number of trained numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def latent_parameters(self) -> int:
        """Return the trained numbers of one latent, to count those that are alive."""
        return sum(
            p.numel() // self.config.latents
            for name, p in self.named_parameters()
            if p.requires_grad and name not in ("b_dec", "W_skip", "turn_query")
        )


def keep_topk(codes: Tensor, k: int, weights: Tensor | float = 1.0) -> Tensor:
    """Return the codes with all but the `k` largest of each sample set to 0."""
    place = (codes * weights).topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(codes).scatter(-1, place, codes.gather(-1, place))


def keep_batch_topk(
    codes: Tensor, k: float, weights: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the codes with all but the `k` x samples largest set to 0, and the least one kept.

    Args:
        codes: not negative; every axis but the last counts samples.
        k: active latents of a sample on average, may be fractional.
        weights: what a code counts for, `[latent]`.

    Returns:
        Codes, and the smallest weighted code that was kept (infinity when none is above 0).
    """
    weighted = codes.detach() * weights
    samples = math.prod(codes.shape[:-1])
    keep = min(round(k * samples), weighted.numel())
    values, place = weighted.flatten().topk(keep, sorted=False)
    kept = torch.zeros(weighted.numel(), dtype=torch.bool, device=codes.device)
    kept[place] = values > 0
    least = values.where(values > 0, torch.inf).min()
    return codes * kept.view_as(codes), least


def _widened(value: Tensor, ndim: int) -> Tensor:
    while value.ndim < ndim:
        value = value.unsqueeze(-2)
    return value
