"""A variational autoencoder that still draws what it learned in earlier tasks: a hypernetwork makes its decoders.

von Oswald et al., "Continual learning with hypernetworks", ICLR 2020 (arXiv 1906.00695), section 2.3 and appendix B:
each task has decoder weights of its own, made by a chunked hypernetwork with its output regulariser; the encoder, which
replays do not need, is an ordinary network that goes on to learn. The loss is that of Kingma and Welling, ICLR 2014
(arXiv 1312.6114), divided by the number of pixels, as in the authors' code. Defaults are theirs for Split MNIST.

Departures: the authors' encoder starts Xavier-uniform, this one as torch's layers do. Their decoder also takes its
task's number, one-hot in 100 units. With weights of its own for every task that is a second bias of its first layer,
and no task after the hundredth could be numbered, so it is left out. The generator of the last task is learned like any
other, since nobody knows that it is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.learning.fused import FusedOptimizer
from raycl.learning.protected_generator import GeneratorActivation, GeneratorOptions, ProtectedGenerator, StartAndDraws
from raycl.memory.buffer import Table
from raycl.models.network import initialize
from raycl.models.vae import Encoder, GeneratedDecoder, Layers, evidence_loss
from raycl.spec.options import Count, Later, Width, Widths

Hidden = Annotated[Widths, Field(min_length=1)]


class ProtectedVAEOptions(GeneratorOptions):
    """The autoencoder, and the hypernetwork that makes its decoders."""

    chunk_size: Count = Field(50_000, description="weights per chunk, at most those of a decoder")
    activation: GeneratorActivation = "elu"
    latent_dim: Width = Field(100, description="length of the latent vectors from which images are drawn")
    encoder_hidden: Hidden = Field((400, 400), description="units per layer of the encoder")
    decoder_hidden: Hidden = Field((250, 350), description="units per layer of a decoder, from the latent vector on")
    replays: Annotated[Literal["drawn", "stored"], Later()] = Field(
        "drawn",
        description="old images that are rehearsed: drawn by the generators, or the real ones, all of them stored, as "
        "perfect generators would draw them (the authors' upper bound)",
    )


class ProtectedVAE:
    """An encoder, a decoder per task, and replays of all old ones at once.

    Args:
        random: draws initial values and embeddings; draws noise, latent vectors, and stored images.

    Attributes:
        stored: whether real images stand in place of drawn ones; then nothing is generated.
        origins: int64 ``[replays]``, the old task that draws each row of :meth:`replay`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        options: ProtectedVAEOptions,
        random: StartAndDraws,
        device: torch.device,
    ) -> None:
        self.stored = options.replays == "stored"
        self._images: list[Tensor] = []  # of each old task, where they are stored
        self._latent_dim = options.latent_dim
        start, self._random = random
        self._device = device
        encoder = Encoder(image_shape, options.encoder_hidden, options.latent_dim)
        initialize(encoder, start)
        self.encoder = encoder.to(device)
        self.decoder = GeneratedDecoder(image_shape, options.decoder_hidden, options.latent_dim)
        self.protected = ProtectedGenerator(self.decoder.sizes, self.decoder.variances, options, random, device)
        self._pixels = math.prod(image_shape)
        self._old: Layers = ()  # of all old decoders side by side, while a task is learned
        self.origins = torch.empty(0, dtype=torch.int64, device=device)

    # -- the task ----------------------------------------------------------------------------------------------

    def grow(self) -> None:
        """Add the next task's decoder."""
        self.protected.grow()

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """What the current task trains, by optimiser."""
        own = {f"decoder_{name}": parameters for name, parameters in self.protected.parameters().items()}
        return {**own, "encoder": list(self.encoder.parameters())}

    def begin(self, replays: int) -> None:
        """Hold the old tasks' decoders where they are, and make them once for all replays of the task.

        Args:
            replays: wanted in every update, at the least; each old task draws an equal number.
        """
        old = len(self.protected.embeddings) - 1
        self.protected.protect([()] * old)
        if old:
            self._old = () if self.stored else self.decoder.layers(self.protected.weights(range(old)))
            self.origins = torch.arange(old, device=self._device).repeat_interleave(math.ceil(replays / old))

    def end(self, table: Callable[[], Table]) -> None:
        """Let go of what was made for the task.

        Args:
            table: reads all rows of the task.
        """
        self.protected.release()
        self._old = ()
        if self.stored:
            self._images.append(table()["image"].clone())

    # -- learning and drawing ----------------------------------------------------------------------------------

    def backward(self, loss: Tensor, optimizer: FusedOptimizer, clip: float) -> dict[str, Tensor]:
        """Set the gradients of everything in :meth:`parameters`.

        Args:
            loss: of images of the current task, by :meth:`loss`.
            optimizer: that of ``decoder_theta``.
            clip: largest norm of its gradient; 0 clips nothing.

        Returns:
            Named losses.
        """
        losses = {"generator": loss}
        others = list(self.encoder.parameters())
        regulariser = self.protected.backward(losses["generator"], optimizer, clip, others)
        return losses if regulariser is None else {**losses, "regulariser": regulariser}

    def loss(self, x: Tensor) -> Tensor:
        """Mean negative evidence lower bound ``[]`` per pixel, with the current task's decoder."""
        layers = self.decoder.layers(self.protected.current()[None])  # a single set

        def decode(z: Tensor) -> Tensor:
            logits: Tensor = self.decoder(layers, z[None])[0]
            return logits

        each = evidence_loss(self.encoder, decode, x, self._noise(len(x)))
        return each.mean() / self._pixels

    @torch.no_grad()
    def replay(self) -> Tensor:
        """Images of old tasks ``[replays, channels, height, width]``, pixels in [0, 1]: the means that old decoders
        draw, or stored ones at random."""
        if self.stored:
            return self._chosen()
        weight, _ = self._old[0]  # [old tasks, inputs, outputs] of the first layer
        z = self._noise(len(self.origins)).view(len(weight), -1, self._latent_dim)  # every old task draws as many
        drawn: Tensor = self.decoder(self._old, z)
        return drawn.flatten(0, 1).sigmoid()

    def _chosen(self) -> Tensor:
        """Of every old task as many stored images."""
        count = len(self.origins) // len(self._images)
        chosen = [own[torch.randint(len(own), (count,), generator=self._random)] for own in self._images]
        return torch.cat(chosen).to(self._device).float() * (1 / 255)

    def _noise(self, rows: int) -> Tensor:
        noise = torch.randn(rows, self._latent_dim, generator=self._random)
        return noise.to(self._device, non_blocking=True)

    # -- size and state ----------------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        """Numbers in the encoder, the hypernetwork and all embeddings."""
        return self.protected.parameter_count() + sum(parameter.numel() for parameter in self.encoder.parameters())

    def state_dict(self) -> dict[str, Any]:
        kept = {"images": list(self._images)} if self.stored else {}
        return {**self.protected.state_dict(), "encoder": self.encoder.state_dict(), **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.protected.load_state_dict(state)
        self.encoder.load_state_dict(state["encoder"])
        self._images = list(state.get("images", ()))
