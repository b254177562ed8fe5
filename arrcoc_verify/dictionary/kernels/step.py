"""One optimisation step of a TopK or BatchTopK autoencoder under squared error.

The loss is the squared error of a sample, averaged over the batch. Encoder, bias, decoder and
`b_dec` get their exact gradients (of the selection as it fell), the decoder's without what points
along its rows, then a step of Adam; decoder rows have norm 1 afterwards.
"""

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.optim.adam import adam

from arrcoc_verify.dictionary.kernels.backward import Term, backward, decode, project_, unit_norm_
from arrcoc_verify.dictionary.kernels.primitives import bag_sum, triton_kernels
from arrcoc_verify.dictionary.kernels.selection import Select, encode_select

TRAINED = ("w_enc", "b_enc", "w_dec", "b_dec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Settings of Adam (Kingma and Ba 2015)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


class SparseStep:
    """Trains one dictionary in place.

    Attributes:
        state: the parameters `w_enc [latent, channel]`, `b_enc [latent]`, `w_dec [latent,
            channel]` and `b_dec [channel]`, float32, with `mean_` and `square_` of each for Adam,
            `half_` of the matrices in the type that kernels read, and `steps` taken.
        rate: learning rate, a tensor of one number; to be filled between steps.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        k: float,
        *,
        how: Select | None = None,
        settings: Adam | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Start from parameters, which are changed in place.

        Args:
            parameters: `w_enc`, `b_enc`, `w_dec` and `b_dec`.
            k: active latents of a sample.
            how: how they are selected.
            settings: of Adam.
            dtype: of what matrix products and gathers read on CUDA. Parameters, moments and sums
                stay float32. On the CPU everything is float32 (see `Select.proposals`).
        """
        self.k, self.how, self.settings = k, how or Select(), settings or Adam()
        self.state = {name: parameters[name].detach() for name in TRAINED}
        for name in TRAINED:
            for moment in ("mean_", "square_"):
                self.state[moment + name] = torch.zeros_like(self.state[name])
        device = self.state["w_enc"].device
        self.state["steps"] = torch.zeros((), device=device)
        self.rate = torch.tensor(1e-3, device=device)
        self.kernels = fused_kernels(self.state["w_enc"])
        if self.kernels:
            for name in ("w_enc", "b_enc", "w_dec"):
                self.state["half_" + name] = self.state[name].to(dtype)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Take a step and return each sample's squared error before it, `[sample]`.

        Args:
            x: activations, `[sample, channel]`, float32.
        """
        return self._plain(x) if self.kernels is None else self._fused(x, self.kernels)

    def _plain(self, x: Tensor) -> Tensor:
        s = self.state
        read = x - s["b_dec"]
        codes = encode_select(read, s["w_enc"], s["b_enc"], self.k, how=self.how)
        error = decode(codes, s["w_dec"], s["b_dec"]).sub_(x)
        loss: Tensor = torch.linalg.vector_norm(error, dim=1).square_()
        term = Term(codes=codes, grad=error.mul_(2 / x.shape[0]))
        found = backward([term], read, s["w_enc"], s["w_dec"])
        project_(found.w_dec, s["w_dec"], found.along)
        s["steps"] += 1
        self._adam(TRAINED, [getattr(found, name) for name in TRAINED])
        unit_norm_(s["w_dec"])
        return loss

    def _adam(self, names: tuple[str, ...], grads: list[Tensor]) -> None:
        s, settings = self.state, self.settings
        steps = [s["steps"] - 1 for _ in names]  # counted on by the optimiser itself
        adam(
            [s[name] for name in names], grads, [s["mean_" + name] for name in names],
            [s["square_" + name] for name in names], [], steps, fused=True, amsgrad=False,
            beta1=settings.beta1, beta2=settings.beta2, lr=self._rate(), weight_decay=0.0,
            eps=settings.epsilon, maximize=False,
        )  # fmt: skip

    def _rate(self) -> float | Tensor:
        return self.rate if self.rate.is_cuda else float(self.rate)

    def _fused(self, x: Tensor, kernels: ModuleType) -> Tensor:
        s, settings = self.state, self.settings
        read = kernels.centre(x, s["b_dec"], s["half_w_enc"].dtype)
        codes = encode_select(read, s["half_w_enc"], s["half_b_enc"], self.k, how=self.how)
        grad, pulls, loss = kernels.decode_pull(
            x, codes, s["half_w_dec"], s["b_dec"], 2 / x.shape[0]
        )
        order, rows, offsets = kernels.by_latent(codes)
        ones = x.new_ones(x.shape[0], 1)
        to_b_enc = bag_sum(pulls[order], rows, offsets, ones).flatten()
        to_b_dec = grad.sum(0, dtype=torch.float32) - to_b_enc @ s["w_enc"]
        s["steps"] += 1
        first, second = (1 - beta ** s["steps"] for beta in (settings.beta1, settings.beta2))
        schedule = torch.stack([self.rate / first, second.rsqrt()])
        betas = (settings.beta1, settings.beta2, settings.epsilon)
        kernels.update(codes, (order, rows, offsets), (grad, pulls, read), s, schedule, betas)
        self._adam(("b_enc", "b_dec"), [to_b_enc, to_b_dec])
        s["half_b_enc"].copy_(s["b_enc"])
        result: Tensor = loss
        return result


def fused_kernels(where: Tensor) -> ModuleType | None:
    """Return the kernels of the fused step where they can run, else None."""
    if triton_kernels(where) is None:
        return None
    from arrcoc_verify.dictionary.kernels import triton_step

    return triton_step


class Graphed:
    """A step recorded as a CUDA graph: one launch instead of some thirty.

    Pays where the kernels are shorter than their launches. The batch's shape is fixed, selection is
    by row, and the rate is read from `step.rate` at each replay.
    """

    def __init__(self, step: SparseStep, x: Tensor) -> None:
        """Record a step; parameters and moments are as before afterwards.

        Args:
            step: whose selection is by row.
            x: a batch of the shape that all will have.

        Raises:
            ValueError: selection by batch waits for the device and cannot be recorded.
        """
        if step.how.scope != "row":
            raise ValueError("only selection by row can be recorded as a graph")
        self.x = x.clone()
        before = {name: value.clone() for name, value in step.state.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(
            side
        ):  # compiles and fills the allocator before anything is recorded
            for _ in range(3):
                step(self.x)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = step(self.x)
        for name, value in before.items():
            step.state[name].copy_(value)

    def __call__(self, x: Tensor) -> Tensor:
        """Take a step; the returned losses are overwritten by the next one."""
        self.x.copy_(x)
        self.graph.replay()
        return self.loss
